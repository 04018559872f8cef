"""Free text: whatever somebody is called arrives in every file as it was typed, and nowhere as code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tomllib
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import isc_template_answers as answers
from baking import Bake

# Every scalar value, and often the characters with which files of this project are written.
TEXTS = st.text(
    st.characters(exclude_categories=["Cs"])
    | st.sampled_from("\"'\\\n\t\r\0{}%#$`*_[]<>|&!-+=.)1~\x7f\x85\u2028🦊")
)
NASTY = [
    'a "quoted" \'name\' with \\ back\\slashes \\" and """ three',
    "two\nlines\r\nand\ta tab",
    "emoji 🦊 👩‍🔬, accents éß, 漢字, العربية",
    "{ { 7 * 7 }} { % raw %} #} {cookiecutter} ${x} 100%",
    "$(touch pwned) `touch pwned` ; touch pwned && ${HOME} | > /tmp/x",
    '"]\n[tool.evil]\ncommand = "',
    'json.loads("""x""") + __import__("os").system("touch pwned") \\',
    "# <script>alert(1)</script> [link](https://example.org) ![](x) **bold** | table & &amp;",
    "- item", "1. item", "12) item", "--- ", "=== =", "C# #",
    "\0\x01\x1b[31mred\x7f\x85\u2028\u202e\ufeff",
]  # fmt: skip


def visible(markdown: str) -> tuple[str, list[str]]:
    """The text of a one-block document, and the types of its tokens."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(markdown)
    inline = next(token for token in tokens if token.type == "inline")
    kinds = [token.type for token in tokens] + [child.type for child in inline.children or []]
    return "".join(child.content for child in inline.children or []), kinds


@given(TEXTS)
@example("\\")
@example('"')
def test_quoted_text_reads_back_from_toml_json_and_yaml(text: str) -> None:
    quoted = f'"{answers.quoted_text(text)}"'
    assert tomllib.loads(f"name = {quoted}") == {"name": text}
    assert json.loads(quoted) == text
    assert yaml.safe_load(f"name: {quoted}\n") == {"name": text}
    assert "\n" not in quoted


@given(TEXTS)
@example("- item")
@example("1) item")
@example("C# #")
@example("&amp; <b>")
def test_markdown_text_is_plain_text_in_headings_and_paragraphs(text: str) -> None:
    line = answers.markdown_text(text)
    plain = answers.one_line(text)
    assert "\n" not in line
    if plain:
        heading, kinds = visible(f"# {line}\n")
        assert heading == plain
        assert set(kinds) <= {"heading_open", "inline", "heading_close", "text"}
        paragraph, kinds = visible(f"{line}\n")
        assert paragraph == plain
        assert set(kinds) <= {"paragraph_open", "inline", "paragraph_close", "text"}


@given(TEXTS)
@example("torch")
@example("a" * 60 + "-" * 60)
def test_every_name_has_a_slug_that_is_accepted(text: str) -> None:
    from slugify import slugify  # what cookiecutter's filter of this name is

    slug = answers.slug_for(slugify(text))
    assert answers.problem("project_slug", {"project_slug": slug}) is None


@pytest.mark.parametrize("text", NASTY)
def test_free_text_arrives_intact(bake: Bake, text: str) -> None:
    project = bake(project_name=text, author=text)
    assert_intact(project, text)
    assert not list(project.rglob("*pwned*")), "an answer was run"


@settings(max_examples=20, deadline=None)
@given(TEXTS.filter(lambda text: answers.problem("project_name", {"project_name": text}) is None))
def test_any_text_arrives_intact(bake: Bake, text: str) -> None:
    assert_intact(bake(hooks=False, project_name=text, author=text), text)


def assert_intact(project: Path, text: str) -> None:
    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert metadata["description"] == text
    assert metadata["authors"] == [{"name": text}]
    assert tomllib.loads((project / "experiment.isc").read_text())["experiment_name"] == text
    citation = yaml.safe_load((project / "CITATION.cff").read_text())
    assert (citation["title"], citation["authors"]) == (text, [{"name": text}])
    assert answers.one_line(text) in (project / "LICENSE").read_text()
    assert visible((project / "README.md").read_text())[0] == answers.one_line(text)
