"""The site of docs/: it is built without a warning, and each link on it leads somewhere."""

from __future__ import annotations

import re
import runpy
import shutil
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from baking import BIN, ROOT, passes

DOCS = ROOT / "docs"


class Page(HTMLParser):
    """What a page links to, what it loads, and what can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.places: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what a tag names."""
        known = {name: value or "" for name, value in attrs}
        self.places.add(known.get("id", ""))
        if tag == "a" and "href" in known:
            self.links.append(known["href"])
        elif tag in ("script", "img", "link"):
            self.loads += [known[name] for name in ("src", "href") if name in known]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    runpy.run_path(str(DOCS / "make_site.py"))["gather"](folder / "build" / "docs")
    passes(BIN / "zensical", "build", "--strict", "--clean", cwd=folder)
    return folder / "build" / "site"


def test_each_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = {file: Page(file.read_text()) for file in site.rglob("*.html") if file.name != "404.html"}
    for file, page in pages.items():
        for target in [*page.links, *page.loads]:
            parts = urlsplit(target)
            if parts.scheme:
                assert parts.scheme == "https", f"{file}: {target}"
                assert target in page.links, f"{file} loads {target}"
                continue
            path = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            path = path / "index.html" if path.is_dir() else path
            assert path.exists(), f"{file}: {target}"
            if path in pages:
                assert parts.fragment in pages[path].places, f"{file}: {target}"
    assert len(pages) == len(navigation())


def navigation() -> list[str]:
    return [
        name for entry in yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"] for name in entry.values()
    ]


def test_all_pages_are_in_the_navigation(site: Path) -> None:
    assert sorted(navigation()) == sorted(page.name for page in (site.parent / "docs").glob("*.md"))


def test_a_link_goes_by_the_repository_s_folders() -> None:
    linked = partial(runpy.run_path(str(DOCS / "make_site.py"))["linked"], repository="")
    assert linked("[`a`](docs/errors.md#x) `[b](c)`", "CONTRIBUTING.md") == "[`a`](errors.md#x) `[b](c)`"
    assert linked("![a](overview.svg) [b](../CHANGELOG.md)", "docs/start.md") == (
        "![a](overview.svg) [b](changelog.md)"
    )
    assert linked("[a](LICENSE) [b](https://c.d) [e](#f)", "README.md") == "a [b](https://c.d) [e](#f)"
    assert (
        linked("[a](LICENSE)", "README.md", repository="https://x/y") == "[a](https://x/y/blob/main/LICENSE)"
    )


def test_the_diagrams_are_current() -> None:
    program = runpy.run_path(str(DOCS / "make_diagrams.py"))
    for name, diagram in program["DIAGRAMS"].items():
        assert diagram() == (DOCS / name).read_text(), "python docs/make_diagrams.py"


def test_the_recording_shows_what_the_demonstration_says() -> None:
    """Its times are those of one day; its words are those of today's programs."""
    recorded = re.sub(r"<[^>]*>", "", (DOCS / "demo.svg").read_text())
    report = ROOT / "{{cookiecutter.project_slug}}" / "isc_runtime" / "rehearsal" / "report.py"
    assert "Ready to submit: " in report.read_text()
    assert "Ready to submit: interrupted 1 time" in recorded
    assert "no saved step lost" in (ROOT / "tests" / "demo.py").read_text()
    assert re.search(
        r"Killed after the checkpoint of step (\d+), resumed at step \1: no saved step lost", recorded
    )
