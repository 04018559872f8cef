"""A manifest knows the bytes of its files, and is itself one that was written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from isc_runtime.checkpointing.on_disk.manifest import Checksums, Damaged, Manifest
from isc_runtime.errors import IscError


@pytest.fixture
def described(tmp_path: Path) -> tuple[Path, Path]:
    """A payload of two pages, and its manifest."""
    payload = tmp_path / "checkpoint.pt"
    payload.write_bytes(os.urandom(8192))
    manifest = tmp_path / "manifest.json"
    Manifest.of([payload], 7, "2026-01-01T00:00:00+00:00", {"epoch": 1}).write(manifest)
    return payload, manifest


def test_a_manifest_survives_the_disk(described: tuple[Path, Path]) -> None:
    payload, path = described
    manifest = Manifest.read(path)
    assert (manifest.step, manifest.details) == (7, {"epoch": 1})
    assert manifest.files[payload.name]["size"] == 8192
    manifest.verify(payload.parent)


@pytest.mark.parametrize("position", [0, 4095, 4096, 8191])
def test_one_flipped_bit_is_found(described: tuple[Path, Path], position: int) -> None:
    payload, path = described
    content = bytearray(payload.read_bytes())
    content[position] ^= 1
    payload.write_bytes(content)
    with pytest.raises(Damaged, match=r"checkpoint\.pt does not match its checksum"):
        Manifest.read(path).verify(payload.parent)


def test_a_lost_page_and_a_lost_file_are_found(described: tuple[Path, Path]) -> None:
    payload, path = described
    os.truncate(payload, 4096)
    with pytest.raises(Damaged, match="has 4096 bytes instead of 8192"):
        Manifest.read(path).verify(payload.parent)
    payload.unlink()
    with pytest.raises(Damaged, match=r"checkpoint\.pt is missing"):
        Manifest.read(path).verify(payload.parent)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"format_version": 1}', '{"format_version": "1"}']
)
def test_what_is_no_manifest_is_damage(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(Damaged, match=r"manifest\.json is not a manifest"):
        Manifest.read(tmp_path / "manifest.json")


@pytest.mark.parametrize("field", ["step", "files", "time"])
def test_a_manifest_that_lost_a_field_is_damage(described: tuple[Path, Path], field: str) -> None:
    _, path = described
    content = json.loads(path.read_text())
    del content[field]
    path.write_text(json.dumps(content))
    with pytest.raises(Damaged):
        Manifest.read(path)


def test_a_manifest_that_says_something_else_is_damage(described: tuple[Path, Path]) -> None:
    _, path = described
    path.write_text(path.read_text().replace('"step": 7', '"step": 6'))
    with pytest.raises(Damaged, match="its own checksum"):
        Manifest.read(path)


def test_a_newer_format_is_said_in_words(described: tuple[Path, Path]) -> None:
    _, path = described
    Manifest(7, "", {}, {"checkpoint.pt": {"size": 1, "xxh3_128": ""}}, format_version=99).write(path)
    with pytest.raises(IscError, match=r"format 99.*reads up to 1.*manifest\.json.*Update isc_runtime"):
        Manifest.read(path)


@pytest.mark.parametrize("seconds", ["long", None, [1], -1, float("inf")])
def test_a_training_that_took_no_number_of_seconds_is_damage(
    described: tuple[Path, Path], seconds: object
) -> None:
    _, path = described
    files: Checksums = {"checkpoint.pt": {"size": 1, "xxh3_128": ""}}
    Manifest(7, "2026-01-01T00:00:00+00:00", {"seconds": seconds}, files).write(path)
    with pytest.raises(Damaged, match="is not a manifest"):
        Manifest.read(path)
