"""The terminal: records' texts are shown as letters, never obeyed as markup, emoji or escape codes."""

from typing import Any

from rich.console import Console
from rich.text import Text

from segmeter.plain import plain


class Screen(Console):
    """A console on which a table's title, headings and cells are plain text.

    A cell that is meant to have several lines or a style is a :class:`rich.text.Text`, made of text that its
    writer made plain. A notebook gets the text as a terminal does, where rich would show it beside.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"force_jupyter": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Text as rich draws it; without markup and emoji, whatever the caller asks for."""
        return super().render_str(plain(text), **{**options, "markup": False, "emoji": False})
