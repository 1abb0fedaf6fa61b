"""The sandbox's browser: a headless Chromium, started with its first use, and what drives it."""
