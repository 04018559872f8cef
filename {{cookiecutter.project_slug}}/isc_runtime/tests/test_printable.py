"""What a stranger named is printed so that a terminal obeys nothing of it."""

from __future__ import annotations

import pytest

from isc_runtime.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("checkpoint_1.pth, ünï 漢字 🦊", "checkpoint_1.pth, ünï 漢字 🦊"),
        ("\x1b[2Jred\n", "\\x1b[2Jred\\n"),
        ("a\u202eb", "a\\u202eb"),
        ("\udc80", "\\udc80"),
    ],
)
def test_what_cannot_be_seen_or_reorders_a_line_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
