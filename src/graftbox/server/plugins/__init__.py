"""Plugins: programs beside the server, each started, watched and restarted on its own (docs/plugins.md)."""
