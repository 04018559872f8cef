"""In a rehearsal, in each rank: tells what it trains on, without a change to the training.

Python imports a module of this name when it starts, if one is found; the rehearsal puts this folder into
PYTHONPATH. In a rank (torchrun sets LOCAL_RANK) it writes a line of JSON for each of these, into a file that
isc_runtime.rehearsal.trace reads:

    ["start", pid, script]             once; SIGUSR2 makes this process write where all its threads stand
    ["loader", length]                 the next batches come from another iteration of a DataLoader
    ["batch", [indices]]               these samples are loaded for the training
    ["given"]                          where they are loaded ahead (`training.ahead`): it gets the next ones
    ["step", step, epoch, time]        Checkpointer.poll() was called after another step
    ["restored", seconds, is timed]    Checkpointer.restore() took so long; whether time will end the training
    ["published", step, time]          the checkpoint of that step is complete, and the newest one
    ["save", path]                     torch.save() was called with a path
    ["left out", [names]]              the training has these attributes, which have a state and are not saved
    ["generators", [names]]            the data hold these generators of their own
    ["wrote", path, time] and others   what is not new in each cycle: see isc_rehearsal_files.py

Gradients tell a batch to train on from one to evaluate. This must work in whatever process starts with this
PYTHONPATH, torchrun included: standard library only, and an error here never ends a training.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

FOLDER_VARIABLE = "ISC_REHEARSAL_TRACE"
FILES_VARIABLE = "ISC_REHEARSAL_FILES"
FAIL_VARIABLE = (
    "ISC_REHEARSAL_FAIL"  # a rank ends with this exit code at once: what does the command end with?
)

OF_FUNCTIONS = ("__self__", "func", "args", "keywords")
SMALL, LOOKED_AT = 100, 1000  # items of a container; objects among which generators are looked for


class Observer:
    """Writes what this rank does.

    Args:
        folder: where its file goes.
        rank: which rank it is.
    """

    def __init__(self, folder: Path, rank: str) -> None:
        # A process that a rank starts has the same variables; only the first one is the rank.
        self._file = (folder / f"rank_{rank}.jsonl").open("xb", buffering=0)
        self._stacks = (folder / f"rank_{rank}.stacks").open("w")
        self._pid = os.getpid()
        self._iteration: Any = None
        self._step: int | None = None
        self.files: Any = None
        faulthandler.register(signal.SIGUSR2, file=self._stacks, all_threads=True)
        self.write("start", self._pid, script_of(sys.orig_argv))

    def write(self, *line: Any) -> None:
        """Writes one line, in the rank itself and not in a worker that was forked from it."""
        if os.getpid() == self._pid:
            self.tell(*line)

    def tell(self, *line: Any) -> None:
        """Writes one line, in a worker, too: at once, so that no other one comes between."""
        with contextlib.suppress(OSError, ValueError):  # a full disk must not end the training here
            os.write(self._file.fileno(), f"{json.dumps(line, default=str)}\n".encode())

    def watch_files(self, since: float, own: Sequence[str], there: Sequence[str]) -> None:
        """Hears which files are opened outside of some folders."""
        self.files = importlib.import_module("isc_rehearsal_files").Files(self.tell, own, since, there)
        sys.addaudithook(self.files.hear)

    def watch_data_loader(self, module: ModuleType) -> None:
        """Wraps the iteration of torch's DataLoader, whatever sampler it has."""
        import torch

        iteration = module._BaseDataLoaderIter
        next_index, next_batch, reset = iteration._next_index, iteration.__next__, iteration._reset

        def note_index(self: Any) -> Any:
            index = next_index(self)
            self.__dict__.setdefault("_rehearsed", deque()).append(
                index
            )  # workers are given them ahead of time
            return index

        def note_batch(this: Any) -> Any:
            batch = next_batch(this)
            indices = this.__dict__.get("_rehearsed")
            if indices and torch.is_grad_enabled():
                self._note_batch(this, indices.popleft())
            return batch

        def note_reset(this: Any, *arguments: Any, **named: Any) -> Any:
            this.__dict__.get("_rehearsed", deque()).clear()
            if this is self._iteration:  # workers that stay iterate again
                self._iteration = None
            return reset(this, *arguments, **named)

        iteration._next_index, iteration.__next__, iteration._reset = note_index, note_batch, note_reset

    def _note_batch(self, iteration: Any, indices: Any) -> None:
        if iteration is not self._iteration:
            self._iteration = iteration
            length = None
            with contextlib.suppress(TypeError, AttributeError, NotImplementedError):
                length = len(iteration._dataset)
            self.write("loader", length)
            with contextlib.suppress(Exception):  # it is the user's, whatever it is
                if found := generators_in(iteration._dataset):
                    self.write("generators", sorted(found))
        self.write("batch", list(indices) if isinstance(indices, list | tuple) else [indices])

    def watch_ahead(self, module: ModuleType) -> None:
        """Wraps what gives out batches that were loaded ahead of time."""
        import torch

        arrived = module._Ahead._arrived

        def note_arrived(this: Any, *arguments: Any) -> Any:
            if torch.is_grad_enabled():
                self.write("given")
            return arrived(this, *arguments)

        module._Ahead._arrived = note_arrived

    def watch_checkpointer(self, module: ModuleType) -> None:
        """Wraps Checkpointer.poll(), which every rank calls after every batch, and in evaluations."""
        restore, poll = module.Checkpointer.restore, module.Checkpointer.poll

        def note_restore(this: Any) -> Any:
            begun = time.time()
            restored = restore(this)
            seconds, most = time.time() - begun, getattr(getattr(this, "options", None), "max_seconds", None)
            self.write("restored", seconds, most is not None and most < float("inf"))
            with contextlib.suppress(Exception):
                self.write(
                    "left out", sys.modules["isc_runtime.checkpointing.parts"].left_out(this._training)
                )
            self._step = (
                this._sampler.progress.step
            )  # a resume may begin with an evaluation, which is no step
            return restored

        def note_poll(this: Any) -> None:
            progress = this._sampler.progress
            if progress.step != self._step:
                self._step = progress.step
                self.write("step", progress.step, progress.epoch, time.time())
            poll(this)

        module.Checkpointer.restore, module.Checkpointer.poll = note_restore, note_poll

    def watch_save_log(self, module: ModuleType) -> None:
        """Wraps SaveLog.succeeded(), which says on all ranks that a checkpoint is published."""
        succeeded = module.SaveLog.succeeded

        def note_succeeded(this: Any, save: Any, ended: Any) -> None:
            self.write("published", save.step, time.time())
            succeeded(this, save, ended)

        module.SaveLog.succeeded = note_succeeded

    def watch_save(self, module: ModuleType) -> None:
        """Wraps torch.save()."""
        save = module.__dict__["save"]

        def note_save(obj: Any, f: Any, *arguments: Any, **named: Any) -> Any:
            if isinstance(f, str | os.PathLike):
                self.write("save", os.path.abspath(f))  # noqa: PTH100 - as it was meant when it was called
                if self.files is not None:
                    self.files.hear("open", (f, "w", os.O_WRONLY))  # not by Python, which would tell it
            return save(obj, f, *arguments, **named)

        module.__dict__["save"] = note_save


def script_of(command_line: Sequence[str]) -> str | None:
    """The Python file that a command line runs; None if it names none."""
    script = next((word for word in command_line[1:] if word.endswith(".py")), None)
    return None if script is None else os.path.realpath(script)


def generators_in(dataset: Any) -> set[str]:
    """The names of the random number generators that a dataset, and what it is made of, hold, but for those
    that are set anew for each batch.

    Looked through are attributes, what functions have captured, small containers, and the files of the
    project in which classes and functions are defined.
    """
    import random

    import numpy as np
    import torch

    from isc_runtime.inside import generators_inside

    own = vars(dataset)  # of what makes batches of the user's
    is_set_anew = not hasattr(own.get("dataset", own.get("_dataset")), "state_dict")
    kinds = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
    found: set[str] = set()
    seen = {id(one) for one in generators_inside(dataset).values() if is_set_anew}
    waiting: deque[tuple[str, Any]] = deque([("", dataset)])
    while waiting and len(seen) < LOOKED_AT:
        name, node = waiting.popleft()
        if id(node) in seen or isinstance(node, ModuleType):
            continue
        seen.add(id(node))
        if isinstance(node, kinds):
            found.add(name)
        else:
            waiting.extend((f"{name}.{key}".lstrip("._"), part) for key, part in _parts(node))
    return found


def _parts(node: Any) -> list[tuple[str, Any]]:
    """What generators are looked for in, by name."""
    if isinstance(node, dict | list | tuple):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return [(str(key), part) for key, part in items] if len(node) <= SMALL else []
    parts = [] if isinstance(node, type) else list(getattr(node, "__dict__", {}).items())
    parts += [(name, getattr(node, name)) for name in OF_FUNCTIONS if hasattr(node, name)]
    parts += [("captured", cell.cell_contents) for cell in getattr(node, "__closure__", None) or ()]
    made_by = node if isinstance(node, type | FunctionType) else type(node)
    module = sys.modules.get(made_by.__module__)
    file = Path(getattr(module, "__file__", None) or "/")
    others = {"isc_runtime", "site-packages"}
    is_the_project_s = file.is_relative_to(sys.path[0]) and others.isdisjoint(file.parts)
    return parts + (list(vars(module).items()) if is_the_project_s else [])


class ImportHook(importlib.abc.MetaPathFinder):
    """Calls a function right after a module was imported for the first time.

    Args:
        actions: the function for each module.
    """

    def __init__(self, actions: dict[str, Callable[[ModuleType], None]]) -> None:
        self._actions = actions

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        action = self._actions.pop(fullname, None)  # taken away while the others look
        if action is None:
            return None
        spec = importlib.util.find_spec(fullname)
        self._actions[fullname] = action  # many only look whether a module is there
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def execute_and_act(module: ModuleType) -> None:
            execute(module)
            if self._actions.pop(fullname, None) is not None:
                with contextlib.suppress(Exception):  # another version of torch may be made otherwise
                    action(module)

        spec.loader.exec_module = execute_and_act  # type: ignore[method-assign]
        return spec


def observe() -> None:
    """Starts to watch, if this process is a rank of a rehearsal."""
    folder, rank = os.environ.get(FOLDER_VARIABLE), os.environ.get("RANK")
    if folder is None or rank is None or "LOCAL_RANK" not in os.environ:
        return
    try:
        observer = Observer(Path(folder), rank)
    except OSError:
        return
    if FAIL_VARIABLE in os.environ:
        os._exit(int(os.environ[FAIL_VARIABLE]))
    with contextlib.suppress(KeyError):
        observer.watch_files(*json.loads(os.environ[FILES_VARIABLE]))
    actions: dict[str, Callable[[ModuleType], None]] = {
        "torch.utils.data.dataloader": observer.watch_data_loader,
        "torch": observer.watch_save,
        "isc_runtime.training.ahead": observer.watch_ahead,
        "isc_runtime.checkpointing.checkpointer": observer.watch_checkpointer,
        "isc_runtime.checkpointing.save_log": observer.watch_save_log,
    }
    sys.meta_path.insert(0, ImportHook(actions))


observe()
