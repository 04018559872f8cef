"""What a README tells people to type."""

from __future__ import annotations

import re
from pathlib import Path


def commands(readme: Path) -> list[str]:
    """The lines of all `bash` blocks."""
    blocks = re.findall(r"^ *```bash\n(.*?)^ *```", readme.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def in_words_of(readme: Path, begins: str, address: str) -> str:
    """The line of a README's `text` blocks that begins so, with an address here for the one on GitHub."""
    (line,) = set(re.findall(rf"^{re.escape(begins)}.*", readme.read_text(), flags=re.MULTILINE))
    return str(line).replace("https://github.com/<org>/isc-template", address)


def gigabytes(folder: Path) -> float:
    """What all that lies in a folder takes of a disk."""
    files = {(found.st_dev, found.st_ino): found for found in (path.lstat() for path in folder.rglob("*"))}
    return sum(512 * found.st_blocks for found in files.values()) / 1e9


def stated(readme: Path, words: str) -> float:
    """The number that these words of a README give; they are a regular expression with one group."""
    (number,) = set(re.findall(words, readme.read_text()))
    return float(number)
