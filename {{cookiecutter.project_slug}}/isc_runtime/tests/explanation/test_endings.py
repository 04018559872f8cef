"""How programs end that are not ours, really made: by shells, by Python, beside a training that is well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from isc_runtime.explanation.answer import Explanation
from isc_runtime.explanation.command_line import read, run

BEGUN = """🔧 EARLY CHECKPOINT DIRECTORY VALIDATION
   Is Master Process: True
2026-11-24 12:00:00,000 - train - INFO - No checkpoint in /checkpoints: training from step 0
2026-11-24 12:00:09,000 - train - INFO - epoch 0, step 40: loss 0.5
"""
COMPLETE = "2026-11-24 12:00:10,000 - train - INFO - Training is complete: best loss 0.1\n"
LAUNCHER = "isc_runtime: this experiment is complete. A new one goes on from its last checkpoint\n"
UNRAISABLE = """
class Held:
    def __del__(self):
        raise OSError("it is gone already")
held = Held()
del held
"""


def said_by(command: str, cwd: Path) -> str:
    """What a real shell, and what it starts, writes; without a core file."""
    lines = ["bash", "-c", f"ulimit -c 0; {command}"]
    ended = subprocess.run(
        lines, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return ended.stdout


def python(code: str, cwd: Path) -> str:
    (cwd / "train.py").write_text(code)
    return said_by(f"{sys.executable} train.py", cwd)


def explained(text: str, folder: Path) -> Explanation:
    log = folder / "rank_0.txt"
    log.write_text(text)
    return read([log])


def test_a_traceback_that_is_cut_off_is_no_interruption(tmp_path: Path) -> None:
    whole = python("def load():\n    raise KeyError('missing')\n\nload()\n", tmp_path)
    assert whole.splitlines()[-1] == "KeyError: 'missing'"
    cut = "\n".join(whole.splitlines()[:-1])
    found = explained(BEGUN + cut, tmp_path)
    assert (found.outcome, found.cause.name) == ("failed", "exception")
    assert found.first is not None
    assert found.first.code == "train.py:2 in load"
    assert explained(BEGUN + "\n".join(f"[rank1]: {line}" for line in cut.splitlines()), tmp_path).rank == 1


@pytest.mark.parametrize(
    ("code", "cause", "says"),
    [
        ("import queue\nqueue.Queue().get_nowait()", "exception", "_queue.Empty"),
        ("class Boom(Exception): pass\nraise Boom", "exception", "__main__.Boom"),
        ("def f(:\n    pass", "syntax", "SyntaxError: invalid syntax"),
        ("if 1:\npass", "syntax", "IndentationError"),
    ],
)
def test_exceptions_with_other_names(code: str, cause: str, says: str, tmp_path: Path) -> None:
    found = explained(BEGUN + python(code, tmp_path), tmp_path)
    assert (found.outcome, found.cause.name) == ("failed", cause)
    assert found.first is not None
    assert says.removeprefix("__main__.") in found.first.text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups are new in Python 3.11")
def test_a_group_of_exceptions(tmp_path: Path) -> None:
    code = "raise ExceptionGroup('of all loaders', [ValueError('one'), OSError('other')])"
    found = explained(BEGUN + python(code, tmp_path), tmp_path)
    assert found.outcome == "failed"
    assert found.first is not None
    assert "ExceptionGroup: of all loaders" in found.first.text


@pytest.mark.parametrize(
    ("signal", "cause"), [("SEGV", "native-crash"), ("ABRT", "native-crash"), ("KILL", "process-killed")]
)
def test_what_a_shell_says_of_its_child(signal: str, cause: str, tmp_path: Path) -> None:
    said = said_by(f"(kill -{signal} $BASHPID); true", tmp_path)
    found = explained(BEGUN + said, tmp_path)
    assert (found.outcome, found.cause.name) == ("failed", cause), said


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    found = explained(said_by(f"{sys.executable} /root/no/train.py", tmp_path), tmp_path)
    assert found.cause.name == "no-such-script"
    assert found.first is not None
    assert "names a file that is not there: /root/no/train.py" in found.first.meaning


def test_what_a_finalizer_raises_ends_nothing(tmp_path: Path) -> None:
    said = python(UNRAISABLE, tmp_path)
    assert "OSError: it is gone already" in said
    for text in (BEGUN + said, BEGUN + said + COMPLETE, BEGUN + COMPLETE + said):
        assert explained(text, tmp_path).outcome in ("interrupted", "completed")


def test_what_is_ignored_hides_no_failure_that_comes_after_it(tmp_path: Path) -> None:
    pipe = said_by(
        f"env -u PYTHONUNBUFFERED {sys.executable} -c 'print(1)' 2>&1 >/dev/full", tmp_path
    )  # without a traceback
    assert "Exception ignored" in pipe
    assert "Traceback" not in pipe
    ignored = python(UNRAISABLE, tmp_path)
    chain = "\nDuring handling of the above exception, another exception occurred:\n\n"
    chained = ignored + chain + python("1 / 0", tmp_path)  # some versions of Python show that too
    for before in (pipe, ignored, chained):
        assert explained(BEGUN + before + COMPLETE, tmp_path).outcome == "completed"
        assert explained(BEGUN + before, tmp_path).outcome == "interrupted"
        found = explained(BEGUN + before + python("{}['missing']", tmp_path), tmp_path)
        assert (found.outcome, found.cause.name) == ("failed", "exception")


def test_words_of_the_user_s_own_are_no_crash(tmp_path: Path) -> None:
    said = "corrupted image 7 is skipped\nAborted the download of one file\nKilled one idle connection\n"
    assert explained(BEGUN + said, tmp_path).outcome == "interrupted"
    cut = python("def load():\n    raise KeyError('missing')\n\nload()\n", tmp_path).splitlines()[:-1]
    assert explained(BEGUN + "\n".join([*cut, "Killed"]), tmp_path).cause.name == "process-killed"
    crash = "double free or corruption (!prev)\n"
    assert explained(BEGUN + crash, tmp_path).cause.name == "native-crash"


def test_a_training_of_one_s_own_words_is_complete_when_its_launcher_says_so(tmp_path: Path) -> None:
    assert explained(f"rm: cannot remove 'x': Permission denied\nall done\n{LAUNCHER}", tmp_path).outcome == (
        "completed"
    )


@pytest.mark.parametrize(
    "line",
    [
        "rm: cannot remove '/data/x': Permission denied",
        "wandb: ERROR Max retries exceeded with url: /graphql",
        "x.py:1: UserWarning: CUDA initialization: Found no NVIDIA driver on your system.",
    ],
)
def test_a_training_that_is_complete_has_survived_what_was_said_before(line: str, tmp_path: Path) -> None:
    assert explained(f"{BEGUN}{line}\n{COMPLETE}", tmp_path).outcome == "completed"
    assert explained(f"{BEGUN}{COMPLETE}{line}\n{LAUNCHER}", tmp_path).outcome == "completed"
    said = python("1 / 0", tmp_path)
    assert explained(BEGUN + COMPLETE + said, tmp_path).outcome == "failed", "that came after it"


def test_a_warning_is_no_failure_of_a_training_that_goes_on(tmp_path: Path) -> None:
    line = "x.py:1: UserWarning: CUDA initialization: Found no NVIDIA driver on your system.\n"
    assert explained(BEGUN + line, tmp_path).outcome == "interrupted"


def test_other_texts_beside_the_logs_of_nodes_are_no_nodes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explained(BEGUN + COMPLETE, tmp_path)
    (tmp_path / "requirements.txt").write_text("torch==2.13.0\n")
    (tmp_path / "notes.txt").write_text("The last one ended with: CUDA out of memory\n")
    assert run([tmp_path], json=False) == 0
    assert "complete" in capsys.readouterr().out
    (tmp_path / "rank_0.txt").rename(tmp_path / "train.log")
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "train.log").write_text(BEGUN + python("1 / 0", tmp_path))
    assert run([tmp_path], json=False) == 1, "the list of requirements was not interrupted"


def test_the_same_log_twice_is_one_attempt(tmp_path: Path) -> None:
    explained(BEGUN, tmp_path)
    (node,) = read([tmp_path / "rank_0.txt", tmp_path / "rank_0.txt"]).nodes
    assert len(node.attempts) == 1


def test_a_scheduler_s_words_are_no_arguments(tmp_path: Path) -> None:
    """As in https://slurm.schedmd.com and its users' logs."""
    said = (
        "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the tasks have been OOM Killed."
    )
    assert explained(BEGUN + said + "\n", tmp_path).cause.name == "oom-killer"


def test_long_lines_without_blanks_take_no_time(tmp_path: Path) -> None:
    line = '{"error":"' + "x" * 1900 + '"}\n'
    assert explained(BEGUN + line * 1000, tmp_path).outcome == "interrupted"
