"""Secrets to plant, none of which is one: made here, in parts, or a scanner would take this file for a leak.

And files as they lie in every project, which look as wild as secrets and are none.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import uuid
from collections.abc import Callable
from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"
BASE62 = LETTERS + LETTERS.upper() + DIGITS
_chance = random.Random(15)


def characters(count: int, alphabet: str = BASE62) -> str:
    """So many of them, by chance."""
    return "".join(_chance.choices(alphabet, k=count))


def _jwt() -> str:
    header, claims = ({"alg": "HS256", "typ": "JWT"}, {"sub": "1234567890", "iat": 1516239022})
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, claims)
    ]
    return ".".join([*parts, characters(43)])


# What it is called in `check` -> what would stand in a file
TOKENS = {
    "an OpenAI key": "sk-" + "proj-" + characters(20) + "T3" + "BlbkFJ" + characters(20),
    "an Anthropic key": "sk-" + "ant-api03-" + characters(93) + "AA",
    "a W&B key": "WANDB_API" + "_KEY=" + characters(40, "abcdef" + DIGITS),
    "a Slack token": "xox"
    + "b-"
    + characters(12, DIGITS)
    + "-"
    + characters(12, DIGITS)
    + "-"
    + characters(24),
    "a Google key": "AI" + "za" + characters(35),
    "a GitLab token": "gl" + "pat-" + characters(20),
    "a GitHub token": "gh" + "p_" + characters(36),
    "a Hugging Face token": "h" + "f_" + characters(34),
    "a PyPI token": "py" + "pi-AgEIcHlwaS5vcmc" + characters(150),
    "an AWS key": "AK" + "IA" + characters(16, LETTERS.upper() + "234567"),
    "a password in a URL": "postgresql://trainer:" + characters(12) + "@db.internal/runs",
    "a JSON web token": _jwt(),
    "a private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n" + characters(70) + "\n",
}


def notebook(lines: list[str], images: int = 1, size: int = 10_000) -> str:
    """A notebook with pictures of so many bytes among its outputs, and these lines in its last cell."""
    cells: list[dict[str, object]] = []
    for number in range(images):
        picture = base64.b64encode(_chance.randbytes(size)).decode()
        outputs: list[dict[str, object]] = [
            {"output_type": "display_data", "data": {"image/png": picture}, "metadata": {}}
        ]
        cells.append(_cell([f"plot({number})"], outputs))
    cells.append(_cell(lines, []))
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, indent=1)


def _cell(lines: list[str], outputs: list[dict[str, object]]) -> dict[str, object]:
    source = [f"{line}\n" for line in lines]
    name = str(uuid.UUID(bytes=_chance.randbytes(16)))
    return {"cell_type": "code", "id": name, "metadata": {}, "source": source, "outputs": outputs}


def log() -> str:
    """A log with all that is long and random in one: hashes, ids, addresses, run names."""
    lines = []
    for step in range(15):
        digest = hashlib.sha256(_chance.randbytes(8)).hexdigest()
        run = characters(8, LETTERS + DIGITS)
        lines += [
            f"2026-11-24 09:30:17,{step:03} - train - INFO - step {step} loss {_chance.random():.4f}",
            f"wandb: View run at https://wandb.ai/team/project/runs/{run}?nw=nwuser",
            f"wandb: Run data is saved in wandb/run-20261124_093017-{run}; git commit {digest[:40]}",
            f"Downloading https://cdn-lfs.example.org/{digest}?sig={characters(43)}&X-Amz-Date=20261124T093017Z",
            f"numpy-2.4.6 --hash=sha256:{digest}, image sha256:{digest}, oci://python:3.11@sha256:{digest}",
            f"uuid {uuid.UUID(bytes=_chance.randbytes(16))} at http://10.0.0.{step}:8080/api?user=me&id={step}",
            f"git+https://github.com/StrongResearch/cycling_utils.git@{digest[:40]} from ssh://git@host:22/x.git",
            f"embedding: {base64.b64encode(_chance.randbytes(90)).decode()}",
        ]
    return "\n".join(lines)


CODE = """
# Put your key into ~/.netrc, or: export WANDB_API_KEY=<your key>
# HF_TOKEN=hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
from sklearn.utils import estimator_html_repr  # its CSS has names such as sk-toggleable__content-arrow
password = os.environ["DATABASE_PASSWORD"]
url = f"postgresql://{user}:{password}@{host}/runs"
DOCS = "https://user:password@example.org, http://localhost:6006, s3://bucket/key, https://me@example.org"
token = getpass("token: ")
tokenizer.pad_token = "<|endoftext|>"
key = "model.layers.0.self_attn.k_proj.weight"
"""


def ordinary_files(folder: Path, count: int = 100) -> list[Path]:
    """Writes notebooks, logs, code, and tables, none of which holds a secret."""
    makers: list[tuple[str, Callable[[], str]]] = [
        ("notebook_{}.ipynb", lambda: notebook(CODE.splitlines(), images=2)),
        ("run_{}.log", log),
        ("code_{}.py", lambda: CODE + f'COMMIT = "{characters(40, "abcdef" + DIGITS)}"\n'),
        (
            "table_{}.jsonl",
            lambda: "\n".join(json.dumps({"id": characters(32), "x": step}) for step in range(99)),
        ),
        ("hashes_{}.txt", lambda: "\n".join(f"{characters(64, 'abcdef' + DIGITS)}  file" for _ in range(99))),
    ]
    files = []
    for number in range(count):
        name, make = makers[number % len(makers)]
        files.append(folder / name.format(number))
        files[-1].write_text(make())
    return files
