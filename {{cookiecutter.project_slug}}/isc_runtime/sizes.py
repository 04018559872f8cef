"""Sizes in words."""

from __future__ import annotations


def readable_size(size: float) -> str:
    """A number of bytes for people: three digits, in units of a thousand."""
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.5:
            return f"{size:.3g} {unit}"
    return f"{size:.0f} GB"
