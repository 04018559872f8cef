"""Is this place ready to train in? Found out before a second of training is spent.

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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from isc_runtime import gpus
from isc_runtime.checkpointing.on_disk.durable import PROBE_PREFIX, probe, write_durably
from isc_runtime.environment import LOCAL_CHECKPOINT_DIRECTORY, Environment
from isc_runtime.errors import IscError
from isc_runtime.options import CheckpointOptions
from isc_runtime.standard_streams import outlive_streams

if TYPE_CHECKING:
    from isc_runtime.checkpointing.stores.artifact_store import ArtifactStore
    from isc_runtime.checkpointing.stores.store import Store
    from isc_runtime.ranks.group import Group

PACKAGES = ("torch", "numpy", "xxhash")  # without these nothing works; cycling_utils in ISC mode only
RULE = "=" * 60
SAID = "ISC_RUNTIME_STAGE_1"  # launch.sh sets it for the ranks that it starts
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
    """Both stages under the name and the signature that teams know; train.py calls what it consists of.

    Args:
        isc_mode: whether this is the ISC; otherwise checkpoints go to `./checkpoints`.
        is_master: whether this process speaks for the others.
        defer_atomic_directory: True before the process group exists (stage 1). Otherwise (stage 2) all
            ranks must call it, inside `ranks.group.process_group`, and the AtomicDirectory is made.

    Returns:
        The checkpoint directory, and in stage 2 in ISC mode the saver: `prepare_checkpoint_directory` and
        `symlink_latest`, collectives that every rank calls. Otherwise the saver is None.

    Raises:
        IscError: as `check_place` and `open_store`.
    """
    environment = Environment.read()
    if not isc_mode:
        environment = replace(
            environment, lossy_artifact_path=None, checkpoint_artifact_path=None, output_path=None
        )
    if defer_atomic_directory:
        return check_place(environment, is_master), None
    from isc_runtime.ranks.group import current_group

    store = open_store(environment, current_group(), speaks=is_master)
    return store.directory, store if isc_mode else None  # type: ignore[return-value]  # an ArtifactStore


def check_place(environment: Environment, speaks: bool | None = None) -> Path:
    """Stage 1: checks that checkpoints can be written, and says step by step what it finds.

    Args:
        environment: what the variables say.
        speaks: whether this process writes the log block; by default one of each node does, and none where
            launch.sh has said all this before.

    Returns:
        The checkpoint directory.

    Raises:
        IscError: the place is not ready; the message says what is wrong, where, and what to do.
    """
    outlive_streams()  # a log that cannot be written is no reason not to train
    is_first = environment.local_rank == 0 and SAID not in os.environ
    report = Report(is_first if speaks is None else speaks)
    report.begin("EARLY CHECKPOINT DIRECTORY VALIDATION", environment)
    directory = _validate(environment, report)
    if environment.needs_gpus and environment.local_rank == 0:
        gpus.require_gpus(environment.asked_device)
        report(f"✅ GPUs: {gpus.story()}")
        if small := gpus.small_shared_memory():
            report(f"⚠️ {small}")
    report(RULE)
    return directory


def open_store(
    environment: Environment,
    group: Group,
    keep: int = 0,
    speaks: bool | None = None,
    options: CheckpointOptions | None = None,
) -> Store:
    """Stage 2: the ranks know each other, and what one of them finds wrong ends them all. A collective.

    Args:
        environment: what the variables say.
        group: the ranks.
        keep: how many checkpoints to keep, besides the best and the anchors; 0 is all.
        speaks: whether this process writes the log block; by default one of each node does.
        options: how the training saves; `keep` counts where they are not given.

    Returns:
        Where checkpoints live: the ISC's artifact, with its AtomicDirectory, or a folder.

    Raises:
        RankError: the place is not ready on some rank, or too many starts there have saved nothing.
    """
    from isc_runtime.checkpointing.stores.artifact_store import ArtifactStore
    from isc_runtime.checkpointing.stores.local_store import LocalStore
    from isc_runtime.ranks.sameness import check_same
    from isc_runtime.ranks.self_test import check_devices

    check_same(group)
    check_devices(group)
    report = Report(environment.local_rank == 0 if speaks is None else speaks)
    report.begin("CHECKPOINT DIRECTORY VALIDATION", environment)

    def validate() -> Path:
        directory = _validate(environment, report)
        if environment.isc_mode:
            _import_cycling_utils()
        return directory

    directory = group.each(validate)
    # The store first: a second training that starts here clears away what the look below leaves for a moment.
    options = options or CheckpointOptions(keep_checkpoints=keep)
    kind: type[Store] = ArtifactStore if environment.isc_mode else LocalStore
    store = kind(directory, group, options.keep_checkpoints)
    group.master(lambda: store.begin_start(options))
    _check_shared(directory, group)
    if environment.isc_mode:
        report("✅ AtomicDirectory initialized successfully")
    report(RULE)
    return store


class Report:
    """The log block of the validation, in plain lines.

    Args:
        speaks: whether this process is the one that prints.
    """

    def __init__(self, speaks: bool) -> None:
        self._speaks = speaks

    def begin(self, title: str, environment: Environment) -> None:
        """The head of the block."""
        is_master = environment.is_master and environment.node_rank == 0
        self(f"🔧 {title}", RULE, "🔍 Checkpoint Directory Validation:")
        self(f"   ISC Mode: {environment.isc_mode}", f"   Is Master Process: {is_master}")

    def __call__(self, *lines: str) -> None:
        if self._speaks:
            encoding = sys.stdout.encoding or "ascii"  # a log without UTF-8 gets question marks, not a crash
            for line in lines:
                print(line.encode(encoding, "replace").decode(encoding), flush=True)


def _validate(environment: Environment, report: Report) -> Path:
    isc_mode = environment.isc_mode
    report(f"   LOSSY_ARTIFACT_PATH: {environment.lossy_artifact_path or 'not set'}")
    _check_packages(isc_mode)
    if isc_mode:
        report("✅ ISC cluster mode detected")
        name, directory = environment.checkpoint_variable()
        report(f"   Checking {name} environment variable...", f"   {name}: {directory}")
        report(f"✅ {name} found: {directory}")
        lossy = Path(environment.lossy_artifact_path or "")
        _check_directory(lossy, "LOSSY_ARTIFACT_PATH")
    else:
        environment.check_mode()
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


def _check_packages(isc_mode: bool) -> None:
    names = (*PACKAGES, "cycling_utils") if isc_mode else PACKAGES
    for name in names:
        if importlib.util.find_spec(name) is None:
            here = "Activate the environment that has it (. .venv/bin/activate), or fill this one: make setup"
            locked = f"Install it: {sys.executable} -m pip install --require-hashes -r requirements.lock"
            own = f"Install it: {sys.executable} -m pip install --no-deps -r requirements-cycling-utils.txt"
            hint = own if name == "cycling_utils" else locked if isc_mode else here
            raise IscError(f"The package {name} is not installed", sys.executable, hint)


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
    cure = CURES.get(error.errno or 0, "Fix it, or use another directory.")
    return IscError(f"{what} ({error.strerror})", directory, cure)


def _check_shared(directory: Path, group: Group) -> None:
    """Does every node see what the master writes? AtomicDirectory needs it, and nothing promises it."""
    token = f"{PROBE_PREFIX}{uuid.uuid4().hex}"
    token = group.master(lambda: token)
    group.master(lambda: _show(directory / token))
    try:
        group.each(lambda: _wait_for(directory / token) if group.environment.local_rank == 0 else None)
    finally:
        if group.is_master:
            (directory / token).unlink(missing_ok=True)


def _show(file: Path) -> None:
    try:
        write_durably(file, file.name.encode())
    except OSError as error:  # it was writable a moment ago
        raise _unfit("The checkpoint directory is not writable any more", file.parent, error) from error


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
