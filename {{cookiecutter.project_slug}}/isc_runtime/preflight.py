"""Is this place fit to train in? Found out before a second of training is spent.

Stage 1 runs before torch is imported and needs the standard library only. Stage 2 runs when the ranks know
each other, and what one of them finds wrong ends them all.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from isc_runtime.checkpointing.durable import PROBE_PREFIX, probe, write_durably
from isc_runtime.environment import LOCAL_CHECKPOINT_DIRECTORY, Environment
from isc_runtime.errors import IscError

if TYPE_CHECKING:
    from isc_runtime.checkpointing.artifact_store import ArtifactStore
    from isc_runtime.ranks.group import Group

PACKAGES = ("torch", "numpy", "xxhash")  # without these nothing works; cycling_utils in ISC mode only
RULE = "=" * 60
SHARED_SECONDS = 1.5  # a network file system may take a moment to show a new file

CURES = {
    errno.ENOSPC: "The disk is full: delete what is no longer needed.",
    errno.EDQUOT: "The quota is used up: delete what is no longer needed.",
    errno.EROFS: "It is mounted read-only: use another directory.",
    errno.EACCES: "Give this user the right to list, enter and write it, or use another directory.",
    errno.EPERM: "The file system forbids it (symbolic links, perhaps): use another directory.",
    errno.EIO: "The disk or the network behind it is failing: use another directory, and tell who runs it.",
}


def validate_and_setup_checkpoint_directory(
    isc_mode: bool, is_master: bool = True, defer_atomic_directory: bool = False
) -> tuple[Path, ArtifactStore | None]:
    """Checks that checkpoints can be written, and says step by step what it finds.

    Args:
        isc_mode: whether this is the ISC; otherwise checkpoints go to `./checkpoints`.
        is_master: whether this process speaks for the others.
        defer_atomic_directory: True before the process group exists (stage 1). Otherwise (stage 2) all
            ranks must call it, inside `ranks.group.process_group`, and the AtomicDirectory is made.

    Returns:
        The checkpoint directory, and in stage 2 in ISC mode the saver: `prepare_checkpoint_directory` and
        `symlink_latest`, collectives that every rank calls. Otherwise the saver is None.

    Raises:
        IscError: the place is not fit; the message says what is wrong, where, and what to do. In stage 2
            all ranks raise it, whichever found it.
    """
    environment = Environment.read()
    title = (
        "EARLY CHECKPOINT DIRECTORY VALIDATION"
        if defer_atomic_directory
        else "CHECKPOINT DIRECTORY VALIDATION"
    )
    report = Report(is_master)
    report(f"🔧 {title}", RULE, "🔍 Checkpoint Directory Validation:")
    report(f"   ISC Mode: {isc_mode}", f"   Is Master Process: {is_master}")
    if defer_atomic_directory:
        directory = _validate(environment, isc_mode, report)
        report(RULE)
        return directory, None
    from isc_runtime.ranks.group import current_group

    group = current_group()
    with group.agreement():
        directory = _validate(environment, isc_mode, report)
        if isc_mode:
            _import_cycling_utils()
    _check_shared(directory, group)
    saver = None
    if isc_mode:
        from isc_runtime.checkpointing.artifact_store import ArtifactStore

        saver = ArtifactStore(directory, group)
        report("✅ AtomicDirectory initialized successfully")
    report(RULE)
    return directory, saver


class Report:
    """The log block of the validation: plain lines, from the master alone.

    Args:
        speaks: whether this process is the one that prints.
    """

    def __init__(self, speaks: bool) -> None:
        self._speaks = speaks

    def __call__(self, *lines: str) -> None:
        if self._speaks:
            encoding = sys.stdout.encoding or "ascii"  # a log without UTF-8 gets question marks, not a crash
            for line in lines:
                print(line.encode(encoding, "replace").decode(encoding), flush=True)


def _validate(environment: Environment, isc_mode: bool, report: Report) -> Path:
    report(f"   LOSSY_ARTIFACT_PATH: {environment.lossy_artifact_path or 'not set'}")
    _check_packages((*PACKAGES, "cycling_utils") if isc_mode else PACKAGES)
    if isc_mode:
        report("✅ ISC cluster mode detected")
        name, directory = environment.checkpoint_variable()
        report(f"   Checking {name} environment variable...", f"   {name}: {directory}")
        report(f"✅ {name} found: {directory}")
        lossy = Path(environment.lossy_artifact_path or "")
        _check_directory(lossy, "LOSSY_ARTIFACT_PATH")
    else:
        report("✅ Local mode detected")
        name, directory = "local mode", LOCAL_CHECKPOINT_DIRECTORY.absolute()
        _make_directory(directory)
    _check_directory(directory, name)
    report(f"✅ Directory exists: {directory}")
    if environment.local_rank == 0:  # one prober a node
        _check_writable(directory, name)
        if isc_mode:
            _check_writable(lossy, "LOSSY_ARTIFACT_PATH")
        report(f"✅ Directory is writable: {directory}")
    return directory


def _check_packages(names: tuple[str, ...]) -> None:
    for name in names:
        if importlib.util.find_spec(name) is None:
            source = "requirements-cycling-utils.txt" if name == "cycling_utils" else "requirements.in"
            raise IscError(
                f"The package {name} is not installed",
                sys.executable,
                f"Install it: {sys.executable} -m pip install -r {source}",
            )


def _import_cycling_utils() -> None:
    try:
        import cycling_utils  # noqa: F401
    except Exception as error:  # torchvision built for another torch raises RuntimeError
        raise IscError(
            f"cycling_utils is installed and cannot be imported ({type(error).__name__}: {error})",
            sys.executable,
            "It needs the torchvision that was built for this torch: install both from requirements.lock.",
        ) from error


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(exist_ok=True)
    except FileExistsError:
        pass  # not a directory: said below
    except OSError as error:
        raise _unfit("The checkpoint directory cannot be made", directory, error) from error


def _check_directory(directory: Path, name: str) -> None:
    try:
        if not directory.is_dir():
            kind = "is not a directory" if os.path.lexists(directory) else "does not exist"
            raise IscError(
                f"The directory of {name} {kind}",
                directory,
                "On the ISC the platform makes it; elsewhere make it, or correct the variable.",
            )
        with os.scandir(directory) as entries:
            next(entries, None)
    except OSError as error:
        raise _unfit(f"The directory of {name} cannot be listed", directory, error) from error


def _check_writable(directory: Path, name: str) -> None:
    try:
        probe(directory)
    except OSError as error:
        raise _unfit(f"The directory of {name} is not writable", directory, error) from error


def _unfit(what: str, directory: Path, error: OSError) -> IscError:
    cure = CURES.get(error.errno or 0, "Mend it, or use another directory.")
    return IscError(f"{what} ({error.strerror})", directory, cure)


def _check_shared(directory: Path, group: Group) -> None:
    """Does every node see what the master writes? AtomicDirectory needs it, and nothing promises it."""
    token = f"{PROBE_PREFIX}{uuid.uuid4().hex}"
    token = group.on_master(lambda: token)
    group.on_master(lambda: write_durably(directory / token, token.encode()))
    try:
        with group.agreement():
            if group.environment.local_rank == 0:
                _wait_for(directory / token)
    finally:
        if group.is_master:
            (directory / token).unlink(missing_ok=True)


def _wait_for(file: Path) -> None:
    deadline = time.monotonic() + SHARED_SECONDS
    while not file.exists():
        if time.monotonic() > deadline:
            raise IscError(
                "This node does not see what the master writes to the checkpoint directory",
                file.parent,
                "All nodes must mount one and the same directory there.",
            )
        time.sleep(0.05)
        list(file.parent.iterdir())  # makes a network file system look again
