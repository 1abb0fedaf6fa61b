"""Programs that run in the kernel's process, not in the server's."""
