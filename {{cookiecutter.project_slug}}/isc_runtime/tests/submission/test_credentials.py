"""What is taken for a secret, by name or by content, and what is not."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from isc_runtime.submission.contents import credentials
from isc_runtime.submission.contents.credentials import (
    CHUNK,
    OVERLAP,
    Token,
    find_token,
    has_secret_name,
    is_public,
)
from isc_runtime.tests.submission.planted import TOKENS, characters, notebook, ordinary_files

TOKEN = TOKENS["a GitHub token"]
WRITTEN = {
    "code.py": lambda token: f'import os\nKEY = """{token}"""\n',
    "prod.env.txt": lambda token: f"A=1\nB={token}\n",
    "settings.yaml": lambda token: f"a: 1\nb: {token}\n",
    "lines.jsonl": lambda token: f'{{}}\n{{"out": "done\\n{token}"}}\n',
}


@pytest.mark.parametrize("file", WRITTEN)
@pytest.mark.parametrize("kind", TOKENS)
def test_each_kind_is_found_in_each_kind_of_file(tmp_path: Path, kind: str, file: str) -> None:
    (tmp_path / file).write_text(WRITTEN[file](TOKENS[kind]))
    assert find_token(tmp_path / file) == Token(kind, 2)


@pytest.mark.parametrize("kind", TOKENS)
def test_each_kind_is_found_in_a_large_notebook(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "n.ipynb"
    file.write_text(notebook([f"key = {line}" for line in TOKENS[kind].splitlines()], images=2, size=90_000))
    assert file.stat().st_size > 200_000
    token = find_token(file)
    assert token is not None
    assert token.kind == kind
    assert TOKENS[kind].splitlines()[0] in file.read_text().splitlines()[token.line - 1]


MORE = {
    "a W&B key": [
        'wandb.login(key="' + characters(40, "0123456789abcdef") + '")',
        "machine api.wandb.ai\n  login user\n  password " + characters(40, "0123456789abcdef"),
        "wandb" + "_v1_" + characters(77),
    ],
    "an AWS key": [
        "AWS_SECRET" + "_ACCESS_KEY=" + characters(40),
        "aws_secret" + '_access_key = "' + characters(40) + '"',
        "AS" + "IA" + characters(16, "ABCDEFGH"),
    ],
    "an OpenAI key": ["sk-" + characters(48), "sk-" + "svcacct-" + characters(60)],
    "a GitHub token": ["github" + "_pat_" + characters(82)],
    "a Slack webhook": ["https://hooks.slack.com/services/" + "T01ABCDEF/B01ABCDEF/" + characters(24)],
    "a password in a URL": [
        "https://x-access-token:" + "gh" + f"s_{characters(36)}@github.com",
        "redis://" + ":s3cr3t-7@cache:6379/0",
        "https://me:" + "p%40ss.7@host",
    ],
    "a private key": [
        "-----BEGIN " + "PRIVATE KEY-----\\nMII",
        "-----BEGIN PGP " + "PRIVATE KEY BLOCK-----\r\nx",
    ],
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in MORE.items() for text in texts])
def test_other_forms(tmp_path: Path, kind: str, text: str) -> None:
    (tmp_path / "x").write_text(text)
    token = find_token(tmp_path / "x")
    assert token is not None
    assert token.kind == kind


@pytest.mark.parametrize(
    "text",
    [
        "gh" + "p_" + "x" * 36,
        "AK" + "IAIOSFODNN7EXAMPLE",
        "sk-" + "ant-api03-your-key-goes-here-please",
        "https://user:password@host, https://user:" + "${TOKEN}@host, https://{user}:{word}@host",
        "ssh://git@host:" + "22/x@y, https://user:" + "s3cret@localhost.example.com",
        "https://me:"
        + "mypassword@host, https://abc:"
        + "xyz@www.example.com/, github:"
        + "//org:repo@sha/file",
        'START = b"-----BEGIN OPENSSH ' + 'PRIVATE KEY-----"',
        "docker://python:3.11@sha256:" + "ab" * 32,
        TOKEN + "  # pragma: allowlist secret",
        "x" + TOKEN,
        TOKEN + "A",
        "wandb: git commit " + characters(40, "0123456789abcdef"),
        "AKIA, ghp_, sk- and PRIVATE KEY are words",
    ],
)
def test_what_only_looks_like_a_token(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(f"{text}\n")
    assert find_token(tmp_path / "x") is None


def test_a_hundred_ordinary_files_are_no_alarm(tmp_path: Path) -> None:
    files = ordinary_files(tmp_path, 100)
    assert {file.name: find_token(file) for file in files if find_token(file)} == {}


@pytest.mark.parametrize("shift", range(-50, 51, 5))
def test_a_token_between_two_parts_of_a_file(
    tmp_path: Path, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = 2 * OVERLAP
    monkeypatch.setattr(credentials, "CHUNK", chunk)
    file = tmp_path / "x"
    for whole, expected in ((TOKEN, Token("a GitHub token", 2)), (f"{TOKEN}A", None), (f"A{TOKEN}", None)):
        before = "\n" + "." * (chunk + shift - 2) + " "
        file.write_text(f"{before}{whole} {'.' * chunk}")
        assert find_token(file) == expected


def test_memory_is_bounded_and_so_is_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x"
    line = b"." * 1023 + b"\n"
    file.write_bytes(line * 20 * 1024 + TOKEN.encode())
    tracemalloc.start()
    assert find_token(file) == Token("a GitHub token", 20 * 1024 + 1)
    assert tracemalloc.get_traced_memory()[1] < 6 * CHUNK
    tracemalloc.stop()
    monkeypatch.setattr(credentials, "MOST_READ", 10 * CHUNK)
    assert find_token(file) is None


def test_binary_files_links_and_pipes_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"PK\0" + TOKEN.encode())
    (tmp_path / "text").write_text(TOKEN)
    (tmp_path / "link").symlink_to("text")
    os.mkfifo(tmp_path / "pipe")
    assert [find_token(tmp_path / name) for name in ("binary", "link", "pipe", "nothing")] == [None] * 4


def test_a_file_from_powershell(tmp_path: Path) -> None:
    (tmp_path / "x").write_text(f"A\n{TOKEN}\n", encoding="utf-16")
    assert find_token(tmp_path / "x") == Token("a GitHub token", 2)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "credentials.isc",
            "deep/credentials.isc",
            ".env",
            "a/.env.local",
            "a/server.pem",
            "tls.key",
            "a/id_rsa",
        ),
        *(
            ".netrc",
            ".pypirc",
            ".git-credentials",
            ".aws/credentials",
            ".ssh/config",
            "kaggle.json",
            "ID_RSA",
        ),
        *(
            "service-account-7.json",
            ".kube/config",
            ".envrc",
            "prod.env",
            ".streamlit/secrets.toml",
            ".npmrc",
        ),
        *("a/.config/gcloud/application_default_credentials.json", "id_ed25519", "id_ed25519_github"),
        *("application_default_credentials.json", ".docker/config.json", "client_secret_7.json"),
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert has_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *(".env.example", "prod.env.sample", "id_rsa.pub", "environment.py", "keys.py", "monkey", "env"),
        *(
            "tests/test_credentials.py",
            "kube/config",
            ".docker/Dockerfile",
            "credentials.py",
            "aws/credentials",
        ),
    ],
)
def test_names_of_others(name: str) -> None:
    assert not has_secret_name(name)


def test_a_certificate_is_public(tmp_path: Path) -> None:
    file = tmp_path / "server.pem"
    file.write_text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")
    assert is_public(file)
    file.write_text(file.read_text() + TOKENS["a private key"])
    assert not is_public(file)
