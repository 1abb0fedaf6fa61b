"""The time of the sandbox."""
