"""Files that hold a secret: told by their names, or by the tokens that are found in them.

The list is small on purpose: what leaks from research projects, and can be told without guessing. The hook in
.pre-commit-config.yaml runs a scanner that knows more, and these tokens by a plugin.
"""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import BinaryIO

ISC = "credentials.isc"  # of the `isc` command: TOML in a file of the same suffix, but no launch file
# The last parts of a path. .gitignore and .dockerignore name all of them; a test compares.
NAMES = (
    *(ISC, ".env", ".env.*", "*.env", ".envrc", ".netrc", "_netrc", ".npmrc", ".pypirc", ".git-credentials"),
    *(".htpasswd", ".pgpass", ".databrickscfg", ".s3cfg", ".boto", "rclone.conf", "kubeconfig"),
    *("*.kubeconfig", "*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.jks", "*.keystore", "*.kdbx"),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "secrets.toml", ".secrets.toml"),
    *("credentials.json", "application_default_credentials.json", "client_secret*.json"),
    *("service-account*.json", "service_account*.json", "kaggle.json"),
    *(".docker/config.json", ".config/gcloud/*", ".aws/*", ".ssh/*", ".kube/*", ".gnupg/*", ".azure/*"),
    ".huggingface/*",
)
_SECRET_NAME = re.compile("|".join(translate(f"*/{name}") for name in NAMES))
EXAMPLES = (".example", ".sample", ".template", ".pub")
ALLOWED = b"pragma: allowlist secret"  # in the same line: a person has looked at it (as in detect-secrets)

CHUNK = 2**20  # bytes that are read at a time
OVERLAP = 2**12  # bytes of the chunk before that are looked at again; every pattern is shorter
MOST_READ = 64 * 2**20  # bytes of one file: what is longer is data
BINARY = 8000  # bytes at the beginning; with a NUL among them it is no text, as git has it
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # what PowerShell writes
_PUBLIC = re.compile(rb"\s*-----BEGIN (?:TRUSTED )?(?:CERTIFICATE|PUBLIC KEY)")


@dataclass(frozen=True)
class Token:
    """Something secret within a file.

    Attributes:
        kind: whose it is, with an article.
        line: where it is, counted from 1.
    """

    kind: str
    line: int


_START = rb"(?:(?<!\w)|(?<=\\[nrt]))"  # no letter before it, but for the end of a line in a JSON string
# What it is, how it begins (which is looked for at the speed of memory), how it looks. The issuers chose most
# of these beginnings so that tokens can be found. No pattern is longer than OVERLAP.
_KINDS: tuple[tuple[str, tuple[bytes, ...], bytes], ...] = (
    (
        "a private key",
        (b"-----BEGIN ",),  # code that looks for such a line names it without its end
        rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:\s|\\[nr])",
    ),
    ("an Anthropic key", (b"sk-ant-",), _START + rb"sk-ant-[a-z]{3,8}\d\d-[\w-]{20}"),
    ("an OpenAI key", (b"sk-",), _START + rb"sk-(?:(?:proj|svcacct|admin)-[\w-]{20}|[0-9A-Za-z]{40})"),
    ("a W&B key", (b"wandb_v1_",), _START + rb"wandb_v1_\w{40}"),
    ("a W&B key", (b"WANDB_API_KEY",), rb"WANDB_API_KEY\W{1,9}(?:local-)?[0-9a-f]{40}(?!\w)"),
    ("a W&B key", (b"wandb.login(",), rb"wandb\.login\([^\n)]{0,60}?(?<!\w)[0-9a-f]{40}(?!\w)"),
    ("a W&B key", (b"api.wandb.ai",), rb"api\.wandb\.ai\s+login\s+\w+\s+password\s+[0-9a-f]{40}"),
    ("a Hugging Face token", (b"hf_",), _START + rb"hf_[0-9A-Za-z]{34}(?!\w)"),
    (
        "a GitHub token",
        (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_"),
        _START + rb"gh\w_[0-9A-Za-z]{36}(?!\w)",
    ),
    ("a GitHub token", (b"github_pat_",), _START + rb"github_pat_\w{60}"),
    ("a GitLab token", (b"glpat-", b"gldt-", b"glrt-", b"glptt-"), _START + rb"gl[a-z]+-[\w-]{20}"),
    ("a PyPI token", (b"pypi-Ag",), _START + rb"pypi-Ag[\w-]{50}"),
    ("an npm token", (b"npm_",), _START + rb"npm_[0-9A-Za-z]{36}(?!\w)"),
    ("a Docker Hub token", (b"dckr_pat_", b"dckr_oat_"), _START + rb"dckr_[po]at_[\w-]{27}"),
    ("a Slack token", (b"xox",), _START + rb"xox[a-z]-(?:\d{6,}-[0-9A-Za-z-]{10}|[0-9A-Za-z-]{30})"),
    ("a Slack webhook", (b"hooks.slack.com/services/T",), rb"[^\s]{25}T\w{6,20}/B\w{6,20}/\w{20}"),
    ("an AWS key", (b"AKIA", b"ASIA"), _START + rb"A[KS]IA[0-9A-Z]{16}(?!\w)"),
    (
        "an AWS key",
        (b"secret_access_key", b"SECRET_ACCESS_KEY", b"SecretAccessKey"),
        rb"\w+[\s\"'\\=:]{1,9}[0-9A-Za-z/+]{40}(?![\w/+])",
    ),
    ("a Google key", (b"AIza",), _START + rb"AIza[\w-]{35}(?![\w-])"),
    ("a Google secret", (b"GOCSPX-",), _START + rb"GOCSPX-[\w-]{28}"),
    ("a JSON web token", (b"eyJ",), _START + rb"eyJ[\w-]{8,500}\.eyJ[\w-]{8,3000}\.[\w-]{16}"),
    (
        "a password in a URL",
        (b"://",),
        rb"(?<!github)://[^\s/?#@:\"'<>`{}$\\]{0,99}:(?P<password>[^\s/?#@:\"'<>`{}$\\]{3,99})@(?!sha256:)[\w\[]",
    ),
)
PATTERNS = [(kind, mark, pattern) for kind, marks, pattern in _KINDS for mark in marks]
_NO_HOST = re.compile(rb"(?:[\w-]+\.)*example\.(?:com|org|net)\b")  # reserved for documentation: RFC 2606
PLACEHOLDER = re.compile(rb"(?i)example|your|redacted|(.)\1{7}")  # in a token: it stands for one
_NO_PASSWORD = re.compile(
    rb"(?i)x+|\*+|\.+|(my[-_]?)?pass(word|wd)?|pwd?|secret|token|changeme|key|api[-_]?key"
)


def has_secret_name(path: str) -> bool:
    """Whether a file is usually a secret.

    Args:
        path: in the project, with `/` between its parts.
    """
    lower = f"/{path.lower()}"
    return not lower.endswith(EXAMPLES) and _SECRET_NAME.match(lower) is not None


def is_public(file: Path) -> bool:
    """Whether a file is a certificate or a public key, whose name may be that of a private one."""
    try:
        with file.open("rb") as stream:
            return _PUBLIC.match(stream.read(CHUNK)) is not None and find_token(file) is None
    except OSError:
        return False


def find_token(file: Path) -> Token | None:
    """The first token, password or private key in a text file, of which at most MOST_READ bytes are read.

    Links are not followed: neither git nor an image takes what they point to. What cannot be read holds none.
    """
    try:
        if not stat.S_ISREG(file.lstat().st_mode):
            return None
        with file.open("rb") as stream:
            return _search(stream)
    except OSError:
        return None


def _search(stream: BinaryIO) -> Token | None:
    chunk = stream.read(CHUNK)
    is_wide = chunk.startswith(_UTF_16)
    if b"\0" in chunk[:BINARY] and not is_wide:
        return None
    line, text, is_first = 1, b"", True
    for _ in range(MOST_READ // CHUNK):
        following = stream.read(CHUNK)
        text += chunk.replace(b"\0", b"") if is_wide else chunk
        token = _search_text(text, is_first, is_last=not following)
        if token is not None:
            return Token(token.kind, line + token.line)
        if not following:
            break
        line += text.count(b"\n", 0, -OVERLAP)
        text, chunk, is_first = text[-OVERLAP:], following, False
    return None


def _search_text(text: bytes, is_first: bool, is_last: bool) -> Token | None:
    """The first token in a part of a file; its line is counted from 0.

    What touches an end of the part is not whole: it is seen with the part before or after this one.
    """
    found = []
    for kind, mark, pattern in PATTERNS:
        at = text.find(mark)
        while at >= 0:
            match = re.compile(pattern).match(text, at)  # most are never needed, and re keeps them
            if match and (is_first or at > 0) and (is_last or match.end() < len(text)) and _is_meant(match):
                found.append((at, kind))
                break
            at = text.find(mark, at + 1)
    return Token(min(found)[1], text.count(b"\n", 0, min(found)[0])) if found else None


def _is_meant(match: re.Match[bytes]) -> bool:
    password = match.groupdict().get("password")
    if password is not None and _NO_PASSWORD.fullmatch(password):
        return False
    if password is not None and _NO_HOST.match(match.string, match.end() - 1):
        return False
    end = match.string.find(b"\n", match.end())
    line = match.string[match.string.rfind(b"\n", 0, match.start()) + 1 : end if end >= 0 else None]
    return PLACEHOLDER.search(match[0]) is None and ALLOWED not in line
