"""What train.py can be told, read from its text or asked from its parser; is what it is told all right?"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from isc_runtime.config import OPTION, config_file
from isc_runtime.python_files import name_of, parse_python
from isc_runtime.spelling import meant
from isc_runtime.submission.finding import Finding
from isc_runtime.submission.launch_keys import VARIABLES
from isc_runtime.submission.lock import LOCK, NEEDED, required_names
from isc_runtime.toml import NO_TOML
from isc_runtime.tracking.chosen import PACKAGES

PROBE = Path(__file__).with_name("parser_probe.py")
LIMIT = 5  # seconds; our own parser takes a twentieth of one


@dataclass(frozen=True)
class Answer:
    """What the parser of train.py says of arguments.

    Attributes:
        unclear: why it could not be asked; "" if it was.
        options: all that it has, `--epochs`.
        values: what the arguments become, by the names in the namespace; without those that are None.
        refusal: why it does not take them; "" if it does.
        only_helps: they make it print something and end, as `--help` does.
    """

    unclear: str = ""
    options: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)
    refusal: str = ""
    only_helps: bool = False


def check_arguments(
    root: Path, words: Sequence[str], datasets: Sequence[str], where: str
) -> Iterator[Finding]:
    """What is wrong with the arguments of train.py in a command.

    Args:
        root: the project.
        words: the arguments.
        datasets: the ids of the mounted datasets.
        where: the place in the launch file.
    """
    if not (root / "train.py").is_file():
        return  # that is said already
    words, missing = _with_config_here(root, words)
    if missing and not missing.startswith("/root/") and missing.startswith("/"):
        what = f"The config file {missing} is not here, so the arguments of train.py were not checked"
        yield Finding(where, what, "Make sure that the nodes have it.", "warning")
        return
    if missing:
        hint = "Put it into the project, and name it by its path in it: launch.sh runs train.py there."
        yield Finding(where, f"There is no config file {missing}", hint)
        return
    answer = ask_parser(root, words)
    if NO_TOML in answer.refusal:  # Python 3.10: the parser is asked without what is installed
        answer = Answer(unclear=f"{NO_TOML}, for the config file")
    options = answer.options or sorted(options_of_train(root))
    names = dict.fromkeys(word.partition("=")[0] for word in words)
    unknown = [name for name in names if options and _is_unknown(name, options)]
    for name in unknown:
        yield Finding(where, f"train.py has no argument {name}", _meant_by(name, options))
    if answer.unclear and words and not unknown:
        what = f"The arguments of train.py were not checked: {answer.unclear}"
        yield Finding(where, what, "Rehearse: that passes them to train.py as the ISC does.", "warning")
    elif answer.refusal and not unknown and not _depends_on_the_node(answer.refusal, words):
        what = f"train.py refuses its arguments ({answer.refusal})"
        yield Finding(where, what, "python train.py --help says what it takes.")
    elif answer.only_helps:
        yield Finding(where, "train.py would print something and end, and not train", "Delete that option.")
    # Not parsed: by the words alone, in which an abbreviation is not seen.
    values = answer.values or {
        name.strip("-").replace("-", "_"): _value_of(name, words) for name in options if name in names
    }
    yield from _check_values(values, options, root, datasets, where)


def _meant_by(name: str, options: Sequence[str]) -> str:
    """What to do about an option that train.py does not have."""
    if f"--no-{name[2:]}" in options:
        return f"Delete it: it is so by itself, and --no-{name[2:]} says otherwise."
    close = meant(name, options)
    return f"Did you mean {close}?" if close else "python train.py --help lists them."


def _check_values(
    values: Mapping[str, str], options: Sequence[str], root: Path, datasets: Sequence[str], where: str
) -> Iterator[Finding]:
    """What train.py takes, and what does not do what it should on the ISC."""
    if "--fresh" in options and values.get("fresh", "False") != "False":
        what = "--fresh would start over whenever the experiment comes back from an interruption"
        yield Finding(where, what, "Delete it: a new experiment begins with nothing anyway.")
    if "--local" in options and values.get("local", "False") != "False":
        what = "--local would save checkpoints in the container, which is thrown away"
        yield Finding(where, what, "Delete it: it is for laptops.")
    if "--dataset-id" in options:
        yield from _check_dataset(values.get("dataset_id"), datasets, where)
    if "--tracker" in options:
        yield from _check_tracker(values.get("tracker", ""), required_names(root), where)
    if "--model" in options and _takes_model(root):
        yield from _check_model(values.get("model"), models_of(root), where)


def _with_config_here(root: Path, words: Sequence[str]) -> tuple[list[str], str]:
    """The words with the config file as it is called in the project here, and its name if it is missing."""
    given = config_file(words, root / "none")
    if given is None or "$" in str(given):
        return list(words), ""
    whole = PurePosixPath(re.sub("^~(root)?(?=/)", "/root", str(given)))
    # /root/<project>/..., wherever in /root the project is; else as it is
    inside = [Path(*whole.parts[n:]) for n in range(3, len(whole.parts)) if whole.is_relative_to("/root")]
    here = next((file for file in inside if (root / file).is_file()), Path(whole))
    named = [
        word
        for before, word in pairwise(["", *words])
        if before != OPTION and word.partition("=")[0] != OPTION
    ]
    return [f"{OPTION}={here}", *named], "" if (root / here).is_file() else str(whole)


def _check_dataset(given: str | None, datasets: Sequence[str], where: str) -> Iterator[Finding]:
    if given and given not in datasets and "$" not in given:
        hint = f'Put "{given}" into the list, or correct it.'
        yield Finding(where, f"The dataset {given} is not in dataset_id_list", hint)
    elif given is None and datasets:
        hint = f"Add --dataset-id {datasets[0]}, or delete dataset_id_list."
        yield Finding(where, "The command uses none of the datasets in dataset_id_list", hint, "warning")


def _check_tracker(given: str, installed: set[str], where: str) -> Iterator[Finding]:
    """Where nothing is said to be installed, that is a finding already."""
    for word in re.findall(r"[\w.:]+", given):
        packages = PACKAGES.get(word, ())
        if packages and installed and installed.isdisjoint(packages):
            what = f"--tracker {word} needs {packages[0]}, which is not in {LOCK}"
            yield Finding(where, what, f"Put it into dependencies in {NEEDED}, and run: make lock")


def _check_model(given: str | None, models: Sequence[str], where: str) -> Iterator[Finding]:
    if given and models and given not in models and "$" not in given:
        hint = f"Choose one of {', '.join(models)}, or add yours to MODELS."
        yield Finding(where, f"MODELS in model.py does not name {given!r}", hint, "warning")


def ask_parser(root: Path, words: Sequence[str]) -> Answer:
    """Lets the parser of a project's train.py judge arguments, in a process of its own.

    Args:
        root: the project.
        words: the arguments.
    """
    question = json.dumps({"root": str(root), "words": list(words)})
    # -I -S: standard library and project only. So torch cannot be imported, which would take seconds.
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-B", str(PROBE)],
            input=question.encode(),
            capture_output=True,
            timeout=LIMIT,
            cwd=root,
            env={**os.environ, **{name: variable.example for name, variable in VARIABLES.items()}},
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return Answer(f"its parser took longer than {LIMIT} seconds")
    except (subprocess.CalledProcessError, OSError, ValueError):
        return Answer("its parser gave no answer")
    return Answer(**answer)


def options_of_train(root: Path) -> set[str]:
    """The options that train.py gives to argparse, read and not run; none if it does not use argparse."""
    own = _options_in(root / "train.py")
    runtime = _imported(root, root / "isc_runtime" / "options.py")
    return own and own.union({"--help"}, *map(_options_in, runtime))


def models_of(root: Path) -> list[str]:
    """The names in MODELS in model.py, read and not run; none if that is not written out as a dict."""
    try:
        statements = parse_python(root / "model.py").body
    except (OSError, SyntaxError, ValueError):
        return []
    names: list[str] = []
    for statement in statements:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Dict):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if [name_of(target) for target in targets] == ["MODELS"]:
                keys = statement.value.keys
                names = [str(key.value) for key in keys if isinstance(key, ast.Constant)]
                names = names if len(names) == len(keys) else []  # another part of it is computed
    return names


def _imported(root: Path, file: Path) -> set[Path]:
    """A module, and those of the runtime that it imports: options are added where they belong."""
    found, waiting = set[Path](), {file}
    while waiting:
        found.add(file := waiting.pop())
        try:
            nodes = list(ast.walk(parse_python(file)))
        except (OSError, SyntaxError, ValueError):
            continue
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        names = {node.module or "" for node in imports}
        names |= {f"{node.module}.{alias.name}" for node in imports for alias in node.names}
        files = {root / f"{name.replace('.', '/')}.py" for name in names if name.startswith("isc_runtime.")}
        waiting |= {module for module in files - found if module.is_file()}
    return found


def _takes_model(root: Path) -> bool:
    """Whether train.py has anything from model.py."""
    with contextlib.suppress(OSError, SyntaxError, ValueError):
        for node in ast.walk(parse_python(root / "train.py")):
            if isinstance(node, ast.ImportFrom) and node.module == "model":
                return True
            if isinstance(node, ast.Import) and any(alias.name == "model" for alias in node.names):
                return True
    return False


def _options_in(file: Path) -> set[str]:
    try:
        nodes = list(ast.walk(parse_python(file)))
    except (OSError, SyntaxError, ValueError):
        return set()
    names, texts = {"add_argument"}, dict[str, str]()
    for node in nodes:  # `add = parser.add_argument` makes another name of it, OPTION = "--option" of a text
        if isinstance(node, ast.Assign):
            targets = [name for target in node.targets if (name := name_of(target))]
            if name_of(node.value) == "add_argument":
                names.update(targets)
            elif isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
                texts |= dict.fromkeys(targets, node.value.value)
    found = set[str]()
    for call in (node for node in nodes if isinstance(node, ast.Call) and name_of(node.func) in names):
        words = [getattr(one, "value", texts.get(name_of(one))) for one in call.args]
        options = {word for word in words if isinstance(word, str) and word.startswith("-")}
        kinds = {name_of(keyword.value) for keyword in call.keywords}
        negated = {f"--no-{option[2:]}" for option in options if "BooleanOptionalAction" in kinds}
        found |= options | negated
    return found


def _is_unknown(name: str, options: Sequence[str]) -> bool:
    # argparse takes the beginning of a name for the name, if no other begins so.
    begun = sum(option.startswith(name) for option in options)
    return name.startswith("--") and name != "--" and name not in options and begun != 1


def _value_of(option: str, words: Sequence[str]) -> str:
    """What follows an option that is given, after a blank or "="."""
    for word, after in zip(words, [*words[1:], ""], strict=True):
        if word.partition("=")[0] == option:
            return word.partition("=")[2] or after
    return ""


def _depends_on_the_node(refusal: str, words: Sequence[str]) -> bool:
    """Whether a refusal may be about a value that is another one there: `$NNODES`, or a path."""
    words = [word for word in words if not word.startswith(OPTION)]  # that file was found
    unsure = [word for word in words if "$" in word or "`" in word]
    paths = [word for word in words if word.rpartition("=")[2].startswith(("/", "~"))]
    unsure += [] if refusal.startswith("unrecognized") else paths
    return any(word.rpartition("=")[2] in refusal for word in unsure)
