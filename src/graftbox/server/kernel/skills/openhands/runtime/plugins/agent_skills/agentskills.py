"""The agent's skills under the name by which OpenHands' clients import them into the kernel."""

from graftbox.server.kernel.guest.editing import file_editor
from graftbox.server.kernel.guest.reading import parse_docx, parse_latex, parse_pdf, parse_pptx
from graftbox.server.kernel.guest.window import (
    find_file,
    goto_line,
    open_file,
    scroll_down,
    scroll_up,
    search_dir,
    search_file,
)

__all__ = [
    "file_editor",
    "find_file",
    "goto_line",
    "open_file",
    "parse_docx",
    "parse_latex",
    "parse_pdf",
    "parse_pptx",
    "scroll_down",
    "scroll_up",
    "search_dir",
    "search_file",
]
