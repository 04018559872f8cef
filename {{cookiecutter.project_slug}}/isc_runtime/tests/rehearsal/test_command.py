"""The command of a launch file, as it can run here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from isc_runtime.errors import IscError
from isc_runtime.rehearsal.command import localize, map_environment

HOMES = ["/root/a-project"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("bash /root/a-project/launch.sh --epochs 3", "bash {root}/launch.sh --epochs 3"),
        ("cd /root/a-project && bash ./launch.sh", "cd {root} && bash ./launch.sh"),
        ('bash "/root/a-project/launch.sh"', 'bash "/home/me/it is here/launch.sh"'),
        ("bash /root/a-project-2/launch.sh", "bash /root/a-project-2/launch.sh"),
        ("bash /root/a-project/launch.sh\n--epochs 3", "bash {root}/launch.sh --epochs 3"),
        ("\ncd /root/a-project &&\nbash launch.sh\n", "cd {root} && bash launch.sh"),
        ("cd ~/a-project && bash launch.sh", "cd {root} && bash launch.sh"),
        ('bash "${HOME}/a-project/launch.sh"', 'bash "/home/me/it is here/launch.sh"'),
        ("bash $HOME/a-project/launch.sh ~/a-project-2", "bash {root}/launch.sh ~/a-project-2"),
    ],
)
def test_the_project_is_where_it_is(command: str, expected: str) -> None:
    here = localize(command, HOMES, Path("/home/me/it is here"))
    assert here.text == expected.format(root="'/home/me/it is here'")
    assert here.notes[0] == "/root/a-project is /home/me/it is here"


def test_a_shell_reads_the_mapped_command(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a "folder" & more'
    folder.mkdir()
    (folder / "launch.sh").write_text('printf "<%s>" "$@"\n')
    here = localize("true && bash /root/a-project/launch.sh a", HOMES, folder, extra=["--b", "c d"])
    said = subprocess.run(["bash", "-c", here.text], capture_output=True, text=True, check=True).stdout
    assert said == "<a><--b><c d>"


def test_a_dataset_that_is_not_here_is_left_out() -> None:
    for given_as in ("--dataset-id uds-none", "--dataset-id=uds-none", "--dataset-id 'uds-none'"):
        here = localize(f"bash /root/a-project/launch.sh {given_as} --epochs 1", HOMES, Path("/p"))
        assert here.text == "bash /p/launch.sh --epochs 1"
        assert "is left out" in here.notes[-1]
        assert "--data-root DIR" in here.notes[-1]


def test_data_from_somewhere_else() -> None:
    command = "bash /root/a-project/launch.sh --dataset-id uds-one"
    here = localize(command, HOMES, Path("/p"), Path("/my/data"), {"--data-root", "--dataset-id"})
    assert here.text == "bash /p/launch.sh --dataset-id uds-one --data-root /my/data"
    assert "/data is /my/data" in here.notes


def test_arguments_go_to_the_training_and_not_to_what_comes_after_it() -> None:
    command = "bash /root/a-project/launch.sh --epochs 2 && echo done"
    here = localize(command, HOMES, Path("/p"), extra=["--epochs", "1"])
    assert here.text == "bash /p/launch.sh --epochs 2 --epochs 1 && echo done"
    with pytest.raises(IscError, match=r"neither launch\.sh nor train\.py.*: /opt/start\. Rehearse without"):
        localize("/opt/start", HOMES, Path("/p"), extra=["--epochs", "1"])


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("bash /root/a-project/launch.sh", []),  # the dataset may be named in train.toml
        ("bash /root/a-project/launch.sh", ["--dataset-id", "uds-one"]),
    ],
)
def test_data_that_the_command_does_not_name(command: str, extra: list[str]) -> None:
    options = {"--data-root", "--dataset-id"}
    here = localize(command, HOMES, Path("/p"), Path("/my/data"), options, extra)
    assert here.text.split() == ["bash", "/p/launch.sh", "--data-root", "/my/data", *extra]
    other = localize(command, HOMES, Path("/p"), Path("/my/data"), options, ["--data-root", "/mine"])
    assert other.text == "bash /p/launch.sh --data-root /mine"
    assert localize("bash /root/a-project/go", HOMES, Path("/p"), Path("/d"), options).text == "bash /p/go"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("cd /root/ && bash a-project/launch.sh", "cd /c && bash a-project/launch.sh"),
        ("cd /root && bash a-project/launch.sh", "cd /c && bash a-project/launch.sh"),
        ("cd ~; ls", "cd /c; ls"),
        ('cd "$HOME/" && ls', 'cd "/c" && ls'),
        ("cd && bash a-project/launch.sh", "cd /c && bash a-project/launch.sh"),
        (
            "true; cd;ls && (cd) && cd - && cdx && ls cd",
            "true; cd /c ;ls && (cd /c ) && cd - && cdx && ls cd",
        ),
        ("(cd /root/a-project)", "(cd /c/p)"),
        ('[[ "$N" =~ ^0 ]] && ls ~+', None),
        ("PYTHONPATH=/root/a-project:/x ls </root/a-project/y", "PYTHONPATH=/c/p:/x ls </c/p/y"),
        ("ls /root/.x ~/x /root/* ~me $HOME/.y '$HOME' /root/a-project.old /x/root", None),
    ],
)
def test_the_home_directory_holds_the_copy(command: str, expected: str | None) -> None:
    """Otherwise a relative path would lead to a real project of that name."""
    assert localize(command, HOMES, Path("/c/p"), home=Path("/c")).text == (expected or command)


@pytest.mark.parametrize("source", ["source /opt/venv/bin/activate", '. "/opt/venv/bin/activate"'])
def test_an_environment_that_cannot_be_activated_is_in_path(source: str, tmp_path: Path) -> None:
    """That of conda, or the system's own Python."""
    text, notes = map_environment(f"{source} && /opt/venv/bin/python x", tmp_path)
    assert text == f": && {tmp_path}/bin/python x"
    assert notes == [
        f"/opt/venv is {tmp_path}, whose programs are in PATH: there is no {tmp_path}/bin/activate"
    ]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").touch()
    text, notes = map_environment(f"{source} && x", tmp_path)
    assert text == f"{source} && x".replace("/opt/venv", str(tmp_path))
    assert notes == [f"/opt/venv is {tmp_path}"]
    assert map_environment("resource /opt/venv2/bin/activate", tmp_path) == (
        "resource /opt/venv2/bin/activate",
        [],
    )
