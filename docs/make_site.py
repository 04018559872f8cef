"""Gathers the pages of the site in build/docs: those of docs/, and the repository's other pages.

python docs/make_site.py

All pages are read on GitHub, too, so their links go by the repository's folders. Here they become links
between the site's pages. What is no page there is text, or a link to the repository if its address is known.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import shutil
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PROJECT = "{{cookiecutter.project_slug}}"
PAGES = {  # where it is in the repository, and what it is called on the site
    "README.md": "README.md",
    f"{PROJECT}/README.md": "project.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
}
PARTS = (
    re.compile(  # code, which stays as it is, or a link: is it a picture, its text, its target, its anchor
        r"^ *```.*?^ *```$|`[^`\n]*`|(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)", re.DOTALL | re.MULTILINE
    )
)


def gather(folder: Path, repository: str = "") -> None:
    """Writes all pages and pictures into an empty folder.

    Args:
        folder: where they go; what was there is deleted.
        repository: its address, or nothing.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for picture in (*DOCS.glob("*.png"), *DOCS.glob("*.svg")):
        shutil.copy(picture, folder)
    pages = {
        f"docs/{page.name}": page.name for page in DOCS.glob("[!R]*.md")
    } | PAGES  # it has a menu of pages
    for place, name in pages.items():
        text = (ROOT / place).read_text()
        text = baked(text) if place.startswith(PROJECT) else text
        (folder / name).write_text(linked(text, place, repository))


def baked(text: str) -> str:
    """A file of the generated project as the default answers make it."""
    answers = json.loads((ROOT / "cookiecutter.json").read_text())
    name, version = answers["project_name"], answers["_template_version"]
    known = {"project_name": name, "author": f"The {name} authors"}
    known |= {"project_slug": name.lower().replace(" ", "-")}
    text = re.sub(r"\{\{ cookiecutter\.(\w+)[^}]*\}\}", lambda match: known[match[1]], text)
    return text.replace("{{ template_version() }}", version)


def linked(markdown: str, place: str, repository: str) -> str:
    """Turns links by the repository's folders into the site's; code stays as it is.

    Args:
        markdown: a page.
        place: where it is in the repository.
        repository: its address, or nothing.
    """

    def link(match: re.Match[str]) -> str:
        picture, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        if not target or ":" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        path = "README.md" if path in ("docs", "docs/README.md") else path
        if path in PAGES:
            return f"[{text}]({PAGES[path]}{anchor})"
        if path.startswith("docs/"):
            return f"{picture}[{text}]({path.removeprefix('docs/')}{anchor})"
        return f"[{text}]({repository}/blob/main/{path})" if repository else text

    return PARTS.sub(link, markdown)


if __name__ == "__main__":
    server, name = (os.environ.get(f"GITHUB_{what}", "") for what in ("SERVER_URL", "REPOSITORY"))
    gather(ROOT / "build" / "docs", f"{server}/{name}" if name else "")
