"""The image, built from the generated Dockerfile and used: with buildah, no daemon, on a base from Debian.

Only what no CI can have is replaced, and by what the Dockerfile itself provides for: the CUDA build of torch
by the CPU one (`make cpulock`), and cycling_utils, which is on a git host, by the stand-in.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from baking import ROOT, Bake, run
from buildah import Buildah
from empty_machine import debian
from host_pip import INSIDE, lend, settings
from isc_runtime.rehearsal.run import STAND_IN
from wheels import size_of

IMAGE = "localhost/isc-experiment:test"
BASE = "localhost/base"
SOURCE = "https://example.org/team/isc-experiment.git"
MARK = "planted-8c1f4be3"  # in every file that is planted
SECRETS = [
    "credentials.isc", "notebooks/credentials.isc", ".env", ".env.local", "tools/.env", ".netrc",
    ".git-credentials", ".pypirc", ".ssh/id_ed25519", "deploy.pem", "tls/server.key", "id_rsa",
    ".envrc", "prod.env", ".npmrc", ".streamlit/secrets.toml", ".config/gcloud/credentials.db",
    "submissions.jsonl",
    ".git/planted", "vendor/lib/.git/config",
    "checkpoints/checkpoint_20260101-000000_1.pth", "runs/events", "data/images.bin", "artifacts/model.pt",
    ".venv/bin/python", "isc_runtime/__pycache__/rng.pyc", ".pytest_cache/x", "build/x", "dist/x.whl",
]  # fmt: skip
HARMLESS = "notes.txt"  # planted too: what must be found, so that finding nothing else means something

needs = [name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.skipif(bool(needs), reason=f"not installed: {', '.join(needs)} (Debian has them)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="making a root file system needs root"),
]


@pytest.fixture(scope="module")
def base() -> Path:
    """The root file system of the Debian release that the Dockerfile names, made once."""
    dockerfile = (ROOT / "{{cookiecutter.project_slug}}" / "Dockerfile").read_text()
    found = re.search(r"^ARG BASE_IMAGE=debian:([a-z]+)", dockerfile, flags=re.MULTILINE)
    assert found, "the Dockerfile names no Debian release"
    return debian(found[1])


@pytest.fixture(scope="module")
def planted(bake: Bake) -> Path:
    """A project with secrets and data in it, and what its build takes instead of CUDA and the git host."""
    project = bake()
    for name in [*SECRETS, HARMLESS]:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(MARK)
    folders = settings().get("find-links", [])  # uv does not read pip's configuration
    where = ["CPU_WHEELS=" + " ".join(f"--find-links {folder}" for folder in folders)] if folders else []
    made = run("make", "cpulock", f"PYTHON={sys.executable}", *where, cwd=project)
    assert made.returncode == 0, made.stderr
    (project / "requirements-stand-in.txt").write_text("cycling_utils==0.0.3\n")
    return project


@pytest.fixture(scope="module")
def wheels(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the stand-in for cycling_utils as a wheel."""
    package, folder = tmp_path_factory.mktemp("package"), tmp_path_factory.mktemp("wheels")
    shutil.copytree(planted / STAND_IN / "cycling_utils", package / "cycling_utils")
    (package / "pyproject.toml").write_text(
        '[project]\nname = "cycling_utils"\nversion = "0.0.3"\n[build-system]\nrequires = ["setuptools"]\n'
    )
    made = run(sys.executable, "-m", "uv", "build", "--wheel", f"--out-dir={folder}", package, cwd=package)
    assert made.returncode == 0, made.stderr
    return folder


@pytest.fixture(scope="module")
def buildah(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """In memory if there is plenty: vfs copies all files for each layer, more than 20 GB in all."""
    memory = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), flags=re.MULTILINE)
    in_memory = memory is not None and int(memory[1]) > 48e6 and shutil.disk_usage("/dev/shm").free > 32e9
    place = Path("/dev/shm") if in_memory else tmp_path_factory.mktemp("storage")
    buildah = Buildah(Path(tempfile.mkdtemp(prefix="image-", dir=place)))
    try:
        buildah.load_base(base, BASE)
        yield buildah
    finally:
        buildah.close()


class Builder:
    """Runs the project's own `make image`, with buildah for docker."""

    def __init__(self, buildah: Buildah, project: Path, mounts: list[str]) -> None:
        arguments = {
            "BASE_IMAGE": BASE,
            "REQUIREMENTS": "requirements-cpu.lock",
            "CYCLING_UTILS": "requirements-stand-in.txt",
        }
        options = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        self.project = project
        self.command = [
            *("make", "image", f"IMAGE={IMAGE}", f"SOURCE={SOURCE}", f"DOCKER={' '.join(buildah.command)}"),
            "BUILD_OPTIONS=" + " ".join(["--isolation=chroot", "--layers", *options, *mounts]),
        ]

    def build(self) -> str:
        """What the build prints; it has to succeed."""
        ended = subprocess.run(
            self.command, cwd=self.project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert ended.returncode == 0, ended.stdout[-5000:]
        return ended.stdout


@pytest.fixture(scope="module")
def builder(
    buildah: Buildah, planted: Path, wheels: Path, tmp_path_factory: pytest.TempPathFactory
) -> Builder:
    loan = lend(tmp_path_factory.mktemp("loan"), wheels)
    return Builder(buildah, planted, loan.mounts)


@pytest.fixture(scope="module")
def image(builder: Builder) -> str:
    """The output of the build."""
    return builder.build()


@pytest.fixture(scope="module")
def root(image: str, buildah: Buildah) -> Iterator[Path]:
    """The files of a container of the image, in which `buildah.run` runs."""
    yield buildah.enter(IMAGE)
    buildah.leave()


def test_two_processes_train_in_it(root: Path, buildah: Buildah) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = buildah.run(f"""
        mkdir /tmp/checkpoints /tmp/lossy
        export NNODES=1 N_PROC=2 MASTER_ADDR=127.0.0.1 MASTER_PORT={port} NODE_RANK=0
        export CHECKPOINT_ARTIFACT_PATH=/tmp/checkpoints LOSSY_ARTIFACT_PATH=/tmp/lossy ISC_RUNTIME_DEVICE=cpu
        cd / && bash /root/isc-experiment/launch.sh --epochs 1 2>&1
    """)
    assert "✅ AtomicDirectory initialized successfully" in said
    assert "Training is complete" in said
    checkpoints = root / "tmp" / "checkpoints"
    assert (checkpoints / "AtomicDirectory.latest_checkpoint").readlink().name.endswith("_force")
    assert list(checkpoints.glob("AtomicDirectory_checkpoint_*/manifest.json"))


def test_the_project_s_check_passes_in_it(root: Path, buildah: Buildah) -> None:
    said = buildah.run("cd /root/isc-experiment && python -m isc_runtime check")
    assert re.search(r"^No errors", said, flags=re.MULTILINE)


def test_it_holds_nothing_that_was_planted(root: Path, planted: Path) -> None:
    found = subprocess.run(
        ["grep", "-rlF", "--devices=skip", MARK, root], capture_output=True, text=True, check=False
    ).stdout
    assert [Path(name).relative_to(root) for name in found.split()] == [
        Path("root/isc-experiment") / HARMLESS
    ]
    for name in SECRETS:
        assert not (root / "root" / "isc-experiment" / name).exists(), name


def test_it_holds_nothing_that_the_host_lent(root: Path) -> None:
    """Places to mount to remain: empty ones."""
    lent = [root / "etc" / "pip.conf", *(root / INSIDE.relative_to("/")).rglob("*")]
    assert len(lent) > 1
    assert [path for path in lent if not path.is_dir() and path.stat().st_size] == []


def test_it_is_what_the_platform_needs(root: Path, buildah: Buildah) -> None:
    configuration = buildah.inspect(IMAGE)["config"]
    assert {"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"} <= set(
        configuration["Env"]
    )
    assert configuration["Cmd"] == ["/bin/bash"]
    assert configuration["WorkingDir"] == "/root/isc-experiment"
    assert "User" not in configuration  # root, as in the ISC's own images
    assert configuration["Labels"].items() >= {
        ("org.opencontainers.image.title", "isc-experiment"),
        ("org.opencontainers.image.version", "0.1.0"),
        ("org.opencontainers.image.source", SOURCE),
    }
    said = buildah.run("mkdir -p /run/sshd && /usr/sbin/sshd -t && git --version && command -v python pip")
    # Without them NCCL takes TCP, and with the other a container does not start where the driver is older.
    assert buildah.run(
        "ldconfig -p | grep -c libibverbs.so.1 && ls /etc/libibverbs.d && printenv NVIDIA_DISABLE_REQUIRE"
    )
    assert said.splitlines()[1:] == ["/opt/venv/bin/python", "/opt/venv/bin/pip"]


def test_its_size_with_cuda_is_under_12_gb(
    root: Path, planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Estimated: what is installed without the wheels is measured, the wheels' contents are looked up."""
    bytecode = sum(file.stat().st_size for file in (root / "opt" / "venv").rglob("*.pyc"))
    system = _disk_usage(root) - _disk_usage(root / "opt" / "venv")
    wheels = size_of(planted / "requirements.lock", tmp_path)
    total = system + bytecode + wheels.unpacked
    with capsys.disabled():
        print(
            f"\nImage with CUDA, estimated: {total / 1e9:.1f} GB = system {system / 1e9:.1f} "
            f"+ {wheels.wheels} wheels {wheels.unpacked / 1e9:.1f} (packed {wheels.packed / 1e9:.1f}) "
            f"+ bytecode {bytecode / 1e9:.1f}; with the CPU build of torch: {_disk_usage(root) / 1e9:.1f} GB"
        )
    assert system > 1e8
    assert bytecode > 1e7
    assert wheels.packed > 1e9, "this is no lock with CUDA"
    assert total < 12e9


def _disk_usage(directory: Path) -> int:
    """Bytes of all files; links are not followed."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())


def test_the_full_lock_resolves_with_its_hashes(project: Path, tmp_path: Path) -> None:
    platform = ["--python-version=3.11", "--python-platform=x86_64-manylinux_2_28"]
    resolved = run(
        *(sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--require-hashes", *platform),
        *("--target", tmp_path, "-r", "requirements.lock"),
        cwd=project,
    )
    assert resolved.returncode == 0, resolved.stderr
    assert "+ torch==" in resolved.stderr
    assert "+ nvidia-cudnn" in resolved.stderr


def test_changed_code_reinstalls_nothing(root: Path, builder: Builder, buildah: Buildah) -> None:
    """The last test: it replaces the image."""
    layers = buildah.inspect(IMAGE)["rootfs"]["diff_ids"]
    with (builder.project / "train.py").open("a") as script:
        script.write("# changed\n")
    said = builder.build()
    steps = re.split(r"^STEP \d+/\d+: ", said, flags=re.MULTILINE)
    rebuilt = [step.splitlines()[0] for step in steps[2:] if "Using cache" not in step]  # not FROM
    assert rebuilt[0] == "COPY . ."
    assert not [step for step in rebuilt if "pip install" in step or "apt-get" in step]
    renewed = buildah.inspect(IMAGE)["rootfs"]["diff_ids"]
    same = [before == after for before, after in zip(layers, renewed, strict=True)]
    assert all(same[:-2]), "only the last layers, the code and which commit it is, may be others"
    assert not same[-2]
    buildah.enter(IMAGE)
    assert "changed" in buildah.run("tail -n 1 /root/isc-experiment/train.py")
