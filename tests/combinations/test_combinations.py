"""All combinations of the choices are baked and checked.

What is the same in all projects is checked once: that it is the same, byte for byte, is asserted.
"""

from __future__ import annotations

import itertools
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import tomllib
import yaml

import isc_template_answers as answers
from baking import BIN, Bake, files, passes
from isc_runtime.submission.launch_schema import schema
from isc_runtime.submission.project import check

GPUS = {"cycle": ("1", "72"), "interruptible": ("1", "72"), "burst": ("1", "72")}
PROJECT_IDS = ("", "prj-brave-otter-251124", "123e4567-e89b-12d3-a456-426614174000")
DATASETS = ("uds-decorous-field-baritone-250513", "uds-own-251124", "123e4567-e89b-12d3-a456-426614174001")
COMBINATIONS = [
    {"compute_mode": mode, "gpus": gpus, "license": name, "isc_project_id": project, "dataset_id": dataset}
    for mode, name, project, dataset in itertools.product(
        answers.COMPUTE_MODES, answers.LICENSES, PROJECT_IDS, DATASETS
    )
    for gpus in GPUS[mode]
]
RENDERED = {"experiment.isc", "CITATION.cff", "LICENSE", "pyproject.toml"}  # what the choices change

Versions = dict[str, dict[bytes, dict[str, str]]]


@pytest.fixture(scope="module")
def versions(bake: Bake) -> Versions:
    """All files of all combinations: for each name its different contents, each with answers that give it."""
    found: Versions = defaultdict(dict)
    for combination in COMBINATIONS:
        project = bake(hooks=False, project_name="Night owls", **combination)
        findings = [str(finding) for finding in check(project)]
        is_open = "still open" in "".join(findings)
        is_large = combination["gpus"] == "72" and combination["compute_mode"] != "burst"
        assert is_large == ("may be refused" in "".join(findings))
        assert is_open == (combination["isc_project_id"] == "")
        assert len(findings) == is_open + is_large
        for name, path in files(project).items():
            found[name].setdefault(path.read_bytes(), combination)
        shutil.rmtree(project)
    return found


def contents(versions: Versions, *names: str) -> Iterator[tuple[str, str]]:
    for name in names:
        for content in versions[name]:
            yield name, content.decode()


def test_there_are_enough() -> None:
    assert len(COMBINATIONS) >= 200
    assert len({tuple(combination.items()) for combination in COMBINATIONS}) == len(COMBINATIONS)


def test_the_choices_change_only_these_files(versions: Versions) -> None:
    assert {name for name, found in versions.items() if len(found) > 1} == RENDERED
    assert len(versions["experiment.isc"]) == len(COMBINATIONS) / len(answers.LICENSES)
    assert len(versions["LICENSE"]) == len(versions["pyproject.toml"]) == len(answers.LICENSES)


def test_every_file_of_data_can_be_read(versions: Versions) -> None:
    for name, text in contents(versions, *versions):
        if name.endswith((".toml", ".isc")):
            assert tomllib.loads(text), name
        elif name.endswith((".yml", ".yaml", ".cff", ".json")):
            assert yaml.safe_load(text), name  # JSON is YAML


def test_the_launch_files_are_what_was_chosen(versions: Versions) -> None:
    validator = jsonschema.Draft7Validator(schema())
    for content, combination in versions["experiment.isc"].items():
        launch = tomllib.loads(content.decode())
        validator.validate(launch)
        assert launch["compute_mode"] == combination["compute_mode"]
        assert launch["gpus"] == int(combination["gpus"])
        assert launch["isc_project_id"] == combination["isc_project_id"]
        assert launch["dataset_id_list"] == [combination["dataset_id"]]
        assert f"--dataset-id {combination['dataset_id']}" in launch["command"]


def test_the_settings_of_all_tools_are_the_same(versions: Versions) -> None:
    """So what ruff and mypy say of the code of one project, they say of all."""
    first, *others = (tomllib.loads(text)["tool"] for _, text in contents(versions, "pyproject.toml"))
    assert all(other == first for other in others)


def test_ruff_and_mypy(project: Path, tmp_path: Path) -> None:
    passes(BIN / "ruff", "check", "--no-cache", ".", cwd=project)
    passes(BIN / "ruff", "format", "--no-cache", "--check", ".", cwd=project)
    passes(BIN / "mypy", "--cache-dir", tmp_path / "mypy", ".", cwd=project)


def test_the_citations_are_valid(versions: Versions, tmp_path: Path) -> None:
    names = []
    for number, (_, text) in enumerate(contents(versions, "CITATION.cff")):
        names.append(tmp_path / f"{number}.cff")
        names[-1].write_text(text)
    passes(BIN / "check-jsonschema", "--builtin-schema", "vendor.citation-file-format", *names, cwd=tmp_path)
