"""The id of a run, kept beside its curves: one over all resumes, another for a training that begins anew."""

from __future__ import annotations

from pathlib import Path


def read_id(file: Path) -> str | None:
    """The id in a file; None if there is none."""
    try:
        return file.read_text(encoding="utf-8").strip() or None
    except (OSError, ValueError):
        return None


def write_id(file: Path, run_id: str) -> None:
    """Replaces the file as a whole. Raises OSError."""
    unfinished = file.with_name(f"{file.name}.tmp")
    unfinished.write_text(f"{run_id}\n", encoding="utf-8")
    unfinished.replace(file)
