"""python -m isc_runtime COMMAND: the tools of a project; `_parser` lists them."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from isc_runtime.answering import answering
from isc_runtime.environment import Environment
from isc_runtime.errors import ExitCode
from isc_runtime.option_values import not_negative, path, positive_float
from isc_runtime.ranks.reporting import reported

PROJECT = Path(__file__).absolute().parents[1].resolve()  # isc_runtime may be a link, and check says so
MEET = "ISC_RUNTIME_MEET"  # launch.sh sets it: this is one of the nodes that are about to train


def main(command_line: list[str] | None = None) -> int:
    """Runs one command and returns its exit code (see isc_runtime.errors.ExitCode)."""
    command_line = sys.argv[1:] if command_line is None else command_line
    code: object = ExitCode.FAILED
    try:
        code = result = _run(command_line)
        return result
    except SystemExit as end:
        code = end.code
        raise
    finally:
        is_refused = command_line[:1] == ["preflight"] and MEET in os.environ and code != 0
        if command_line[:1] == ["torchrun"] or is_refused:
            _say_how_to_go_on(code, "--local" in command_line)


def _say_how_to_go_on(code: object, is_local: bool) -> None:
    """On the ISC, when all is over, and not interrupted: what was saved is in the artifact alone."""
    if "LOSSY_ARTIFACT_PATH" in os.environ and not is_local and isinstance(code, int) and code < 128:
        ended = "is complete" if code == 0 else f"has failed (exit code {code:d}), and is not started again"
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(
                f"isc_runtime: this experiment {ended}. A new one goes on from its last checkpoint if "
                "input_artifact_id_list in experiment.isc has the id of its checkpoint artifact.\n"
            )


def _run(command_line: list[str]) -> int:
    if command_line[:1] == ["torchrun"]:  # all the rest is torchrun's, and train.py's
        return _torchrun(command_line[1:])
    if command_line[:1] == ["rehearse"]:  # it has a parser of its own, made only when it is asked for
        return _rehearse(command_line[1:])
    parser = _parser()
    if command_line[:1] == ["preflight"]:
        command_line = _with_config(command_line)
    arguments, others = parser.parse_known_args(command_line)
    if others and arguments.command != "preflight":
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    with reported(), answering():
        return RUN[arguments.command](arguments)
    return 128 + signal.SIGPIPE  # whoever reads has seen enough


class _Parser(argparse.ArgumentParser):
    """One that takes no abbreviations, as those of its commands: preflight gets train.py's options, too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m isc_runtime", description="Tools of an ISC project.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="is this project ready to submit?")
    check.add_argument("--json", action="store_true", help="findings for machines")
    checkpoints = commands.add_parser("checkpoints", help="what is there, and which one would a resume take?")
    checkpoints.add_argument("directory", nargs="?", type=path, help="default: where a training here saves")
    checkpoints.add_argument("--verify", action="store_true", help="read every byte")
    checkpoints.add_argument("--json", action="store_true", help="the list for machines")
    explain = commands.add_parser(
        "explain",
        help="why did an experiment end? from its logs",
        description="Says what happened, which node and rank was first, why, and what to do. Exit code: 0 "
        "if the last attempt completed, was asked to stop or was interrupted without an error; 1 if it "
        "failed, or nothing in the logs is known; 3 if a log cannot be read.",
    )
    explain.add_argument("logs", nargs="+", type=path, metavar="LOG", help="a log, or a folder of logs")
    explain.add_argument("--json", action="store_true", help="the answer for machines")
    export = commands.add_parser("export", help="write the weights of a checkpoint alone, as safetensors")
    export.add_argument("checkpoint", type=path, help="one, or a directory: what a resume would take")
    export.add_argument("file", type=path, help="what to write: NAME.safetensors")
    export.add_argument("--part", default="model", help="of Trainer.state(), an average of weights, say")
    export.add_argument("--force", action="store_true", help="replace the file if it exists")
    _add_import(commands)
    preflight = commands.add_parser("preflight", help="is this machine ready to train on? (stage 1)")
    preflight.add_argument("--dataset-id", help="as for train.py, whose other options are accepted too")
    preflight.add_argument("--data-root", type=path, default=Path("/data"), help="as for train.py")
    preflight.add_argument("--local", action="store_true", help="as for train.py")
    preflight.add_argument("--first-timeout", type=positive_float, help="as for train.py")
    preflight.add_argument("--device", default="auto", help="as for train.py")
    setup = commands.add_parser("setup", help="install what pyproject.toml names (make setup)")
    setup.add_argument("--torch", default="auto", choices=("auto", "cpu", "cuda", "cu126", "cu128", "cu130"))
    setup.add_argument("--extras", default="", help="of [project.optional-dependencies]: wandb,mlflow")
    setup.add_argument("wheels", nargs="*", help="after --: where pip finds the CPU builds of torch")
    swept = commands.add_parser("sweep", help="write a launch file for each point of a sweep")
    swept.add_argument("launch_file", type=path, help="what they have in common: experiment.isc")
    swept.add_argument(
        "--set",
        dest="settings",
        action="append",
        required=True,
        metavar="OPTION=VALUE,VALUE",
        help="of train.py",
    )
    submit = commands.add_parser(
        "submit", help="check, write down what it is, and run: isc train experiment.isc"
    )
    submit.add_argument("--unrehearsed", action="store_true", help="even if no rehearsal found it ready")
    commands.add_parser("rehearse", help="run experiment.isc here as the ISC would, interruptions and all")
    commands.add_parser("torchrun", help="torchrun, with the exit code of the rank that failed")
    return parser


def _add_import(commands: Any) -> None:
    """The options of import: what a checkpoint of another program does not say itself."""
    parser = commands.add_parser(
        "import",
        help="make a checkpoint of this project of one that another program has written",
        description="Reads a file of torch.save or safetensors, or a folder with one, and writes one "
        "from which train.py goes on. It says what was taken, and what cannot be restored.",
    )
    parser.add_argument("source", type=path, help="a file, or a folder that holds one")
    parser.add_argument(
        "--if-needed",
        action="store_true",
        help="do nothing where there is a good checkpoint of this project, and on other nodes than node 0",
    )
    parser.add_argument("--into", type=path, metavar="DIR", help="default: where a training here saves")
    parser.add_argument("--layout", choices=("local", "artifact"), help="of --into; default: as here")
    parser.add_argument("--step", type=not_negative, help="optimizer steps that were taken")
    parser.add_argument("--epoch", type=not_negative, help="epochs that are done")
    parser.add_argument("--batch", type=not_negative, help="batches of the next epoch that are done")
    parser.add_argument("--samples", type=not_negative, help="samples in these, over all ranks")
    for part in ("model", "optimizer", "scheduler"):
        parser.add_argument(f"--{part}", metavar="KEY", help="its place in the file, if not as usual: a.b.0")
    parser.add_argument("--without", action="append", default=[], choices=("optimizer", "scheduler"))
    parser.add_argument("--strip", default="", metavar="PREFIX", help="what all names of weights begin with")
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="read a file that may run whatever code is in it, with all your rights: only one of your own",
    )


def _check(arguments: argparse.Namespace) -> int:
    from isc_runtime.submission.project import run_check

    return run_check(PROJECT, arguments.json)


def _checkpoints(arguments: argparse.Namespace) -> int:
    from isc_runtime.checkpointing.on_disk.inventory import take_inventory
    from isc_runtime.checkpointing.on_disk.inventory_report import ProgressLine, report

    directory = arguments.directory or Environment.read().checkpoint_directory
    inventory = take_inventory(directory, arguments.verify, ProgressLine())
    return report(inventory, arguments.json)


def _explain(arguments: argparse.Namespace) -> int:
    from isc_runtime.explanation.command_line import run

    return run(arguments.logs, arguments.json)


def _export(arguments: argparse.Namespace) -> int:
    from isc_runtime.checkpointing.on_disk.export import export
    from isc_runtime.ranks.interruption import end_in_order

    end_in_order()
    done = export(arguments.checkpoint, arguments.file, arguments.force, arguments.part)
    print(
        f"{done.file}: {done.tensors} tensors, {done.bytes} bytes, of step {done.step} in {done.checkpoint}"
    )
    if done.left_out:
        print(f"Left out, because they are no tensors: {', '.join(done.left_out)}")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from isc_runtime.checkpointing.importing import Wishes, import_checkpoint, is_needed
    from isc_runtime.ranks.interruption import end_in_order

    end_in_order()

    def said(*names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(arguments, name)) is not None}

    environment = Environment.read()
    layout = arguments.layout or ("artifact" if environment.isc_mode else "local")
    target = arguments.into or environment.checkpoint_directory
    if arguments.if_needed and (environment.node_rank or not is_needed(target, layout == "artifact")):
        print(f"Nothing to import: node {environment.node_rank}, {target}")
        return 0
    wishes = Wishes(
        numbers=said("step", "epoch", "batch", "samples"),
        keys=said("model", "optimizer", "scheduler"),
        without=tuple(arguments.without),
        strip=arguments.strip,
        trust_pickle=arguments.trust_pickle,
    )
    done = import_checkpoint(arguments.source, target, layout == "artifact", wishes)
    print("\n".join([f"{done.path}: a training there goes on from it.", *done.notes]))
    return 0


def _with_config(command_line: list[str]) -> list[str]:
    """The words for train.py, and those of its config file before them."""
    from isc_runtime import config

    file = config.config_file(command_line, PROJECT / "train.toml")
    with contextlib.suppress(config.ConfigError):  # train.py says what is wrong with it
        return [*command_line[:1], *(config.words_of(file) if file else []), *command_line[1:]]
    return command_line


def _preflight(arguments: argparse.Namespace) -> int:
    from isc_runtime.options import FIRST_TIMEOUT
    from isc_runtime.preflight import check_place
    from isc_runtime.ranks.launching.node import Node
    from isc_runtime.ranks.launching.roll_call import all_nodes

    sys.path.insert(0, str(PROJECT))
    from data import check_data

    with contextlib.ExitStack() as stack:
        if MEET in os.environ:
            limit = arguments.first_timeout or FIRST_TIMEOUT
            stack.enter_context(all_nodes(Node.read(os.environ), limit))
        check_place(Environment.read(is_local=arguments.local, device=arguments.device))
        check_data(arguments.dataset_id, arguments.data_root)
    return 0


def _setup(arguments: argparse.Namespace) -> int:
    from isc_runtime.submission.installation import install

    return install(PROJECT, arguments.torch, arguments.wheels, arguments.extras)


def _sweep(arguments: argparse.Namespace) -> int:
    from isc_runtime.submission.sweep import sweep

    return sweep(arguments.launch_file, arguments.settings, PROJECT)


def _submit(arguments: argparse.Namespace) -> int:
    from isc_runtime.submission.submit import submit

    return submit(PROJECT, arguments.unrehearsed)


def _rehearse(command_line: list[str]) -> int:
    from isc_runtime.rehearsal.command_line import main as rehearse

    return rehearse(command_line, PROJECT)


def _torchrun(arguments: list[str]) -> int:
    from isc_runtime.ranks.launching.launch import launch

    with reported():
        return launch(arguments)
    return ExitCode.FAILED


RUN = {
    "check": _check,
    "checkpoints": _checkpoints,
    "explain": _explain,
    "export": _export,
    "import": _import,
    "preflight": _preflight,
    "setup": _setup,
    "submit": _submit,
    "sweep": _sweep,
}

if __name__ == "__main__":
    sys.exit(main())
