"""python -m isc_runtime check | preflight | torchrun: see --help of each."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from isc_runtime.entry import reported
from isc_runtime.environment import Environment

PROJECT = Path(__file__).resolve().parent.parent


def main(command_line: list[str] | None = None) -> int:
    """Runs one command and returns its exit code (see isc_runtime.errors.ExitCode)."""
    parser = argparse.ArgumentParser(prog="python -m isc_runtime", description="Tools of an ISC project.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="is this project fit to submit?")
    check.add_argument("--json", action="store_true", help="findings for machines")
    preflight = commands.add_parser("preflight", help="is this machine fit to train on? (stage 1)")
    preflight.add_argument("--dataset-id", help="as for train.py, whose other options are accepted too")
    preflight.add_argument("--data-root", type=Path, default=Path("/data"), help="as for train.py")
    commands.add_parser("torchrun", help="torchrun, with the exit code of the rank that failed")
    command_line = sys.argv[1:] if command_line is None else command_line
    if command_line[:1] == ["torchrun"]:  # all the rest is torchrun's, and train.py's
        return _torchrun(command_line[1:])
    arguments, others = parser.parse_known_args(command_line)
    if arguments.command == "check":
        if others:
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        return _check(arguments.json)
    return _preflight(arguments.dataset_id, arguments.data_root)


def _check(as_json: bool) -> int:
    from isc_runtime.project import run_check

    code: int = run_check(PROJECT, as_json)
    return code


def _torchrun(arguments: list[str]) -> int:
    from isc_runtime.torchrun import torchrun

    return torchrun(arguments)


def _preflight(dataset_id: str | None, data_root: Path) -> int:
    from isc_runtime.preflight import validate_and_setup_checkpoint_directory

    sys.path.insert(0, str(PROJECT))
    from data import check_data

    with reported():
        environment = Environment.read()
        validate_and_setup_checkpoint_directory(environment.isc_mode, defer_atomic_directory=True)
        check_data(dataset_id, data_root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
