"""A plugin that is only code for the kernel; its manifest is made when it is started."""

from __future__ import annotations

CODE = """
def chime():
    import time
    return f"It is {time.strftime('%H')} o'clock."
"""


def manifest() -> dict[str, object]:
    return {"name": "chimes", "summary": "chime() in the kernel", "kernel": CODE}
