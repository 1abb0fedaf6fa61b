"""Kernels: processes that run cells of Python, on the bundle's own interpreter or the base image's."""
