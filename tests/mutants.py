"""`make mutants`: small mistakes planted in isc_runtime, to see which ones its own tests notice.

mutmut makes the mistakes: another comparison, a call left out or with None, a number more. Its own runner
asks which tests call a function in its own process, and ours run as ranks, in forks and by torchrun; so this
program runs, for each mutant, the tests of the module it is in, in a fork in which torch is imported already.
All are too many: they are drawn by a seed, and each module gets as much time as any other.

    python tests/mutants.py [--seed N] [--only PART] [--minutes N]     # writes build/mutants.md
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
PROJECT = BUILD / "mutants" / "isc-experiment"
TESTS = {  # for each module the tests that are about it
    "checkpointing.checkpointer": "checkpointer publishing two_ranks held_up",
    "checkpointing.publishing": "checkpointer publishing two_ranks held_up",
    "checkpointing.resuming": "checkpointer",
    "checkpointing.save_log": "checkpointer publishing held_up",
    "checkpointing.clock": "clock",
    "checkpointing.importing": "importing",
    "checkpointing.imported": "imported importing",
    "checkpointing.initial": "initial",
    "checkpointing.asked": "asked",
    "checkpointing.choosing": "choosing",
    "checkpointing.forms": "forms",
    "checkpointing.held": "held",
    "checkpointing.loading": "checkpointer asked loading",
    "checkpointing.parts": "parts checkpointer",
    "checkpointing.policy": "policy",
    "checkpointing.saving.save": "publishing",
    "checkpointing.saving.sharded_save": "publishing order_on_disk",
    "checkpointing.saving.shard_writer": "order_on_disk publishing",
    "checkpointing.saving.snapshot": "snapshot publishing",
    "checkpointing.saving.state_size": "state_size",
    "background": "publishing",
    "checkpointing.saving.step_hold": "step_hold snapshot",
    "checkpointing.saving.finite": "finite",
    "checkpointing.saving.loadable": "loadable",
    "checkpointing.saving.pinned": "pinned",
    "checkpointing.stores.artifact_store": "store order_on_disk",
    "checkpointing.stores.keeping": "keeping store",
    "checkpointing.stores.local_store": "store order_on_disk",
    "checkpointing.stores.repair": "repair store",
    "checkpointing.stores.store": "store order_on_disk",
    "checkpointing.stores.fence": "fence",
    "checkpointing.stores.lock": "lock",
    "checkpointing.stores.output": "output",
    "checkpointing.stores.starts": "starts",
    "checkpointing.on_disk.durable": "durable order_on_disk",
    "checkpointing.on_disk.entries": "layout repair store",
    "checkpointing.on_disk.foreign": "foreign",
    "checkpointing.on_disk.foreign_state": "importing initial",
    "checkpointing.on_disk.outline": "outline",
    "checkpointing.on_disk.start_notes": "starts",
    "checkpointing.on_disk.export": "export",
    "checkpointing.on_disk.inventory": "inventory",
    "checkpointing.on_disk.layout": "layout repair store",
    "checkpointing.on_disk.inventory_report": "inventory",
    "checkpointing.on_disk.manifest": "manifest hostile",
    "checkpointing.on_disk.payload": "hostile export",
    "checkpointing.on_disk.untrusted": "hostile manifest",
    "checkpointing.on_disk.verification": "manifest hostile store",
    "ranks.parallel": "parallel",
    "ranks.buffers": "buffers",
    "ranks.building": "building",
    "ranks.replicas": "replicas parallel",
    "ranks.sharding": "sharding",
    "ranks.division": "division sharding",
    "ranks.untouched": "untouched",
    "ranks.group": "group watch",
    "ranks.reporting": "group torchrun",
    "ranks.watch": "watch group",
    "ranks.deadline": "deadline watch",
    "ranks.explained": "explained determinism",
    "ranks.mailbox": "order_on_disk publishing",
    "ranks.interruption": "interruption",
    "ranks.rank_error": "group two_ranks",
    "ranks.ending": "group watch",
    "ranks.collective_error": "collective_error",
    "ranks.determinism": "determinism",
    "ranks.device": "device",
    "ranks.interfaces": "interfaces",
    "ranks.sameness": "sameness",
    "ranks.self_test": "self_test",
    "ranks.launching.fork_server": "torchrun",
    "ranks.launching.launch": "launch",
    "ranks.launching.node": "node roll_call",
    "ranks.launching.rank": "torchrun",
    "ranks.launching.roll_call": "roll_call",
    "ranks.launching.torchrun": "torchrun",
    "ranks.shards": "parallel two_ranks",
    "ranks.shard_files": "shard_files",
    "ranks.shard_metadata": "shard_metadata",
}
LIMIT = 120.0  # seconds; a mutant whose tests take longer makes them hang


@dataclass
class Module:
    """A module with mutants in it.

    Attributes:
        name: below `isc_runtime`.
        mutants: their names, as mutmut gives them.
        code: with all mutants in it.
        tried: so many were.
        seconds: that took so long.
        survivors: those that no test noticed.
    """

    name: str
    mutants: list[str]
    code: str
    tried: int = 0
    seconds: float = 0.0
    survivors: list[str] = field(default_factory=list)

    @property
    def tests(self) -> list[str]:
        """The files with its tests."""
        found = [PROJECT.glob(f"isc_runtime/tests/**/test_{test}.py") for test in TESTS[self.name].split()]
        return [str(path.relative_to(PROJECT)) for paths in found for path in paths]

    def difference(self, mutant: str) -> str:
        """What a mutant changes."""
        tree = ast.walk(ast.parse(self.code))
        bodies = {node.name: node.body for node in tree if isinstance(node, ast.FunctionDef)}
        names = (mutant.rpartition("__mutmut_")[0] + "__mutmut_orig", mutant)
        original, changed = (ast.unparse(ast.Module(bodies[name], [])).splitlines() for name in names)
        lines = list(difflib.unified_diff(original, changed, n=1, lineterm=""))
        return "\n".join(lines[2:])


def bake() -> None:
    """Writes the project that all default answers give."""
    shutil.rmtree(PROJECT.parent, ignore_errors=True)
    command = [
        sys.executable,
        "-m",
        "cookiecutter",
        str(ROOT),
        "--no-input",
        "--output-dir",
        str(PROJECT.parent),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def plant(name: str) -> Module:
    """Puts all mutants of a module into it; which one is awake a variable says."""
    from mutmut.mutation.file_mutation import mutate_file_contents

    path = PROJECT / "isc_runtime" / f"{name.replace('.', '/')}.py"
    mutated = mutate_file_contents(str(path), path.read_text())
    path.write_text(mutated.code)
    return Module(name, list(mutated.mutant_names), mutated.code)


def passes(tests: list[str], mutant: str, limit: float) -> bool:
    """Whether these tests pass with this mutant, within `limit` seconds; "" is none."""

    def work() -> None:
        os.setsid()
        os.environ["MUTANT_UNDER_TEST"] = mutant
        with open(os.devnull if mutant else BUILD / "mutants.log", "w") as nothing:  # noqa: PTH123
            for stream in (1, 2):
                os.dup2(nothing.fileno(), stream)
        os._exit(pytest.main(["-q", "-x", "-p", "no:cacheprovider", *tests]))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    assert process.pid is not None
    try:
        process.join(limit)
    finally:  # it hangs, or Ctrl-C; what it has started too
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    return process.exitcode == 0


def try_next(module: Module, drawn: dict[str, list[str]]) -> None:
    """Tries the next mutant of a module."""
    mutant, begun = drawn[module.name][module.tried], time.monotonic()
    module.tried += 1
    if passes(module.tests, f"isc_runtime.{module.name}.{mutant}", LIMIT):
        module.survivors.append(mutant)
        print(f"SURVIVED {module.name} {mutant}\n{module.difference(mutant)}", flush=True)
    module.seconds += time.monotonic() - begun


def warm_up() -> None:
    """Imports what takes long; nothing may have computed when it is forked."""
    os.chdir(PROJECT)
    sys.path.insert(0, str(PROJECT))
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "MUTANT_UNDER_TEST": ""}
    import torch._dynamo
    import torch.distributed.checkpoint
    import torch.distributed.fsdp
    import torch.distributed.run
    import torch.utils.tensorboard

    torch.set_num_threads(1)
    pytest.main(["--collect-only", "-qqq", "-p", "no:cacheprovider", "isc_runtime/tests"])


def report(modules: list[Module], words: str) -> None:
    """Writes the table and all survivors."""
    tried, survived = sum(one.tried for one in modules), sum(len(one.survivors) for one in modules)
    lines = [words, "", "| module | mutants | tried | killed | survived |", "|---|---|---|---|---|"]
    for one in modules:
        killed = one.tried - len(one.survivors)
        lines.append(f"| {one.name} | {len(one.mutants)} | {one.tried} | {killed} | {len(one.survivors)} |")
    of_all = sum(len(one.mutants) for one in modules)
    lines.append(f"| all | {of_all} | {tried} | {tried - survived} | {survived} |")
    for one in modules:
        for mutant in one.survivors:
            lines += ["", f"{one.name} {mutant}", "```diff", one.difference(mutant), "```"]
    (BUILD / "mutants.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Draws mutants, from the module that had the least time so far, until the time is over."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="by which they are drawn")
    parser.add_argument("--only", default="", help="modules whose name holds this")
    parser.add_argument("--minutes", type=float, default=25.0, help="when to stop")
    arguments = parser.parse_args()
    os.chdir(ROOT)  # where mutmut's settings are
    bake()
    modules = [plant(name) for name in TESTS if arguments.only in name]
    words = f"Drawn with seed {arguments.seed}, in {arguments.minutes:g} minutes."
    drawn = {
        one.name: random.Random(f"{arguments.seed} {one.name}").sample(one.mutants, len(one.mutants))
        for one in modules
    }
    warm_up()
    begun = time.monotonic()
    if not passes(sorted({test for one in modules for test in one.tests}), "", 3600):
        sys.exit(f"These tests fail without a mutant: {BUILD / 'mutants.log'}")
    print(f"All tests take {time.monotonic() - begun:.0f} s without a mutant", flush=True)
    end = time.monotonic() + 60 * arguments.minutes
    while time.monotonic() < end and (left := [one for one in modules if one.tried < len(one.mutants)]):
        try_next(min(left, key=lambda one: one.seconds), drawn)
        report(modules, words)
    print((BUILD / "mutants.md").read_text().partition("```")[0])


if __name__ == "__main__":
    main()
