"""Editors are told the same about launch files as the check tells."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from isc_runtime.submission.launch_keys import KEYS
from isc_runtime.submission.launch_schema import FILE, schema, text
from isc_runtime.tests.submission.test_project import ACCEPTED, LAUNCH_FILE, WARNINGS, Break, launch_file
from isc_runtime.toml import load_toml

NO_TOML = {"no TOML", "twice", "no UTF-8", "another file"}
OTHER_FILES = {
    name for name, change in ACCEPTED.items() if change.__qualname__.partition(".")[0] != "launch_file"
}


def errors(file: Path) -> list[str]:
    validator = jsonschema.Draft7Validator(schema())
    return [error.message for error in validator.iter_errors(load_toml(file.read_text(encoding="utf-8")))]


def test_the_committed_schema_is_the_one_that_the_table_makes() -> None:
    assert FILE.read_text(encoding="utf-8") == text()
    jsonschema.Draft7Validator.check_schema(schema())


@pytest.mark.parametrize("name", sorted(LAUNCH_FILE.keys() - NO_TOML))
def test_what_the_check_refuses_the_schema_refuses(tmp_path: Path, name: str) -> None:
    plant: Break = LAUNCH_FILE[name][0]
    launch_file()(tmp_path)
    plant(tmp_path)
    assert errors(tmp_path / "experiment.isc")


@pytest.mark.parametrize("name", sorted(ACCEPTED.keys() - OTHER_FILES))
def test_what_the_check_accepts_the_schema_accepts(tmp_path: Path, name: str) -> None:
    ACCEPTED[name](tmp_path)
    assert errors(tmp_path / "experiment.isc") == []


@pytest.mark.parametrize("name", sorted(WARNINGS.keys()))
def test_what_a_person_has_to_judge_the_schema_accepts(tmp_path: Path, name: str) -> None:
    WARNINGS[name][0](tmp_path)
    assert errors(tmp_path / "experiment.isc") == []


@pytest.mark.parametrize(("command", "is_accepted"), [("a\nb", True), ("a \\\n b", False), (" \n ", False)])
def test_a_command_on_lines(tmp_path: Path, command: str, is_accepted: bool) -> None:
    launch_file(command=f"'''{command}'''")(tmp_path)
    assert (errors(tmp_path / "experiment.isc") == []) == is_accepted


def test_each_key_says_where_it_is_documented() -> None:
    described = schema()["properties"]
    assert all("Source: https://" in described[key.name]["description"] for key in KEYS)
