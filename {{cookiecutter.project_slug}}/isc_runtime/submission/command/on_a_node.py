"""What would run on the ISC's nodes otherwise than it was meant: a simple command, words within quotes.

And where it would run.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from isc_runtime.submission.command.shell import SHELLS, SimpleCommand
from isc_runtime.submission.finding import Finding
from isc_runtime.submission.launch_keys import VARIABLES

LAUNCH = "launch.sh"
PYTHON = re.compile(r"python[\d.]*")
MODULES = {"torch.distributed.launch": "torchrun", "torch.distributed.run": "torchrun"}
NO_SCRIPT = re.compile(r"-\w*[cm]|--module|--no[-_]python")  # what comes after it is run, and may be anything
CHECKPOINTS = re.compile(r"\$\{?(CHECKPOINT_ARTIFACT_PATH|OUTPUT_PATH)\b")
FETCHES = {
    **dict.fromkeys(("curl", "gdown", "wget"), ()),  # whatever they are told
    **dict.fromkeys(("apt", "apt-get", "conda", "mamba"), ("create", "install", "update", "upgrade")),
    **dict.fromkeys(("pip", "pip3"), ("download", "install", "wheel")),
    **dict.fromkeys(("hf", "huggingface-cli"), ("download",)),
    "git": ("clone", "fetch", "pull"),
    "uv": ("add", "install", "sync"),
}
DETACHING = {"tmux": re.compile(r"new(-session)?|-d"), "screen": re.compile(r"-\w*[dD]\w*")}
HOME = "/root"  # of the user there
_LITERAL = re.compile(r"([A-Za-z_]\w*)=([^$`]*)")  # a value that nothing is put into


def check_simple_command(simple: SimpleCommand, where: str) -> Iterator[Finding]:
    """What is wrong with one of the commands, whatever project it belongs to.

    Args:
        simple: the command.
        where: the place in the launch file.
    """
    program, arguments = _launched(simple)
    yield from _check_variables(simple, where)
    yield from _check_script(program, arguments, where)
    if _fetches(program, arguments):
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


def _launched(simple: SimpleCommand) -> tuple[str, tuple[str, ...]]:
    """The program and its arguments: of `python -m pip list` it is pip."""
    arguments = simple.arguments
    name = next((place for place, word in enumerate(arguments) if not word.startswith("-")), 0)
    if PYTHON.fullmatch(simple.program) and name and re.fullmatch(r"-\w*m", arguments[name - 1]):
        return MODULES.get(arguments[name], arguments[name]), arguments[name + 1 :]
    return simple.program, arguments


def _check_script(program: str, arguments: tuple[str, ...], where: str) -> Iterator[Finding]:
    place = next((place for place, word in enumerate(arguments) if word.endswith((".py", ".sh"))), None)
    if place is None or any(map(NO_SCRIPT.fullmatch, arguments[:place])):
        return
    script, is_python = arguments[place], program == "torchrun" or PYTHON.fullmatch(program)
    if (program in SHELLS and script.endswith(".py")) or (is_python and script.endswith(".sh")):
        right = "bash" if script.endswith(".sh") else "python"
        yield Finding(where, f"{program} cannot run {script}", f"Write {right} in its place.")
    elif program in SHELLS - {"bash"} and PurePosixPath(script).name == LAUNCH:
        what = f"{program} cannot run all of {script}, which is written for bash"
        yield Finding(where, what, "Write bash in its place.")


def _fetches(program: str, arguments: tuple[str, ...]) -> bool:
    if program not in FETCHES or "--no-index" in arguments:
        return False
    return not FETCHES[program] or any(word in FETCHES[program] for word in arguments)


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
        if word in ("-m", "--module") or (not word.startswith("-") and PurePosixPath(word).suffix == ".py"):
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
    elif not {"master_addr", "rdzv_endpoint"} & told.keys():
        what = "torchrun is not told where node 0 is, and each node takes itself for it"
        hint = "Write --master-addr=$MASTER_ADDR --master-port=$MASTER_PORT."
        yield Finding(where, what, hint, "warning")
    elif "nproc_per_node" not in told:
        what = "torchrun is not told of the GPUs, and starts one process on each node"
        yield Finding(where, what, "Write --nproc-per-node=$N_PROC.", "warning")


class Directory:
    """The working directory, as far as it is known while a command is read.

    Attributes:
        path: absolute; "" if nobody promises one, and "$" if it only cannot be told.
    """

    def __init__(self, path: str) -> None:
        self.path = self._first = path
        self._outside: list[str] = []

    def enter(self, operator: str) -> None:
        """Reads an operator: what a parenthesis encloses changes nothing outside."""
        if not operator:
            self.path, self._outside = self._first, []
        for character in operator:
            if character == "(":
                self._outside.append(self.path)
            elif character == ")" and self._outside:
                self.path = self._outside.pop()

    def change(self, simple: SimpleCommand) -> None:
        """Reads cd, pushd or popd."""
        words = [word for word in simple.arguments if not re.fullmatch(r"--|-[LPe@n]+", word)]
        if simple.program == "popd" or words[:1] == ["-"] or (simple.program == "pushd" and not words):
            self.path = "$"
        else:
            self.path = resolved(words[0] if words else HOME, self.path)

    def of(self, simple: SimpleCommand) -> str:
        """Where a program runs: `env -C` has one of its own."""
        before = simple.words[: simple.start]
        for word, after in zip(before, [*before, ""][1:], strict=True):
            if word in ("-C", "--chdir"):
                return resolved(after, self.path)
            if word.startswith("--chdir="):
                return resolved(word.partition("=")[2], self.path)
        return self.path


def resolved(path: str, directory: str) -> str:
    """A path as seen from a directory; `~` is /root on the ISC. Relative if nothing else is known."""
    path = re.sub(r"^(~root|~|\$HOME|\$\{HOME\})(?=/|$)", HOME, path)
    if path.startswith(("/", "$")) or not directory:
        return path.rstrip("/") or "/"
    return posixpath.normpath(f"{directory}/{path}")
