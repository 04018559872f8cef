"""Commands as people write them: what would not start the training is found, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest

from isc_runtime.submission.command.launch_command import LaunchCommand
from isc_runtime.submission.command.shell import split
from isc_runtime.submission.finding import Finding

PROJECT = Path(__file__).resolve().parents[3]
HOME = "/root/copied"
START = f"bash {HOME}/launch.sh --dataset-id uds-one"
TORCHRUN = (
    "torchrun --nnodes=$NNODES --nproc-per-node=$N_PROC \n"
    "--master_addr=$MASTER_ADDR --master_port=$MASTER_PORT --node_rank=$NODE_RANK \n"
    f"{HOME}/train.py\n--dataset-id uds-one"
)

# what is planted -> (the command, what is said, what to do)
ERRORS = {
    "empty": (" \n", "The command is empty", f"Write: bash {HOME}/launch.sh"),
    "two commands": (f"cd {HOME}\nbash launch.sh", "line break before 'bash'", "Write && at the end"),
    "two commands, the second a path": (f"cd {HOME}\n./launch.sh", "line break before './launch.sh'", "&&"),
    "after source": (f"source /opt/venv/bin/activate\n{HOME}/launch.sh", "line break before", "&&"),
    "after export": (f"export A=1\n{START}", "line break before 'bash'", "&&"),
    "after a complete one": (f"{START}\necho done", "line break before 'echo'", "&&"),
    "backslash": (f"{START} \\\n--epochs 1", "backslash", "joins lines by itself"),
    "escape": (f"{START} \x1b[2J", "control character", "write the line once more"),
    "open quote": (f"{START} 'x", "No shell can read", "Close"),
    "trailing &&": (f"{START} &&", "missing beside '&&'", "Complete it"),
    "leading &&": (f"&& {START}", "missing beside '&&'", "Complete it"),
    "double &&": (f"true && && {START}", "missing beside '&&'", "Complete it"),
    "trailing |": (f"{START} |", "missing beside '|'", "Complete it"),
    "background": (f"{START} &", "in the background", "Delete it"),
    "comment in lines": (f"cd {HOME} && # the project\n{START}", "makes a comment", "above the command"),
    "comment at first": (f"# the training\n{START}", "makes a comment", "Delete"),
    "comment before &&": (f"{START} # && echo done", "makes a comment", "Delete"),
    "a here-document": (
        f"cat <<EOF > /tmp/x && {START}\na: 1\nEOF",
        "after <<EOF needs lines",
        "into a file",
    ),
    "two line breaks are one mistake each": (
        f"cd {HOME}\n\n  bash launch.sh --dataset-id uds-one",
        "'bash'",
        "&&",
    ),
    "relative script": ("bash launch.sh --dataset-id uds-one", "launch.sh is relative", f"write {HOME}"),
    "relative file": (
        f"source venv/bin/activate && {START}",
        "venv/bin/activate is relative",
        f"write {HOME}",
    ),
    "no file": (f"bash {HOME}/start/launch.sh", f"no {HOME}/start/launch.sh", "Correct"),
    "no file there": (f"cd {HOME} && bash x/launch.sh", f"no {HOME}/x/launch.sh", "Correct"),
    "no file in ~": ("bash ~/copied/start/launch.sh", f"no {HOME}/start/launch.sh", "Correct"),
    "no folder": (f"cd {HOME}/none && {START}", f"no {HOME}/none", "Correct"),
    "no activate": (f"source {HOME}/venv/bin/activate && {START}", f"no {HOME}/venv/bin/activate", "Correct"),
    "no such activate": (
        f"source /opt/venv/activate && {START}",
        "has no activate",
        "/opt/venv/bin/activate",
    ),
    "another project": ("bash /root/no-such/launch.sh", "/root/no-such/launch.sh is outside", HOME),
    "isc_run": (f"isc_run {START}", "no command isc_run", "start launch.sh"),
    "isc": ("isc train experiment.isc", "no command isc ", "from a container"),
    "echo": (f"echo {START}", "no training, only echo", f"Write: bash {HOME}/launch.sh"),
    "nothing": (f"cd {HOME} && source /opt/venv/bin/activate", "no training, only cd, source", "Write"),
    "not mounted": (f"{START} --data-root /data/uds-two", "/data/uds-two is not mounted", "dataset_id_list"),
    "unknown": (f"{START} --resume", "no argument --resume", "train.py --help"),
    "mistyped": (f"{START} --epoch-s=3", "no argument --epoch-s", "mean --epochs?"),
    "mistyped, of the runtime": (f"{START} --save-stebs 3", "no argument --save-stebs", "--save-steps?"),
    "no number": (f"{START} --epochs ten", "'ten' is not a whole number", "--help says what"),
    "out of range": (f"{START} --epochs 0", "'0' is not a whole number of at least 1", "--help"),
    "no value": (f"{START} --epochs", "argument --epochs: expected one argument", "--help"),
    "no value, then an option": (f"{START} --epochs --no-amp", "--epochs: expected one argument", "--help"),
    "of a module": (f"cd {HOME} && python -m train --resume", "no argument --resume", "--help"),
    "of a module of a module": (
        f"cd {HOME} && python -um torch.distributed.run --nnodes $NNODES --node-rank $NODE_RANK -m train -x",
        "unrecognized arguments: -x",
        "--help",
    ),
    "a module from anywhere": ("python -m train", "looks for train in the working", f"cd {HOME} &&"),
    "stray": (f"{START} stray", "unrecognized arguments: stray", "--help"),
    "no choice": (f"{START} --parallelism none", "invalid choice: 'none'", "--help"),
    "help": (f"{START} --help", "print something and end", "Delete that option"),
    "local": (f"{START} --local", "--local would save checkpoints in the container", "Delete it"),
    "fresh": (f"{START} --fresh", "--fresh would start over", "Delete it"),
    "dataset": (
        f"bash {HOME}/launch.sh --dataset-id uds-two",
        "uds-two is not in dataset_id_list",
        '"uds-two"',
    ),
    "dataset =": (f"bash {HOME}/launch.sh --dataset-id=uds-two", "uds-two is not in dataset_id_list", "Put"),
    "abbreviated": (f"{START} --dataset uds-two", "unrecognized arguments: --dataset uds-two", "--help"),
    "no dataset": (f"bash {HOME}/launch.sh --dataset-id", "--dataset-id: expected one argument", "--help"),
    "within a shell": (
        f"bash -c 'cd {HOME} && bash start/launch.sh'",
        f"no {HOME}/start/launch.sh",
        "Correct",
    ),
    "the dot": (f". {HOME}/env.sh && {START}", f"no {HOME}/env.sh", "Correct"),
    "a script for another program": (f"python {HOME}/launch.sh", "python cannot run", "Write bash"),
    "a script for torchrun": (
        f"torchrun --nnodes=$NNODES --node-rank=$NODE_RANK {HOME}/launch.sh --dataset-id uds-one",
        "torchrun cannot run",
        "Write bash",
    ),
    "another shell": (f"sh {HOME}/launch.sh --dataset-id uds-one", "sh cannot run all of", "Write bash"),
    "no number with a slash": (f"{START} --seed a/b", "'a/b' is not a whole number", "--help"),
    "a program for a shell": (
        f"bash {HOME}/train.py --dataset-id uds-one",
        "bash cannot run",
        "Write python",
    ),
    "a script for a module's torchrun": (
        f"python -m torch.distributed.run --nnodes=$NNODES --node-rank=$NODE_RANK {HOME}/launch.sh",
        "torchrun cannot run",
        "Write bash",
    ),
    "a program for a shell within a shell": (
        f"bash -c 'bash {HOME}/train.py --dataset-id uds-one && bash {HOME}/launch.sh --dataset-id uds-one'",
        "bash cannot run",
        "Write python",
    ),
    "within a login shell": (f"bash -lc '{START} --resume'", "no argument --resume", "train.py --help"),
    "within a strict shell": (f"bash -euo pipefail -c '{START} --resume'", "no argument --resume", "--help"),
    "unpacked by env": (f"env -S 'A=1 {START} --resume'", "no argument --resume", "train.py --help"),
    "another, by its variable": ("bash ${HOME}/none/launch.sh", "/root/none/launch.sh is outside", HOME),
    "home within quotes": ('bash "~/copied/launch.sh" --dataset-id uds-one', "no home directory", "/root"),
    "substituted": (
        f"{START} --seed $(NODE_RANK)",
        "runs a program of the name NODE_RANK",
        "Write $NODE_RANK",
    ),
    "in a background terminal": (f"tmux new -d {START}", "tmux leaves the training", "without"),
    "on a screen": (f"screen -dm {START}", "screen leaves the training", "without"),
    "background in a subshell": (f"({START} &)", "in the background", "Delete it"),
    "checkpoints deleted": (f"rm -rf $CHECKPOINT_ARTIFACT_PATH/* && {START}", "deletes the check", "anyway"),
    "what a subshell changes": (
        f"(cd {HOME} && ls) && bash launch.sh --dataset-id uds-one",
        "launch.sh is relative",
        f"write {HOME}",
    ),
    "what a substitution changes": (
        f"P=$(cd {HOME} && pwd) && bash launch.sh --dataset-id uds-one",
        "launch.sh is relative",
        f"write {HOME}",
    ),
    "not mounted, within a shell": (
        f"bash -c '{START} --data-root /data/uds-two'",
        "is not mounted",
        "dataset",
    ),
    "this project's file elsewhere": (
        f"python /root/no-such/data.py && {START}",
        "/root/no-such/data.py is outside",
        HOME,
    ),
}
WARNINGS = {
    "own start": (
        "torchrun --nnodes $NNODES --node-rank $NODE_RANK /opt/other.py",
        "not hand over to launch.sh",
        f"bash {HOME}",
    ),
    "pipe": (f"{START} | tee /tmp/log", "goes on after a failure, because of '|'", "Chain with &&"),
    "semicolon": (f"cd {HOME}; {START}", "because of ';'", "Chain with &&"),
    "a pipe in a strict shell": (f"set -e; {START} | cat", "because of '|'", "Chain with &&"),
    "a loop before": (f"for n in 1 2; do date; done; {START}", "because of ';'", "Chain with &&"),
    "config of the nodes": (f"{START} --config /data/uds-one/a.toml", "a.toml is not here", "Make sure"),
    "model": (f"{START} --model=mine", "MODELS in model.py does not name 'mine'", "add yours to MODELS"),
    "unused dataset": (f"bash {HOME}/launch.sh", "none of the datasets", "Add --dataset-id uds-one"),
    "comment at the end": (f"{START} # --epochs 3", "makes a comment", "quote it"),
    "variable of old": (f"{START} --seed $RANK", "does not set RANK", "Write $NODE_RANK"),
    "variable of torchrun": (f"{START} --seed ${{LOCAL_RANK}}", "does not set LOCAL_RANK", "Leave it"),
    "changed variable": (f"NNODES=1 {START}", "ISC sets NNODES (nodes)", "Leave it"),
    "exported variable": (f"export OUTPUT_PATH=/root/out && {START}", "ISC sets OUTPUT_PATH", "Leave it"),
    "variable taken away": (f"unset LOSSY_ARTIFACT_PATH && {START}", "ISC sets LOSSY_ARTIFACT", "Leave it"),
    "hidden GPUs": (f"export CUDA_VISIBLE_DEVICES=0 && {START}", "hides GPUs", "Leave it out"),
    "installed there": (f"pip install -r x.txt && {START}", "pip needs the internet", "in the image"),
    "installed there by a module": (f"python -m pip install x && {START}", "pip needs the internet", "image"),
    "fetched into a folder": (f"git -C {HOME} pull && {START}", "git needs the internet", "dataset"),
    "cloned there": (f"git clone https://a.b/c /root/c && {START}", "git needs the internet", "dataset"),
    "mistyped variable": (f"{START} --workers $N_PROCS", "no variable N_PROCS", "mean N_PROC?"),
}
ACCEPTED = {
    "as it is": START,
    "activated": f"source /opt/venv/bin/activate && {START} --save-steps auto",
    "on two lines": f"\nsource /opt/venv/bin/activate && \n{START}\n",
    "its arguments on lines": f"bash {HOME}/launch.sh\n--dataset-id uds-one\n--epochs 3",
    "assignments on a line": f"A=1\nB=2 \n{START}",
    "a wrapped one on a line": f"exec\n{START}",
    "in its directory": f"cd {HOME} && A=1 bash ./launch.sh --dataset-id uds-one",
    "in its directory, a line each": f"cd {HOME} &&\nbash launch.sh --dataset-id uds-one",
    "home": "cd ~/copied && bash launch.sh --dataset-id uds-one",
    "home, by its variable": 'bash "$HOME/copied/launch.sh" --dataset-id uds-one',
    "a directory that is not known": "cd $PLACE && bash launch.sh --dataset-id uds-one",
    "somebody's activate": f"source ~/.chess/bin/activate && source /root/envs/a/bin/activate && {START}",
    "cloned into a folder": "bash /root/team/copied/launch.sh --dataset-id uds-one",
    "subshell": f"(cd {HOME} && bash launch.sh --dataset-id uds-one)",
    "redirected": f"{START} 2>&1 > /tmp/log",
    "a number sign within a word": f"{START} --data-root /data#1",
    "a number sign within quotes": f"{START} --data-root '/tmp/ #1'",
    "a backslash within single quotes": f"{START} --data-root '/tmp/\\d'",
    "mounted": f"{START} --data-root /data && ls /data/uds-one/raw",
    "variables": f"export DATA=/data && {START} --data-root $DATA --workers $N_PROC",
    "wrapped": f"nice -n 5 timeout 60s env A=1 bash {HOME}/launch.sh --dataset-id uds-one",
    "shell with options": f"bash -x {HOME}/launch.sh --dataset-id uds-one",
    "within a shell": f"bash -c 'cd {HOME} && bash launch.sh --dataset-id uds-one'",
    "a variable by another one": f"OUTPUT_PATH=$CHECKPOINT_ARTIFACT_PATH NODE_RANK=${{NODE_RANK:-0}} {START}",
    "git without a network": f"git -C {HOME} status && {START}",
    "a ~ that is none": f"{START} --data-root '/data~1'",
    "said and not installed": f"pip freeze && conda activate x && python -m pip list && {START}",
    "installed without a network": f"pip install --no-index --find-links /data/uds-one x && {START}",
    "a module that is given a script": f"python -m bashate /opt/other.sh && {START}",
    "a number that is shifted": f"N=$(((1+(2)) << 3)) && cat <<< $((1 << 2)) && {START}",
    "prepared in a shell": f"bash -c 'echo \"a << b\"' && {START}",
    "another -m": f"git commit -m train --x && python {HOME}/data.py -m train --x && {START}",
    "another module's -m": f"python -m own -m train --x && {START}",
    "a module with a path of its own": f"PYTHONPATH={HOME} python -m train --dataset-id uds-one && {START}",
    "a number before a redirection": f"{START} --epochs 3 > /tmp/log && {START} --epochs 3 2>/tmp/log",
    "unpacked by env, too": f"env -S 'A=1 B=2' {START}",
    "what is deleted is no checkpoint": f"rm -rf /tmp/cache && {START}",
    "from home": "cd && bash copied/launch.sh --dataset-id uds-one",
    "from root's home": "cd ~root/copied && bash launch.sh --dataset-id uds-one",
    "cd with options": f"cd -P -- {HOME} && bash launch.sh --dataset-id uds-one",
    "and back": f"cd {HOME}/tests && cd - && {START}",
    "popped": f"pushd {HOME} && ls && popd && bash launch.sh --dataset-id uds-one",
    "a shell begins where it is started": f"cd {HOME} && bash -c 'bash launch.sh --dataset-id uds-one'",
    "env has a directory": f"env -C {HOME} bash launch.sh --dataset-id uds-one",
    "env has one, in one word": f"env --chdir={HOME} bash -c './launch.sh --dataset-id uds-one'",
    "a folder called data": f"{START} --data-root ~/data/mine && ls ${{PLACE}}/data/mine",
    "a shell that ends with an error": f"set -euo pipefail; cd {HOME}; {START} | tee /tmp/log",
    "a choice": f"if [ $NODE_RANK = 0 ]; then date; else sleep 1; fi && {START} || exit 1",
    "a loop": f"for n in 1 2; do echo $n; done && {START}",
    "a variable of its own": f"export RANK=$NODE_RANK && {START} --seed $RANK",
}
# how torchrun is told of the nodes -> what is said
NODES = {
    "": "is not told of the other nodes",
    "--standalone": "is not told of the other nodes",
    "--nnodes=10 --node-rank=$NODE_RANK": "waits for 10 nodes",
    "--nnodes 1 --node_rank $NODE_RANK": "waits for 1 node,",
    "--nnodes=$NNODES": "is not told which node it is on",
    "--nnodes=$NNODES --nproc-per-node=$N_PROC --node_rank=$NODE_RANK": "where node 0 is",
    "--nnodes=$NNODES --node_rank=$NODE_RANK --master_addr=$MASTER_ADDR": "starts one process on each node",
    "--nnodes=$NNODES --node_rank=$NODE_RANK --master-addr $MASTER_ADDR --nproc_per_node 8": "",
    "--nnodes $NNODES --nproc-per-node $N_PROC --rdzv-backend c10d --rdzv-endpoint $MASTER_ADDR": "",
}


def found(command: str, root: Path = PROJECT, homes: tuple[str, ...] = (HOME,)) -> list[Finding]:
    return list(LaunchCommand(command, "experiment.isc:6", root, homes, ["uds-one"]).check())


@pytest.mark.parametrize(("command", "what", "hint"), ERRORS.values(), ids=ERRORS)
def test_what_would_not_start_the_training(command: str, what: str, hint: str) -> None:
    assert_one(found(command), "error", what, hint)


@pytest.mark.parametrize(("command", "what", "hint"), WARNINGS.values(), ids=WARNINGS)
def test_what_a_person_has_to_judge(command: str, what: str, hint: str) -> None:
    assert_one(found(command), "warning", what, hint)


@pytest.mark.parametrize("command", ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_accepted(command: str) -> None:
    assert found(command) == []


@pytest.mark.parametrize(
    "command",
    [
        f"bash -c 'python {HOME}/data.py'",
        f"bash -lc 'cd {HOME} && python data.py'",
        f"torchrun --no-python --nnodes=$NNODES --node-rank=$NODE_RANK {HOME}/launch.sh",
        f"python -m data {HOME}/launch.sh",
    ],
)
def test_what_is_no_script_for_its_program_is_not_taken_for_one(command: str) -> None:
    assert not [finding for finding in found(command) if "cannot run" in finding.what]


@pytest.mark.parametrize(
    ("command", "text"),
    [
        ("bash -c 'a b' c", "a b"),
        ("/bin/sh -euo pipefail +x -c a", "a"),
        ("zsh --login -lc a", "a"),
        ("bash a.sh -c b", None),
        ("bash -c", None),
        ("python -c a", None),
    ],
)
def test_what_a_shell_is_told_to_run(command: str, text: str | None) -> None:
    (simple,) = split(command)
    assert simple.shell_text == text


def test_the_official_form_is_accepted() -> None:
    """As in the documentation, and in 17 of the 18 launch files in isc-demos."""
    findings = found(f"\nsource /opt/venv/bin/activate && \n{TORCHRUN}")
    assert [finding.severity for finding in findings] == ["warning"]
    assert "launch.sh" in findings[0].what


@pytest.mark.parametrize("told", NODES)
def test_torchrun_is_told_of_the_nodes(told: str) -> None:
    said = [finding.what for finding in found(f"torchrun {told} {HOME}/train.py --dataset-id uds-one")]
    assert [what for what in said if "launch.sh" not in what] == [
        what for what in said if NODES[told] and NODES[told] in what
    ]
    assert len(said) == 1 + bool(NODES[told]), said


def test_an_option_that_is_so_by_itself() -> None:
    (finding,) = found(f"{START} --amp")
    assert "no argument --amp" in finding.what
    assert "--no-amp says otherwise" in finding.hint


def test_a_backslash_hides_nothing() -> None:
    findings = found(f"source /opt/venv/activate && \\\n{START} --epochs ten")
    assert [finding.severity for finding in findings] == ["error"] * 3


def test_on_the_container_files_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "launch.sh").touch()
    command = f"source {tmp_path}-venv/bin/activate && bash {tmp_path}/launch.sh"
    there = LaunchCommand(command, "experiment.isc:6", tmp_path, [str(tmp_path)], [])
    assert_one(list(there.check()), "error", f"no {tmp_path}-venv/bin/activate in this container", "Correct")


def assert_one(findings: list[Finding], severity: str, what: str, hint: str) -> None:
    """One finding of this severity, and no other error that hides the cause."""
    lines = "\n".join(str(finding) for finding in findings)
    same = [finding for finding in findings if finding.severity == severity]
    assert any(what in finding.what and hint in finding.hint for finding in same), lines
    assert all(finding.where == "experiment.isc:6" for finding in findings)
    if severity == "error":
        assert len(same) == 1, lines
    else:
        assert same == findings, lines
