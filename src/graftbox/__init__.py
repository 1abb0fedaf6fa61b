"""Turns any Linux container image into a sandbox for AI agents by adding one folder."""

__version__ = "0.1.0"
