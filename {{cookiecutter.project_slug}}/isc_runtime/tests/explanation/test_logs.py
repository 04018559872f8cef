"""Logs of any size, encoding and state are read, with bounded memory, and nothing of them is printed raw."""

from __future__ import annotations

import gzip
import os
import random
import signal
import time
import tracemalloc
from pathlib import Path

import pytest

from isc_runtime.explanation import diagnosis
from isc_runtime.explanation.command_line import read
from isc_runtime.explanation.log_lines import read_lines
from isc_runtime.explanation.report import as_json, as_text
from isc_runtime.tests.explanation.experiments import Experiment, at_step


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two nodes, of which one loses its rank."""
    experiment = Experiment(tmp_path_factory.mktemp("experiment"), 2)
    experiment.start(
        "--save-steps",
        "3",
        arrange=lambda rank: at_step(5, lambda: os.kill(os.getpid(), signal.SIGKILL)) if rank else None,
    )
    return experiment.output


def said(*paths: Path) -> str:
    """All that is printed."""
    found = read([*paths])
    text = as_text(found) + as_json(found)
    assert text.replace("\n", "").isprintable()
    return text


def test_a_folder_is_read_like_its_files(logs: Path) -> None:
    folder = as_json(read([logs]))
    assert as_json(read([logs / "rank_1.txt", logs / "rank_0.txt"])) == folder
    assert '"killed"' in folder


def test_a_log_that_is_cut_at_any_byte(logs: Path, tmp_path: Path) -> None:
    whole = (logs / "rank_1.txt").read_bytes()
    for name in ("rank_0.txt", "rank_1.txt"):
        (tmp_path / name).write_bytes((logs / name).read_bytes())
    for length in [*range(1, len(whole), 61), *range(len(whole) - 40, len(whole))]:
        (tmp_path / "rank_1.txt").write_bytes(whole[:length])
        found = read([tmp_path])
        assert (found.outcome, found.rank, found.node is None or found.node.number) in (
            ("failed", 1, True),  # node 0 says that rank 1 does not answer
            ("failed", 1, 1),
        )
        assert found.cause.name in ("lost-contact", "killed")
        assert found.code in (8, 137)  # 8 is node 0's; and never the 13 of a 137 that was cut
        said(tmp_path)


def test_a_log_that_begins_anywhere(logs: Path, tmp_path: Path) -> None:
    whole = (logs / "rank_0.txt").read_bytes()
    log = tmp_path / "rank_0.txt"
    for begin in range(0, len(whole) - 500, 61):
        log.write_bytes(whole[begin:])
        assert read([log]).outcome == "failed"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_other_encodings(encoding: str, logs: Path, tmp_path: Path) -> None:
    for name in ("rank_0.txt", "rank_1.txt"):
        text = (logs / name).read_text()
        (tmp_path / name).write_bytes(text.encode(encoding, "replace"))
    assert '"killed"' in said(tmp_path)


def test_nothing_is_printed_raw(logs: Path, tmp_path: Path) -> None:
    """Colours, a title, a bell, bytes of other encodings, a text that turns its direction, progress bars."""
    dirt = b"\x1b[31m\x1b]0;title\x07\x07\xff\xfe\xe4\x00\x1b[2J\xe2\x80\xae" + b"\x1b[1A"
    for name in ("rank_0.txt", "rank_1.txt"):
        lines = (logs / name).read_bytes().splitlines()
        dirty = [b"50%|#  |\r60%|## |\r" + line + dirt for line in lines]
        (tmp_path / name).write_bytes(b"\r\n".join(dirty) + b"\r\n")
    text = said(tmp_path)
    assert '"killed"' in text
    assert "title" not in text
    clean = read([logs])
    assert clean.first is not None
    assert f"rank_1.txt:{clean.first.line}" in text  # carriage returns count no lines


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_nodes_that_write_into_one_log(size: int, first: int, logs: Path, tmp_path: Path) -> None:
    """A line, some lines, or all lines of a node after those of another one: it is one start, not two."""
    nodes = [(logs / f"rank_{node}.txt").read_text().splitlines(keepends=True) for node in (0, 1)]
    if first:
        nodes.reverse()
    mixed = [
        line
        for begin in range(0, max(map(len, nodes)), size)
        for lines in nodes
        for line in lines[begin : begin + size]
    ]
    log = tmp_path / "all.log"
    for starts in (1, 2) if size < 100 else (1,):
        log.write_text("".join(mixed) * starts)
        found = read([log])
        assert (found.cause.name, found.rank, found.code) == ("killed", 1, 137), as_text(found)
        assert found.nodes[0].starts == starts
        assert found.saved_step == 3


def test_packed_logs(logs: Path, tmp_path: Path) -> None:
    """By gzip, whole or cut short; beside themselves they are read once."""
    for node in (0, 1):
        whole = (logs / f"rank_{node}.txt").read_bytes()
        (tmp_path / f"rank_{node}.txt.gz").write_bytes(gzip.compress(whole))
    packed = read([tmp_path])
    assert (packed.cause.name, packed.rank) == ("killed", 1)
    (tmp_path / "rank_0.txt").write_bytes((logs / "rank_0.txt").read_bytes())
    assert [node.starts for node in read([tmp_path]).nodes] == [1, 1]
    file = tmp_path / "rank_1.txt.gz"
    content = file.read_bytes()
    for length in range(2, len(content), 97):
        file.write_bytes(content[:length])
        assert read([tmp_path]).outcome in ("failed", "interrupted")
        said(tmp_path)
    file.write_bytes(content[:200] + bytes(50) + content[250:])
    said(tmp_path)


def test_all_that_can_be_unpacked_is_read(logs: Path, tmp_path: Path) -> None:
    content, file = gzip.compress((logs / "rank_1.txt").read_bytes()), tmp_path / "rank_1.txt.gz"
    for damaged in (content[:-9], content + b"no gzip", content[:-8] + bytes(8)):
        file.write_bytes(damaged)
        assert read([file]).cause.name == "killed"


@pytest.mark.parametrize("seed", range(5))
def test_what_is_no_text_at_all(seed: int, tmp_path: Path) -> None:
    """As somebody names a checkpoint, or a core, in place of a log."""
    log = tmp_path / "rank_0.txt"
    log.write_bytes(random.Random(seed).randbytes(300_000))
    found = read([log])
    assert found.outcome == "unknown"
    said(log)


def test_memory_is_bounded(logs: Path, tmp_path: Path) -> None:
    """More attempts than are kept, one after another; and one line that never ends."""
    log = tmp_path / "rank_0.txt"
    whole = (logs / "rank_0.txt").read_bytes()
    with log.open("wb") as stream:
        for _ in range(210):
            stream.write(whole)
        stream.write(b"x" * 10_000_000)
    tracemalloc.start()
    found = read([log])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8_000_000
    assert found.nodes[0].starts == 210


def test_a_large_log_takes_seconds(logs: Path, tmp_path: Path) -> None:
    """Most lines of a log tell that the training goes on; what must look at each of them must be quick."""
    log = tmp_path / "rank_0.txt"
    line = next(line for line in (logs / "rank_0.txt").read_text().splitlines(True) if "loss" in line)
    log.write_text(line * 50_000)
    began = time.process_time()
    read([log])
    assert log.stat().st_size / (time.process_time() - began) > 2e6  # bytes a second


def test_numbers_of_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\n\n three\rand\r\nfour")
    assert [*read_lines(log)] == [(1, "one", True), (3, " three", True), (3, "and", True), (4, "four", False)]


@pytest.mark.parametrize("size", [65534, 65535, 65536, 65537])
def test_lines_across_the_parts_that_are_read(size: int, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * (size - 3) + b"\r\n" + "é\n".encode() * 3)
    assert [line.text[:1] for line in read_lines(log)] == ["x", "é", "é", "é"]
    assert [line.number for line in read_lines(log)] == [1, 2, 3, 4]


def test_a_node_of_an_earlier_start_is_left_out(
    logs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last start had one node only; what the other one said before is not its story."""
    monkeypatch.setattr(diagnosis, "OLDER", 0.0)
    later = Experiment(tmp_path)
    for name in ("rank_0.txt", "rank_1.txt"):
        (later.output / name).write_bytes((logs / name).read_bytes())
    later.start()
    found = read([later.output])
    assert found.outcome == "completed", as_text(found)
    assert any("node 1" in note for note in found.notes)
