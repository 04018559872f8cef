"""What pip needs on this host - certificates, folders of wheels, other indices -, lent to a build.

It is found in pip's own configuration, whatever that is, mounted read-only at neutral places, and described
to the build's pip by a configuration of its own. Nothing of it is copied into an image or named in one.
"""

from __future__ import annotations

import ast
import os
import pwd
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

INSIDE = Path("/run/host-pip")  # where what is lent is mounted
CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def settings() -> dict[str, list[str]]:
    """pip's options on this host, from its files and its variables, each with its values."""
    home = pwd.getpwuid(os.getuid()).pw_dir  # the tests have a home of their own
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        env={**os.environ, "HOME": home},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    options: dict[str, list[str]] = {}
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):  # variables win
        name, _, value = line.partition("=")
        options[name.rpartition(".")[2]] = str(ast.literal_eval(value)).split()
    if certificates := next(filter(None, map(os.environ.get, CERTIFICATES)), None):
        options.setdefault("cert", [certificates])
    return options


@dataclass
class Loan:
    """What a build borrows of this host's pip.

    Attributes:
        mounts: options of `buildah build`.
        configuration: the file that the build's pip reads; it is one of the mounts.
        places: where inside a path of this host's configuration is.
    """

    mounts: list[str]
    configuration: str
    places: dict[str, str]


def lend(directory: Path, *wheels: Path) -> Loan:
    """Writes the configuration into `directory` and names all mounts.

    Args:
        directory: for the configuration.
        wheels: folders of wheels of the caller's own.
    """
    options = settings()
    if wheels:
        options["find-links"] = [*options.get("find-links", []), *map(str, wheels)]
    mounts: dict[str, Path] = {}
    places: dict[str, str] = {}

    def moved(value: str) -> str:
        """The place inside for a path of this host; anything else as it is."""
        path = Path(value.removeprefix("file://"))
        if not (path.is_absolute() and path.exists()):
            return value
        is_index = value.startswith("file://") and path.is_dir()  # its pages name files beside it
        source = path.parent if is_index else path
        place = INSIDE / str(list(mounts).index(str(source)) if str(source) in mounts else len(mounts))
        mounts[str(source)] = place
        places[value] = f"file://{place / path.name}" if is_index else str(place)
        return places[value]

    lines = [f"{name} = {' '.join(map(moved, values))}" for name, values in options.items()]
    configuration = "\n".join(["[global]", *lines, ""])
    file = directory / "pip.conf"
    file.write_text(configuration)
    volumes = [f"--volume={file}:/etc/pip.conf:ro"]
    volumes += [f"--volume={source}:{place}:ro" for source, place in mounts.items()]
    return Loan(volumes, configuration, places)
