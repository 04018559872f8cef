"""One lock for the image and for the ISC's own image, which has an older Python."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomllib
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = ROOT / "{{cookiecutter.project_slug}}"


def requirements(name: str) -> list[Requirement]:
    """The requirements in a file, without their hashes."""
    joined = (PROJECT / name).read_text().replace("\\\n", " ")
    lines = [re.sub(r"\s(#|--hash).*", "", line).strip() for line in joined.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("python", ["3.10.12", "3.11.2", "3.12.4", "3.13.1", "3.14.0"])
def test_each_python_of_the_isc_and_of_images_gets_one_version_of_all(python: str) -> None:
    """3.10 is that of the ISC's own image, 3.11 that of the Dockerfile's."""
    place: dict[str, Any] = {**default_environment(), "python_full_version": python, "sys_platform": "linux"}
    place |= {"python_version": python.rpartition(".")[0], "platform_machine": "x86_64"}

    def applying(found: list[Requirement]) -> list[str]:
        return [one.name.lower() for one in found if one.marker is None or one.marker.evaluate(place)]

    locked = applying(requirements("requirements.lock"))
    assert len(locked) == len(set(locked)) > 40
    needed = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(applying([*map(Requirement, needed)])) <= set(locked)


def test_the_lock_is_made_for_the_oldest_python_that_a_project_allows() -> None:
    makefile, settings = ((PROJECT / name).read_text() for name in ("Makefile", "pyproject.toml"))
    assert 'requires-python = ">=3.10"' in settings
    assert re.search(r"\nlock:[^#]*## .*(\n.*){6}--universal --python-version 3\.10 ", makefile)
