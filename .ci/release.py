"""What a release is called and what its notes say, for .github/workflows/release.yml.

python .ci/release.py version     the number in cookiecutter.json, if CHANGELOG.md has notes of it
python .ci/release.py notes       those notes
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def version(root: Path) -> str:
    """The version that `root` is about to release.

    Raises:
        SystemExit: the changelog does not have it, or has something that is not in it.
    """
    number: str = json.loads((root / "cookiecutter.json").read_text(encoding="utf-8"))["_template_version"]
    headings = re.findall(
        r"^## \[?([^]\n]+)\]?(.*)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.M
    )
    if not headings or headings[0][0] != number or not re.fullmatch(r" - \d{4}-\d\d-\d\d", headings[0][1]):
        cure = f"Write: ## [{number}] - YYYY-MM-DD"
        sys.exit(f"CHANGELOG.md: The first heading is not that of {number}. {cure}")
    return number


def notes(root: Path) -> str:
    """What the changelog says of that version."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    return text.partition(f"## [{version(root)}]")[2].partition("\n")[2].partition("\n## [")[0].strip()


def main(root: Path, words: list[str]) -> None:
    """Prints one of the two."""
    answers = {"version": version, "notes": notes}
    if len(words) != 1 or words[0] not in answers:
        sys.exit(__doc__)
    print(answers[words[0]](root))


if __name__ == "__main__":
    main(ROOT, sys.argv[1:])
