"""The documentation: its pages are current, and each is found from the index."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from baking import ROOT

DOCS = ROOT / "docs"
PROGRAM = DOCS / "make_errors_page.py"
RUNTIME = ROOT / "{{cookiecutter.project_slug}}" / "isc_runtime"
PAGES = [DOCS / "README.md", *(page for page in sorted(DOCS.glob("*.md")) if page.name != "README.md")]


def test_the_page_of_errors_is_up_to_date() -> None:
    page = runpy.run_path(str(PROGRAM))["page"]
    assert page() == (DOCS / "errors.md").read_text(), f"python {PROGRAM.relative_to(ROOT)}"


def test_each_exit_code_and_each_plain_message_is_on_the_page() -> None:
    text = (DOCS / "errors.md").read_text().replace("\\", "")
    codes = re.findall(r"^    [A-Z]+ = (\d+)", (RUNTIME / "errors.py").read_text(), flags=re.MULTILINE)
    assert len(codes) > 9
    assert re.findall(r"^## (\d+): ", text, flags=re.MULTILINE) == codes
    files = [file for file in RUNTIME.rglob("*.py") if "tests" not in file.parts]
    plain = [what for file in files for what in re.findall(r'\bIscError\(\s*"([^"\\]*)"', file.read_text())]
    assert len(plain) > 40
    assert [what for what in plain if f"| {what} |" not in text] == []


def test_a_message_of_each_form_is_read(tmp_path: Path) -> None:
    source = """
LIMIT = "ten"
def one(path):
    hint = "First."
    if path:
        raise IscError(f"No {path} of {LIMIT}", path, hint, ExitCode.DATA)
    what, hint = "Bad", "Sec" + "ond."
    raise IscError(what, hint=hint)
def other(error):
    raise IscError("A" if error else "B", exit_code=ExitCode.SAVE)
    raise IscError(error)
"""
    (tmp_path / "a.py").write_text(source)
    found = runpy.run_path(str(PROGRAM))["errors_in"](tmp_path / "a.py")
    assert sorted((code.name, what, hint) for code, what, hint in found) == [
        ("DATA", "No … of ten", "First."),
        ("SAVE", "A / B", ""),
        ("UNFIT", "Bad", "Second."),
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_index_names_each_page() -> None:
    index = (DOCS / "README.md").read_text()
    assert [page.name for page in PAGES[1:] if f"({page.name})" not in index] == []


def test_the_words_are_the_field_s() -> None:
    """Readers learned English later: ready, fix, must. What "does not fit" is a shape."""
    pages = [*PAGES, *ROOT.glob("*.md"), *RUNTIME.parent.glob("*.md")]
    odd = "mend|mends|mended|shall|is fit|was fit|fit to submit|unfit|next to nothing|is not an option"
    found = {page.name: re.search(rf"\b({odd})\b", page.read_text(), re.IGNORECASE) for page in pages}
    assert {name: match[0] for name, match in found.items() if match} == {"CHANGELOG.md": "unfit"}


def test_how_it_works_names_each_wing() -> None:
    wings = [file.parent.name for file in RUNTIME.glob("*/__init__.py") if file.parent.name != "tests"]
    assert len(wings) > 5
    text = (DOCS / "how-it-works.md").read_text()
    assert [wing for wing in wings if f"| `isc_runtime/{wing}/` |" not in text] == []
