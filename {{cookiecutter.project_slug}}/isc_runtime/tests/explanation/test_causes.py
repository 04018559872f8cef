"""The table of causes. What this project cannot make itself is known from documentation, and says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isc_runtime.explanation.cause import Kind
from isc_runtime.explanation.classification import CAUSES
from isc_runtime.explanation.command_line import read
from isc_runtime.explanation.report import as_text

# The words by which each is known, as the source that its cause names has them.
WORDS = {
    "cuda-memory": [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
        "CUBLAS_STATUS_ALLOC_FAILED",
    ],
    "cuda-assert": [
        "RuntimeError: CUDA error: device-side assert triggered",
    ],
    "cuda-hardware": [
        "RuntimeError: CUDA error: uncorrectable ECC error encountered",
        "NVRM: Xid (PCI:0000:05:00): 79",
    ],
    "cuda-illegal-access": [
        "CUDA error: an illegal memory access was encountered",
    ],
    "cuda-architecture": [
        "CUDA error: no kernel image is available for execution on the device",
    ],
    "cuda-driver": [
        "RuntimeError: Found no NVIDIA driver on your system.",
        "RuntimeError: No CUDA GPUs are available",
    ],
    "cuda-other": [
        "CUDA error: invalid argument",
        "RuntimeError: cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
    "nccl-duplicate": [
        "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 5000",
        "ncclInvalidUsage",
    ],
    "nccl-timeout": [
        "[rank7]:[E321 02:07:08.4 ProcessGroup] [Rank 7] Watchdog caught collective operation timeout",
    ],
    "nccl-remote": [
        "ncclRemoteError",
        "NCCL WARN Net : Connection closed by remote peer",
    ],
    "nccl-system": [
        "ncclSystemError",
        "ncclUnhandledCudaError",
        "misc/socket.cc NCCL WARN Call to recv from a failed",
    ],
    "oom-killer": [
        "[7063.2] Memory cgroup out of memory: Killed process 63214 (python)",
        "Out of memory: Kill process 1",
    ],
    "shared-memory": [
        "RuntimeError: DataLoader worker (pid 13) is killed by signal: Bus error. Possibly out of shm",
    ],
    "worker-gone": [
        "RuntimeError: DataLoader worker (pid(s) 3216) exited unexpectedly",
    ],
    "quota": [
        "OSError: [Errno 122] Disk quota exceeded: 'x'",
    ],
    "read-only": [
        "OSError: [Errno 30] Read-only file system: '/data/x'",
    ],
    "storage": [
        "OSError: [Errno 116] Stale file handle",
        "OSError: [Errno 5] Input/output error",
    ],
    "open-files": [
        "OSError: [Errno 24] Too many open files: 'x'",
    ],
    "missing-library": [
        "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
    ],
    "port-in-use": [
        "OSError: [Errno 98] Address already in use",
        "errno: 98 - EADDRINUSE",
    ],
    "no-network": [
        "<urlopen error [Errno -3] Temporary failure in name resolution>",
        "Could not resolve host: example.org",
    ],
    "connection": [
        "ConnectionResetError: [Errno 104] Connection reset by peer",
    ],
}


def test_what_is_not_called_seen_is_here() -> None:
    assert {cause.name for cause in CAUSES if not cause.seen} == set(WORDS)


@pytest.mark.parametrize(("name", "line"), [(name, line) for name in WORDS for line in WORDS[name]])
def test_words_that_are_known_from_documentation(name: str, line: str, tmp_path: Path) -> None:
    log = tmp_path / "rank_0.txt"
    log.write_text(f"it begins\n{line}\n")
    found = read([log])
    text = " ".join(as_text(found).split())
    assert (found.outcome, found.cause.name) == ("failed", name), text
    assert "this project's tests have not seen this failure: https://" in text
    assert "rank_0.txt:2" in text


def test_each_cause_is_complete() -> None:
    names = [cause.name for cause in CAUSES]
    assert len(names) == len(set(names))
    for cause in CAUSES:
        assert cause.meaning
        assert cause.to_do.endswith("."), cause.name
        assert cause.seen or cause.source.startswith("https://")
        groups = cause.expression.groupindex
        used = {word for text in (cause.meaning, cause.to_do) for word in _fields(text)}
        assert used <= {*groups, "message"}, cause.name


def _fields(text: str) -> list[str]:
    return [part.partition("}")[0] for part in text.split("{")[1:]]


def test_a_rank_that_waits_in_nccl_is_not_the_cause(tmp_path: Path) -> None:
    """Whoever reports the timeout waited; what another node says counts, though it says it later."""
    (tmp_path / "rank_0.txt").write_text(f"{WORDS['nccl-timeout'][0]}\n")
    (tmp_path / "rank_1.txt").write_text(f"[rank8]: {WORDS['cuda-memory'][0]}\n")
    found = read([tmp_path])
    assert (found.cause.name, found.rank, found.node and found.node.number) == ("cuda-memory", 8, 1)


def test_what_the_training_survives_is_not_the_cause(tmp_path: Path) -> None:
    """A warning that is printed with a traceback, long before the end."""
    line = "2026-01-01 00:00:{0:02},000 - train - INFO - epoch 1 batch {0} step {0}: loss 1"
    lines = [
        line.format(1),
        "Traceback (most recent call last):",
        '  File "data.py", line 3, in f',
        "    g()",
    ]
    lines += ["ValueError: caught", *(line.format(step) for step in range(2, 20))]
    log = tmp_path / "rank_0.txt"
    log.write_text("\n".join([*lines, ""]))
    found = read([log])
    assert (found.outcome, found.master.step, found.master.epoch) == ("interrupted", 19, 1)
    log.write_text("\n".join([*lines, *lines[1:4], "KeyError: 'fatal'", ""]))
    found = read([log])
    assert (found.cause.name, found.first and found.first.text) == ("exception", "KeyError: 'fatal'")
    assert found.cause.kind is Kind.CAUSE


def test_a_chain_of_exceptions_and_lines_of_others_between(tmp_path: Path) -> None:
    log = tmp_path / "rank_0.txt"
    program = (
        "try:\n    {}['a']\nexcept KeyError as error:\n    raise RuntimeError('the configuration') from error"
    )
    (tmp_path / "program.py").write_text(program)
    ended = subprocess.run([sys.executable, tmp_path / "program.py"], stderr=subprocess.PIPE, check=False)
    first, *others = ended.stderr.decode().splitlines()
    log.write_text("\n".join([first, "another rank says this", *others, "and that", ""]))
    found = read([log])
    assert found.first is not None
    assert found.first.text == "RuntimeError: the configuration"
    assert found.first.code == "program.py:4 in <module>"
