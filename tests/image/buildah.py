"""buildah, with a storage of its own that is gone when it is closed."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Buildah:
    """Builds and looks at images as root, without a daemon.

    Args:
        storage: an empty directory; no other image of this machine is touched.
    """

    storage: Path
    _container: str = field(default="", init=False)

    @property
    def command(self) -> list[str]:
        """The command with its storage, to which a subcommand is added."""
        roots = [f"--root={self.storage / 'root'}", f"--runroot={self.storage / 'run'}"]
        return ["buildah", *roots, "--storage-driver=vfs"]  # vfs: works on any file system, without FUSE

    def __call__(self, *arguments: str | Path) -> str:
        """What a subcommand prints; it has to succeed."""
        ended = subprocess.run([*self.command, *arguments], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f"buildah {arguments[0]}: {ended.stdout[-3000:]}{ended.stderr[-3000:]}"
        return ended.stdout.strip()

    def load_base(self, archive: Path, name: str) -> None:
        """Makes an image of a root file system."""
        container = self("from", "scratch")
        self("add", container, archive, "/")
        self("commit", "--rm", container, name)

    def inspect(self, image: str) -> dict[str, Any]:
        """An image's configuration, as OCI defines it."""
        configuration: dict[str, Any] = json.loads(self("inspect", "--type=image", image))["OCIv1"]
        return configuration

    def enter(self, image: str) -> Path:
        """Makes a container of an image, for `run`, and says where its files are."""
        self.leave()
        self._container = self("from", image)
        return Path(self("mount", self._container))

    def run(self, script: str) -> str:
        """What a bash script in the container prints; it has to succeed."""
        return self("run", "--isolation=chroot", self._container, "--", "bash", "-ec", script)

    def leave(self) -> None:
        """Removes the container."""
        if self._container:
            self("rm", self._container)
            self._container = ""

    def close(self) -> None:
        """Removes everything."""
        try:
            self("rm", "--all")
        finally:
            shutil.rmtree(self.storage)
