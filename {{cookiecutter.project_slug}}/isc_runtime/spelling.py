"""What somebody meant who has misspelled a name."""

from __future__ import annotations

from collections.abc import Iterable


def meant(word: str, known: Iterable[str], cutoff: float = 0.75) -> str:
    """The known name that is closest to a word; "" if none is close.

    Args:
        word: what was written.
        known: the names that there are.
        cutoff: how alike they must be at least: 1 is the same, 0 anything.
    """
    import difflib  # few names are misspelled, and everything waits for imports

    return next(iter(difflib.get_close_matches(word, list(known), 1, cutoff)), "")
