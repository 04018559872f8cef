"""Text that is only printed: nothing in it is obeyed by a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text with an escape (`\\x1b`) for each character that cannot be seen, or that reorders a line."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
