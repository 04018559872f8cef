"""Checkpoints of strangers: no file in them runs code, and none holds up or misleads whoever looks at it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import socket
import string
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint.state_dict_saver as dcp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from isc_runtime.__main__ import main
from isc_runtime.checkpointing.on_disk.entries import Entry
from isc_runtime.checkpointing.on_disk.export import export
from isc_runtime.checkpointing.on_disk.inventory import take_inventory
from isc_runtime.checkpointing.on_disk.manifest import SHARDED, WHOLE, Damaged, Manifest, _checksum_of
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.ranks.shards import MARK
from isc_runtime.rehearsal.weights import differences
from isc_runtime.tests.checkpointing.test_store import resumed_step, save
from isc_runtime.tests.processes import Place

SECONDS = 10.0  # for what takes milliseconds, on a busy machine


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < SECONDS


# What runs code


class Payload:
    """Unpickled, it makes a directory: so much a stranger's file can do, and more."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.proof),))


def torch_saved(value: object, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def sharded(folder: Path) -> None:
    """A sharded checkpoint of one tensor, as torch.distributed.checkpoint writes it."""
    dcp.save({"model.w": torch.arange(8.0)}, checkpoint_id=folder)
    torch.save({"model": {"w": {MARK: "model.w"}}, "optimizer": {}}, folder / "checkpoint.pt")


def change_metadata(folder: Path, change: Callable[[Any], None]) -> None:
    """Unpickles it, which is safe before anything is planted, and pickles it again."""
    file = folder / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    change(metadata)
    file.write_bytes(pickle.dumps(metadata))


def in_metadata(folder: Path, payload: Payload) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(payload))


def deep_in_metadata(folder: Path, payload: Payload) -> None:
    change_metadata(folder, lambda metadata: setattr(metadata, "planner_data", [payload]))


def in_a_shard(folder: Path, payload: Payload, is_bytes: bool = False) -> None:
    content = torch_saved(payload)
    (folder / "__0_0.distcp").write_bytes(content)

    def point_to_it(metadata: Any) -> None:
        for info in metadata.storage_data.values():
            info.offset, info.length = 0, len(content)
        if is_bytes:  # which torch would unpickle whatever is in it
            metadata.state_dict_metadata["model.w"] = BytesStorageMetadata()

    change_metadata(folder, point_to_it)


def in_payload(folder: Path, payload: Payload) -> None:
    torch.save({"model": payload}, folder / "checkpoint.pt")


SHARDED_PLANTS: dict[str, Callable[[Path, Payload], None]] = {
    ".metadata": in_metadata,
    "deep in .metadata": deep_in_metadata,
    "a shard": in_a_shard,
    "a shard of bytes": lambda folder, payload: in_a_shard(folder, payload, is_bytes=True),
    "checkpoint.pt": in_payload,
}
WHOLE_PLANTS: dict[str, Callable[[Payload], bytes]] = {
    "zip": lambda payload: torch_saved({"model": payload}),
    "legacy": lambda payload: torch_saved({"model": payload}, _use_new_zipfile_serialization=False),
    "pickle": lambda payload: pickle.dumps({"model": payload}),
}
PLANTS = [*SHARDED_PLANTS, *WHOLE_PLANTS, "manifest.json"]


def plant(place: Place, name: str, proof: Path) -> Entry:
    """A directory with one checkpoint that holds code, all of it as its manifest says."""
    place.checkpoints.mkdir(exist_ok=True)
    payload = Payload(proof)
    folder = place.checkpoints / (
        "AtomicDirectory_checkpoint_0" if place.isc_mode else "checkpoint_20260101-000000_5"
    )
    entry = Entry.in_folder(folder)
    if name in WHOLE_PLANTS and not place.isc_mode:
        file = folder.with_name(f"{folder.name}.pth")
        entry = Entry((), file, file.with_suffix(".manifest.json"))
    else:
        folder.mkdir()
    if name in WHOLE_PLANTS:
        entry.payload.write_bytes(WHOLE_PLANTS[name](payload))
    else:
        sharded(folder)
    if name in SHARDED_PLANTS:
        SHARDED_PLANTS[name](folder, payload)
    if name == "manifest.json":
        entry.manifest.write_bytes(pickle.dumps(payload))
    else:
        files = [entry.payload] if name in WHOLE_PLANTS else sorted(folder.iterdir())
        details = {"format": WHOLE if name in WHOLE_PLANTS else SHARDED}
        Manifest.of(files, 5, "2026-01-01T00:00:00+00:00", details).write(entry.manifest)
    return entry


@pytest.fixture(params=[False, True], ids=["local", "isc"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(tmp_path, isc_mode=request.param)


def test_the_payload_is_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", PLANTS)
def test_no_file_of_a_checkpoint_runs_code_whatever_reads_it(
    place: Place, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    proof = place.path / "proof"
    entry = plant(place, name, proof)
    refused = "is damaged|not safe to load|not one of this project"
    with pytest.raises(IscError, match=refused) as raised:
        export(place.checkpoints, place.path / "w.safetensors")
    assert raised.value.exit_code == ExitCode.CHECKPOINT
    with pytest.raises(IscError, match=refused):
        differences(entry.path, entry.path)
    code = main(["checkpoints", str(place.checkpoints), "--verify"])
    assert code == (ExitCode.CHECKPOINT if name == "manifest.json" else 0)
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    assert not proof.exists()


@pytest.mark.parametrize("name", PLANTS)
def test_a_resume_runs_no_code_of_a_checkpoint(place: Place, name: str) -> None:
    proof = place.path / "proof"
    plant(place, name, proof)
    ended = place.train("--epochs", "1")
    assert ended.code == ExitCode.CHECKPOINT, ended.output
    assert "Traceback" not in ended.output
    assert "--fresh" in ended.output.splitlines()[-1]
    assert not proof.exists()


def test_a_good_sharded_checkpoint_is_read_all_the_same(tmp_path: Path) -> None:
    entry = Entry.in_folder(tmp_path / "AtomicDirectory_checkpoint_0")
    entry.path.mkdir()
    sharded(entry.path)
    Manifest.of(sorted(entry.path.iterdir()), 5, "2026-01-01T00:00:00+00:00", {"format": SHARDED}).write(
        entry.manifest
    )
    assert differences(entry.path, entry.path) == []
    assert export(tmp_path, tmp_path / "w.safetensors").tensors == 1


# What misleads


def signed(path: Path, content: dict[str, Any]) -> None:
    """Writes a manifest with a checksum that is right, whatever it says."""
    path.write_text(json.dumps({**content, "checksum": _checksum_of(content)}))


def without_checksum(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    del content["checksum"]
    return content


def with_field(**fields: Any) -> Callable[[Path, Path], None]:
    return lambda manifest, _: signed(manifest, {**without_checksum(manifest), **fields})


def with_detail(**details: Any) -> Callable[[Path, Path], None]:
    def change(manifest: Path, _: Path) -> None:
        content = without_checksum(manifest)
        signed(manifest, {**content, "details": {**content["details"], **details}})

    return change


def with_file(name: str, **description: Any) -> Callable[[Path, Path], None]:
    def change(manifest: Path, payload: Path) -> None:
        content = without_checksum(manifest)
        content["files"][name] = {**content["files"][payload.name], **description}
        signed(manifest, content)

    return change


def with_size(size: Any) -> Callable[[Path, Path], None]:
    def change(manifest: Path, payload: Path) -> None:
        with_file(payload.name, size=size)(manifest, payload)

    return change


def with_text(text: str | bytes) -> Callable[[Path, Path], None]:
    content = text.encode() if isinstance(text, str) else text

    def change(manifest: Path, _: Path) -> None:
        manifest.write_bytes(content)

    return change


def instead(make: Callable[[Path], object], of_payload: bool = False) -> Callable[[Path, Path], None]:
    def change(manifest: Path, payload: Path) -> None:
        file = payload if of_payload else manifest
        kept = file.with_name(f"{file.name}.kept")
        file.rename(kept)
        make(file)

    return change


def listen(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)  # its path must be short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


def sparse(size: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.touch()
        os.truncate(path, size)

    return make


def link_outside(path: Path) -> None:
    """To a file that holds just what is expected, but out of the directory."""
    kept = path.with_name(f"{path.name}.kept")
    outside = path.parent.parent / "outside"
    shutil.copy(kept, outside)
    path.symlink_to(outside)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a directory": Path.mkdir,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link out of it": link_outside,
    "a socket": listen,
    "6 GB": sparse(6 * 10**9),
}
if os.geteuid() == 0:
    SPECIAL["a device"] = lambda path: os.mknod(path, 0o20666, os.makedev(1, 5))  # zero

NO_FILES: list[Any] = [[], {}, None, "x", 7]
NO_DETAILS: list[Any] = [[], None, "x", 7]
NO_FORMATS: list[Any] = ["zip", 1, [], {}]
NO_COUNTS: list[Any] = ["1", -1, 1.5, True, [], None, 2**63]
HOSTILE: dict[str, Callable[[Path, Path], None]] = {
    **{f"name {name!r}": with_file(name) for name in ["", ".", "..", "/etc/passwd", "../x", "a/b", "x\0y"]},
    **{f"name {name[:9]!r}": with_file(name) for name in ["x" * 300, "\x1b[2Jx", "\ud800", "nowhere"]},
    **{f"size {size!r}": with_size(size) for size in [-1, 1.5, True, "9", None, [], 2**63]},
    "size 1e999": with_text('{"files": {"checkpoint.pt": {"size": 1e999, "xxh3_128": ""}}, "checksum": ""}'),
    "size inf": with_size(float("inf")),
    "checksum a number": with_file("other", xxh3_128=5),
    "file a list": with_field(files={"checkpoint.pt": [1, 2]}),
    **{f"files {files!r}": with_field(files=files) for files in NO_FILES},
    **{f"details {it!r}": with_field(details=it) for it in NO_DETAILS},
    **{f"epoch {it!r}": with_detail(epoch=it) for it in NO_COUNTS},
    **{f"force {it!r}": with_detail(force=it) for it in ["yes", 1]},
    **{f"format {it!r}": with_detail(format=it) for it in NO_FORMATS},
    **{f"step {it!r}": with_field(step=it) for it in NO_COUNTS},
    **{f"time {it!r}": with_field(time=it) for it in [5, None, "", "yesterday", "\x1b[2J"]},
    **{f"version {it!r}": with_field(format_version=it) for it in [0, -1, "1", 1.0, True, None, [1], 2**70]},
    "a field more": with_field(more=1),
    "a digit 9 000 times": with_text('{"step": ' + "9" * 9000 + "}"),
    "100 000 deep": with_text("[" * 100_000),
    "100 000 objects deep": with_text('{"a":' * 100_000),
    "UTF-16": with_text('{"step": 1}'.encode("utf-16")),
    "Latin-1": with_text(b'{"step": "\xe4"}'),
    "no JSON": with_text(b"\x80\x04}."),
    "a list": with_text("[1]"),
    "a number": with_text("5"),
    "NaN": with_text('{"step": NaN}'),
    "5 MB": with_text('{"step": 1' + " " * 5 * 2**20 + "}"),
    **{f"manifest {name}": instead(make) for name, make in SPECIAL.items()},
    **{f"payload {name}": instead(make, of_payload=True) for name, make in SPECIAL.items()},
}


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_misleads_is_damage_and_the_one_before_is_taken(store: Store, hostile: str) -> None:
    save(store, 10)
    payload = save(store, 20)
    HOSTILE[hostile](store.manifest_path(payload), payload)
    with in_time():
        (series,) = take_inventory(store.directory, verify=True).series
        bad = series.checkpoints[-1]
        assert (bad.state, bool(bad.reason), bad.is_next) == ("damaged", True, False)
        assert bad.reason.isprintable()
        with pytest.raises(IscError, match="is damaged"):
            export(Path(bad.path), store.directory / "weights")
        assert resumed_step(store) == 10
    save(store, 30)
    assert resumed_step(store) == 30


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(), parts, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Entry:
    directory = tmp_path_factory.mktemp("fuzz")
    entry = Entry.in_folder(directory)
    entry.payload.write_bytes(b"x" * 1000)
    details = {"epoch": 1, "batch": 2, "world_size": 2, "force": False, "format": WHOLE}
    Manifest.of([entry.payload], 7, "2026-01-01T00:00:00+00:00", details).write(directory / "good")
    return entry


def fields(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of each value in JSON."""
    yield path
    if isinstance(content, dict):
        for key, value in content.items():
            yield from fields(value, (*path, key))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_a_manifest_says_it_is_read_or_damaged(whole: Entry, data: st.DataObject) -> None:
    content = without_checksum(whole.path / "good")
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(sorted(fields(content), key=str)))
        value = data.draw(JSON)
        if not path:
            content = value if isinstance(value, dict) else content
            continue
        where = content
        for key in path[:-1]:
            where = where[key]
        if data.draw(st.booleans()):
            where[path[-1]] = value
        else:
            where[data.draw(st.text())] = where.pop(path[-1])
    signed(whole.manifest, content)
    with contextlib.suppress(Damaged):
        version = content.get("format_version")
        if type(version) is int and 1 < version < 2**63:
            with pytest.raises(IscError, match="has format"):
                whole.verify()
        else:
            manifest = whole.verify()
            assert set(manifest.files) == {"checkpoint.pt"}
            assert 0 <= manifest.step < 2**63


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.text(string.printable, max_size=200).map(str.encode))
def test_any_bytes_are_a_manifest_or_damage(whole: Entry, content: bytes) -> None:
    whole.manifest.write_bytes(content)
    with pytest.raises(Damaged):
        whole.read_manifest()


def test_nothing_that_a_stranger_named_reaches_a_terminal_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "\x1b[2Jevil\n_checkpoint_1").mkdir()
    (tmp_path / "\x1b[2Jevil_checkpoint_1").mkdir()
    main(["checkpoints", str(tmp_path)])
    said = capsys.readouterr().out
    assert "\\x1b[2Jevil_checkpoint_1" in said
    assert "\x1b" not in said
