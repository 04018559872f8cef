"""A start that goes on from where the one before did says so, and why; too many of them end with a code."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from isc_runtime.checkpointing.on_disk.inventory import take_inventory
from isc_runtime.checkpointing.on_disk.start_notes import FILE, FOLDER, LINK, LOCAL_FILE, Start, StartNotes
from isc_runtime.checkpointing.stores import starts
from isc_runtime.checkpointing.stores.artifact_store import ArtifactStore
from isc_runtime.checkpointing.stores.local_store import LocalStore
from isc_runtime.checkpointing.stores.starts import reasons_of
from isc_runtime.checkpointing.stores.store import Store
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import CheckpointOptions
from isc_runtime.ranks.group import Group
from isc_runtime.rehearsal import artifact
from isc_runtime.tests.checkpointing.test_store import resumed_step, save
from isc_runtime.tests.processes import Place, rest_of, wait_for


def started(store: Store, **options: Any) -> Store:
    """The same directory, as the next start finds it: nothing has told the last one that it would end."""
    store.starts._is_over.set()
    again = type(store)(store.directory, store.group)
    again.begin_start(CheckpointOptions(**options))
    return again


def notes_file(store: Store) -> Path:
    return store.directory / (LOCAL_FILE if isinstance(store, LocalStore) else f"{FOLDER}/{FILE}")


def make(directory: Path) -> Path:
    directory.mkdir()
    return directory


def count(store: Store) -> int:
    notes = StartNotes.read(notes_file(store))
    return 0 if notes is None else notes.count


def test_the_second_start_from_one_position_is_a_warning_and_the_fifth_an_error(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    save(store, 40)
    store = started(store)
    assert "[START]" not in caplog.text
    for number in (2, 3, 4):
        store = started(store)
        assert f"This is start {number} from step 40: the one before has saved nothing" in caplog.text
    with pytest.raises(IscError, match=r"4 starts in a row from step 40 saved nothing") as raised:
        started(store)
    assert raised.value.exit_code is ExitCode.FRUITLESS
    assert raised.value.where == str(store.directory) or raised.value.where == str(store.directory / FOLDER)
    assert "--max-fruitless-starts" in raised.value.hint
    caplog.clear()
    started(store)  # whoever starts it after the error has changed something
    assert "[START]" not in caplog.text


def test_the_number_that_is_too_many_can_be_chosen(store: Store) -> None:
    store = started(store, max_fruitless_starts=2)
    with pytest.raises(IscError, match="1 start in a row from step 0"):
        started(store, max_fruitless_starts=2)
    for _ in range(9):
        store = started(store, max_fruitless_starts=0)
    assert count(store) == 9


def test_a_published_save_is_another_position(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    for step in range(10, 100, 10):
        store = started(store)
        save(store, step)
    assert "[START]" not in caplog.text
    assert resumed_step(store) == 90


def test_another_checkpoint_of_the_same_step_is_another_position(store: Store) -> None:
    save(store, 40)
    store = started(store)
    save(store, 40)
    assert count(started(store)) == 1


def test_fresh_starts_one_after_the_other_are_told_of_it(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store = started(store, fresh=True)
    save(store, 40)
    started(store, fresh=True)
    assert "--fresh makes each start begin anew: leave it out." in caplog.text


@pytest.mark.parametrize(
    ("code", "is_noted"),
    [(1, False), (4, False), (10, False), (8, True), (9, True), (130, True), (143, True)],
)
def test_what_ended_with_a_reason_of_its_own_is_not_fruitless(
    store: Store, code: int, is_noted: bool
) -> None:
    """A signal gives none; and neither does a node that lost another one, as in an interruption."""
    store = started(store)
    store.starts._ended(code)
    assert count(store) == is_noted
    assert (store.directory / LINK).is_symlink() == (is_noted and not isinstance(store, LocalStore))


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"\x80\x04K\x01.",
    "a list": b"[1]",
    "deep": b"[" * 50_000,
    "large": b'{"position": "' + b"x" * 2**17 + b'"}',
    "a huge count": b'{"position": "step 0", "count": ' + b"9" * 40 + b', "last": {}}',
    "a negative count": b'{"position": "step 0", "count": -5, "last": {}}',
    "no number": b'{"position": "step 0", "count": true, "last": {}}',
    "infinity": b'{"position": "step 0", "count": 9, "last": {"seen": 1e999}}',
    "a text for seconds": b'{"position": "step 0", "count": 9, "last": {"seen": "\\u001b[2J"}}',
    "an unknown key": b'{"position": "step 0", "count": 9, "last": {"code": "x"}}',
    "a number for a flag": b'{"position": "step 0", "count": 9, "last": {"is_saving": 1}}',
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=list(HOSTILE))
def test_notes_of_strangers_are_no_notes(
    store: Store, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    file = notes_file(store)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    store = started(store)
    assert "[START]" not in caplog.text
    assert count(store) == 1


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_no_file_of_a_stranger_is_followed(store: Store, kind: str, tmp_path_factory: Any) -> None:
    outside = tmp_path_factory.mktemp("outside") / FILE
    outside.write_bytes(planted := StartNotes("step 0", 9, Start()).content())
    file = notes_file(store)
    file.parent.mkdir(exist_ok=True)
    if kind == "link":
        file.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(file)
    else:
        file.mkdir()
    store = started(store)
    assert outside.read_bytes() == planted
    assert count(store) == (kind != "folder")  # what cannot be noted is not
    save(store, 10)
    assert resumed_step(store) == 10


def test_no_folder_of_a_stranger_is_followed(tmp_path: Path, group: Group) -> None:
    outside = tmp_path / "outside"
    store = ArtifactStore(make(tmp_path / "artifact"), group)
    (make(outside) / FILE).write_bytes(planted := StartNotes("step 0", 9, Start()).content())
    (store.directory / FOLDER).symlink_to(outside)
    (store.directory / LINK).mkdir()
    started(store)
    assert [(path.name, path.read_bytes()) for path in outside.iterdir()] == [(FILE, planted)]
    assert not (store.directory / FOLDER).is_symlink()
    assert (store.directory / LINK).is_symlink()
    assert count(store) == 1


def test_notes_are_no_checkpoint(store: Store) -> None:
    store = started(store)
    assert store.layout.foreign() == []
    assert take_inventory(store.directory).series == []
    assert resumed_step(store) is None
    save(store, 10)
    save(store, 20)
    (series,) = take_inventory(store.directory).series
    assert [checkpoint.step for checkpoint in series.checkpoints] == [10, 20]
    store.set_all_aside()
    assert count(store) == 1
    assert resumed_step(store) is None


def test_notes_are_shipped_with_the_artifact_and_found_where_it_is_then(tmp_path: Path, group: Group) -> None:
    """Of a first cycle that saved nothing, too: nothing but them is in the artifact then."""
    store: Store = ArtifactStore(make(tmp_path / "0"), group)
    for step in (None, 40):
        if step is not None:
            save(store, step)
        store = started(store)
        synced = artifact.sync(store.directory)
        assert FOLDER not in synced.shipped, "what counts for a verdict are checkpoints"
        artifact.leave_only_what_was_shipped(store.directory, artifact.foresee(store.directory))
        moved = store.directory.rename(tmp_path / f"moved after {step}")
        store = ArtifactStore(moved, group)
        store.begin_start(CheckpointOptions())
        assert count(store) == 2
        assert (moved / LINK).resolve() == moved / FOLDER


def test_a_run_that_was_replaced_notes_nothing_any_more(store: Store) -> None:
    first = started(store)
    second = type(store)(store.directory, store.group)
    second.begin_start(CheckpointOptions())
    before = notes_file(store).read_bytes()
    with pytest.raises(OSError, match="No such file"):
        first.starts._write(is_durable=False)
    first.starts.over()
    assert notes_file(store).read_bytes() == before


def test_a_directory_that_takes_no_notes_is_no_reason_to_stop(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    started(store)
    assert "[START] Not noted" in caplog.text
    assert "No space left on device" in caplog.text


def test_a_note_of_which_nobody_knows_whether_it_is_durable_is_taken_away(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has its name already; and what nobody writes on would say that the start ended at once."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    store = started(store)
    with monkeypatch.context() as failing:
        failing.setattr(starts, "sync_directory", fail)
        store.starts.begin(None, CheckpointOptions(), False, time.time())
    assert not notes_file(store).exists()


def test_a_note_that_waited_for_its_turn_is_not_written_after_the_end(store: Store) -> None:
    store = started(store)
    with store.starts._writing:
        late = threading.Thread(target=store.starts._write, kwargs={"is_durable": False})
        late.start()
        store.starts._is_over.set()
        notes_file(store).unlink()
    late.join()
    assert not notes_file(store).exists()


def test_the_reasons() -> None:
    start = Start(mtbf=90.0, seen=88.0)

    def said(is_fresh: bool = False, **known: Any) -> str:
        return " ".join(reasons_of(replace(start, **known), is_fresh))

    assert "start-up took more than 88 s, and no batch was finished" in said()
    slow = said(started=70.0, batches=1)
    assert "start-up took 70 of 88 s, and 1 batch was finished" in slow
    assert "No save was due before its end" in slow
    assert "--mtbf-seconds (90)" in slow
    assert "2 of its saves failed: lines with [FAILED]" in said(started=9.0, failed=2)
    assert "in an evaluation" in said(started=9.0, is_evaluating=True)
    saving = said(started=9.0, is_saving=True)
    assert "A save was on its way, and did not come to its end" in saving
    assert "No save was due" not in saving


def test_a_kill_before_the_first_save_is_told_to_the_next_start_with_its_reason(tmp_path: Path) -> None:
    place = Place(tmp_path, isc_mode=True)
    arguments = ("--save-steps", "1000", "--pause", "0.4", "--epochs", "9", "--batch-size", "4")
    for number in (1, 2, 3):
        process = place.start(*arguments, "--max-fruitless-starts", "3")
        if number < 3:
            said = wait_for(process, f"step {2 + starts.INTERVAL / 0.4:.0f}:")
            process.send_signal(signal.SIGKILL)
        said = said + rest_of(process) if number < 3 else rest_of(process)
        if number == 2:
            assert "This is start 2 from step 0: the one before has saved nothing. In the last one" in said
            assert "batches were finished. No save was due before its end" in said
    assert process.returncode == 10
    assert ": 2 starts in a row from step 0 saved nothing" in said
    assert "Traceback" not in said


def test_a_finished_training_that_is_started_again_and_again_is_not_fruitless(tmp_path: Path) -> None:
    place = Place(tmp_path)
    for _ in range(4):
        ended = place.train("--epochs", "1", "--max-fruitless-starts", "2")
        assert ended.code == 0, ended.output
        assert "[START]" not in ended.output


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_error_of_the_training_s_own_is_not_fruitless(tmp_path: Path, ranks: int) -> None:
    """Whoever writes a training starts it again and again, and sees why it ended."""
    place = Place(tmp_path)
    script = tmp_path / "broken.py"
    script.write_text(place.script.read_text().replace("checkpointer.restore()", "1 / 0"))
    place.script = script
    for _ in range(2):
        ended = (
            place.train("--max-fruitless-starts", "2", ranks=ranks)
            if ranks > 1
            else place.run("--max-fruitless-starts", "2")
        )
        assert ended.code == 1, ended.output
        assert "[START]" not in ended.output


def test_the_time_of_a_start_is_that_of_its_command(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = replace(store.group.environment, started_at=time.time() - 60)
    monkeypatch.setattr(store.group, "environment", environment)
    logging.getLogger("checkpoint").setLevel(logging.INFO)
    store = started(store)
    store.starts.saw(1, 0, False, False)
    store.starts._write(is_durable=False)
    notes = StartNotes.read(notes_file(store))
    assert notes is not None
    assert 60 <= notes.last.started <= notes.last.seen < 120
    assert notes.last.batches == 1
    store.starts.saw(1, 2, True, True)  # a batch of an evaluation, after two failed saves, in a third
    store.starts._write(is_durable=False)
    last = replace(notes.last, failed=2, is_saving=True, is_evaluating=True)
    notes = StartNotes.read(notes_file(store))
    assert notes is not None
    assert replace(notes.last, seen=last.seen) == last
