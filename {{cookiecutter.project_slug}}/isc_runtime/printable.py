"""Text that is only printed: nothing in it is obeyed by a terminal, and no list has no end."""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """A text with an escape (`\\x1b`) for each character that cannot be seen, or that reorders a line."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Names, in the order given, and how many more there are than are said."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
