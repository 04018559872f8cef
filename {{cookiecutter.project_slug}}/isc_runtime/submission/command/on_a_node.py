"""What would run on the ISC's nodes otherwise than it was meant: a simple command, words within quotes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from isc_runtime.submission.command.shell import SHELLS, SimpleCommand
from isc_runtime.submission.finding import Finding
from isc_runtime.submission.launch_keys import VARIABLES

PYTHONS = re.compile(r"python[\d.]*|torchrun")
CHECKPOINTS = re.compile(r"\$\{?(CHECKPOINT_ARTIFACT_PATH|OUTPUT_PATH)\b")
FETCHING = frozenset({"apt", "apt-get", "conda", "curl", "gdown", "mamba", "pip", "pip3", "wget"})
FETCHES = {"git": ("clone", "pull", "fetch"), "huggingface-cli": ("download",), "uv": ("pip", "sync")}
DETACHING = {"tmux": re.compile(r"new(-session)?|-d"), "screen": re.compile(r"-\w*[dD]\w*")}
_LITERAL = re.compile(r"([A-Za-z_]\w*)=([^$`]*)")  # a value that nothing is put into


def check_simple_command(simple: SimpleCommand, where: str) -> Iterator[Finding]:
    """What is wrong with one of the commands, whatever project it belongs to.

    Args:
        simple: the command.
        where: the place in the launch file.
    """
    program, arguments = simple.program, simple.arguments
    yield from _check_variables(simple, where)
    script = next((word for word in arguments if word.endswith((".py", ".sh"))), "")
    if (program in SHELLS and script.endswith(".py")) or (PYTHONS.fullmatch(program) and _is_shell(script)):
        right = "bash" if script.endswith(".sh") else "python"
        yield Finding(where, f"{program} cannot run {script}", f"Write {right} in its place.")
    if program in FETCHING or (arguments[:1] and arguments[0] in FETCHES.get(program, ())):
        what = f"{program} needs the internet, which nobody promises on the nodes of an experiment"
        yield Finding(where, what, "Install or fetch it before: in the image, or as a dataset.", "warning")
    if program in DETACHING and any(DETACHING[program].fullmatch(word) for word in arguments):
        what = f"{program} leaves the training in the background, and the command ends at once"
        yield Finding(where, what, "Start it without: the experiment ends when its command does.")
    if program == "rm" and any(CHECKPOINTS.search(word) for word in arguments):
        what = "rm deletes the checkpoints whenever the experiment comes back from an interruption"
        yield Finding(where, what, "Delete it: a new experiment begins with nothing anyway.")
    if program == "torchrun":
        yield from _check_nodes(arguments, where)


def check_quotes(text: str, where: str) -> Iterator[Finding]:
    """What a shell reads otherwise than people do.

    Args:
        text: the whole command.
        where: the place in the launch file.
    """
    if match := re.search(r"""(?<!\S)(["'])~(?=/|\1)""", text):
        what = f"The ~ within quotes ({match[1]}~) is no home directory"
        yield Finding(where, what, "Write /root, or leave the quotes out.")
    for name in dict.fromkeys(re.findall(r"\$\(\s*([A-Z_]+)\s*\)", text)):
        yield Finding(where, f"$({name}) runs a program of the name {name}", f"Write ${name}.")


def _is_shell(script: str) -> bool:
    return script.endswith(".sh")


def _check_variables(simple: SimpleCommand, where: str) -> Iterator[Finding]:
    """What the ISC sets, and the command sets to something of its own, or takes away."""
    words = simple.words[: simple.start]
    words += simple.arguments if simple.program in ("export", "env") else ()
    values = (match.groups() for word in words if (match := _LITERAL.fullmatch(word)))
    names = [name for name, _ in values]
    names += simple.arguments if simple.program == "unset" else ()
    for name in names:
        if name in VARIABLES:
            what = f"The ISC sets {name} ({VARIABLES[name].doc}), and the command changes that"
            yield Finding(where, what, "Leave it as it is: launch.sh and train.py go by it.", "warning")
        elif name == "CUDA_VISIBLE_DEVICES":
            what = "CUDA_VISIBLE_DEVICES hides GPUs of every node, and N_PROC counts them all the same"
            yield Finding(where, what, "Leave it out: each rank takes a GPU of its own.", "warning")


def _check_nodes(arguments: tuple[str, ...], where: str) -> Iterator[Finding]:
    """torchrun must be told how many nodes there are, and the ISC alone knows."""
    told: dict[str, str] = {}
    for word, after in zip(arguments, [*arguments[1:], ""], strict=True):
        if not word.startswith("-") and PurePosixPath(word).suffix == ".py":
            break  # what comes then is for the script
        name, has_value, value = word.lstrip("-").replace("-", "_").partition("=")
        told[name] = value if has_value else after
    nodes = told.get("nnodes", "")
    if nodes.isdecimal():
        what = f"torchrun waits for {nodes} node{'s' * (nodes != '1')}, however many the ISC gives"
        yield Finding(where, what, "Write --nnodes=$NNODES.", "warning")
    elif "standalone" in told or not nodes:
        what = "torchrun is not told of the other nodes: each one trains alone"
        yield Finding(where, what, "Write what launch.sh does, or start that.", "warning")
    elif not {"node_rank", "rdzv_backend", "rdzv_endpoint"} & told.keys():
        what = "torchrun is not told which node it is on"
        yield Finding(where, what, "Write --node-rank=$NODE_RANK.", "warning")
