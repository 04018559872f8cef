"""A machine on which nothing is installed: a root folder made of Debian's packages, in which commands run.

What the network of this host needs - certificates, folders of wheels - is lent to it, and nothing else.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from baking import ROOT, git, run, words_of
from host_pip import lend, settings

USER, HOME = "newcomer", "/home/newcomer"
MISSING = [name for name in ("mmdebstrap", "unshare", "chroot") if shutil.which(name) is None]
MISSING += [] if os.geteuid() == 0 else ["root's rights"]
KERNEL = (
    "mount --rbind /dev {root}/dev",
    "mount -t proc proc {root}/proc",
    "mount -t sysfs sysfs {root}/sys",
)


def debian(release: str) -> Path:
    """The smallest root file system of a release, as a tar archive; made once. Needs root and mmdebstrap."""
    archive = ROOT / "build" / f"debian-{release}.tar"
    if not archive.exists():
        archive.parent.mkdir(exist_ok=True)
        unfinished = archive.with_suffix(f".{os.getpid()}.tar")  # two lanes may be at it
        made = run("mmdebstrap", "--variant=minbase", "--quiet", release, unfinished, cwd=ROOT)
        assert made.returncode == 0, made.stderr[-3000:]
        unfinished.rename(archive)
    return archive


@dataclass
class EmptyMachine:
    """A root folder, and a person in it who is not root.

    Args:
        root: the folder; what is in it is replaced.
        archive: what it is made of.

    Attributes:
        home: the person's folder.
    """

    root: Path
    archive: Path
    home: str = field(default=HOME, init=False)
    _mounts: list[str] = field(default_factory=list, init=False)
    _variables: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        with tarfile.open(self.archive) as archive:
            archive.extractall(self.root, filter="fully_trusted")
        shutil.copy("/etc/resolv.conf", self.root / "etc" / "resolv.conf")
        names = f"127.0.0.1 localhost\n127.0.1.1 {socket.gethostname()}\n"  # as an installed Debian has them
        (self.root / "etc" / "hosts").write_text(names)
        self._mounts = [line.format(root=shlex.quote(str(self.root))) for line in KERNEL]
        self._lend()
        assume = "echo 'APT::Get::Assume-Yes \"true\";' > /etc/apt/apt.conf.d/yes"  # nobody answers
        self.as_root(assume, "apt-get update --quiet", f"useradd --create-home --shell /bin/bash {USER}")

    def _lend(self) -> None:
        """pip's configuration, with all that it names; and where uv and git look for the same."""
        loan = lend(self.root / "tmp")
        for option in loan.mounts:
            source, _, place = option.removeprefix("--volume=").removesuffix(":ro").partition(":")
            self.mount(Path(source), place)
        certificates = settings().get("cert", [])
        if certificates:
            self._variables |= dict.fromkeys(
                ("SSL_CERT_FILE", "GIT_SSL_CAINFO"), loan.places[certificates[0]]
            )
        wheels = [loan.places[folder] for folder in settings().get("find-links", [])]
        if wheels:  # where this host has the CPU build of torch
            self._variables["CPU_WHEELS"] = " ".join(f"--find-links {folder}" for folder in wheels)

    def mount(self, source: Path, place: str) -> None:
        """Shows a file or folder of this host inside, read-only."""
        inside = self.root / place.lstrip("/")
        if source.is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        else:
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.touch()
        self._mounts.append(f"mount --bind -o ro {shlex.quote(str(source))} {shlex.quote(str(inside))}")

    def serve(self, repository: Path) -> str:
        """The address of a clone of a repository, which stands for one on GitHub."""
        address = f"{HOME}/served/isc-template.git"
        git("clone", "-q", "--bare", str(repository), str(self.path(address)), cwd=repository)
        self.as_root(f"chown -R {USER}: {HOME}/served")
        return address

    def path(self, place: str) -> Path:
        """Where this host has a place of the machine."""
        return self.root / place.lstrip("/")

    def as_root(self, *lines: str) -> str:
        """Runs lines in one bash that stops at the first failure; returns what was said."""
        return self._run(lines, "root", "/")

    def follow(self, lines: Iterable[str], directory: str = HOME) -> str:
        """The same as the newcomer, in a folder of theirs."""
        return self._run(lines, USER, directory)

    def _run(self, lines: Iterable[str], user: str, directory: str) -> str:
        home = "/root" if user == "root" else HOME
        path = f"{home}/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        variables = {"HOME": home, "USER": user, "PATH": path, "LANG": "C.UTF-8", **self._variables}
        inside = [f"cd {shlex.quote(directory)}", *lines]
        command = ["chroot", f"--userspec={user}:{user}", str(self.root), "/usr/bin/env", "-i"]
        command += [f"{name}={value}" for name, value in variables.items()]
        command += ["bash", "-ex", "-o", "pipefail", "-c", "\n".join(inside)]
        outside = "\n".join(["set -e", *self._mounts, f"exec {shlex.join(command)}"])
        return words_of(["unshare", "--mount", "--propagation=private", "bash", "-c", outside], ROOT, {})

    def remove(self) -> None:
        """Deletes it; the mounts went with each command."""
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.root)], check=True)
