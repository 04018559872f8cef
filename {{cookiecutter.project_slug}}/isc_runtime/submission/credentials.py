"""Files that hold a secret, as far as they can be told by their name or their first bytes."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

ISC = "credentials.isc"  # of the `isc` command: TOML in a file of the same suffix, but no launch file
NAMES = (
    *(
        ISC,
        ".env",
        ".env.*",
        ".netrc",
        ".pypirc",
        ".git-credentials",
        ".htpasswd",
        "kubeconfig",
        "*.kubeconfig",
    ),
    *("*.pem", "*.key", "*.p12", "*.pfx", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "credentials.json"),
    *("service-account*.json", "service_account*.json", "kaggle.json"),
)
FOLDERS = frozenset({".aws", ".ssh", ".docker", ".kube", ".gnupg", ".huggingface", ".azure"})
EXAMPLES = (".example", ".sample", ".template", ".pub")
LARGEST = 65536  # bytes; a file with a secret in it is small

# Beginnings that the issuers chose so that they can be found: a private key, AWS, GitHub, Hugging Face.
_TOKEN = re.compile(
    rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"
    rb"|\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[0-9A-Za-z]{36}|github_pat_\w{60,}|hf_[0-9A-Za-z]{34})\b"
)


def has_secret_name(path: str) -> bool:
    """Whether a file is usually a secret.

    Args:
        path: in the project, with `/` between its parts.
    """
    *folders, name = PurePosixPath(path).parts
    if name.endswith(EXAMPLES):
        return False
    return not FOLDERS.isdisjoint(folders) or any(fnmatchcase(name.lower(), pattern) for pattern in NAMES)


def holds_secret(file: Path, size: int) -> bool:
    """Whether there is a private key or a token in a file of so many bytes."""
    try:
        return size <= LARGEST and file.is_file() and _TOKEN.search(file.read_bytes()) is not None
    except OSError:
        return False
