"""Runs sandboxes: engines that start them, a client that talks to the server inside."""
