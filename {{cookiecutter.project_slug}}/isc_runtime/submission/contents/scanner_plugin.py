"""What `check` knows and detect-secrets does not: a plugin, which .pre-commit-config.yaml names."""

from __future__ import annotations

import re
from collections.abc import Generator

from detect_secrets.plugins.base import RegexBasedDetector

from isc_runtime.submission.contents.credentials import PATTERNS, PLACEHOLDER

KINDS = {"an Anthropic key", "a W&B key", "a Google key", "a Hugging Face token"}


class TokensOfCheck(RegexBasedDetector):
    """Finds tokens by the forms that `check` looks for."""

    secret_type = "Token by its form"  # pragma: allowlist secret
    denylist = tuple(re.compile(pattern.decode()) for kind, _, pattern in PATTERNS if kind in KINDS)

    def analyze_string(self, string: str) -> Generator[str, None, None]:
        """The tokens in a line; what stands for one is none."""
        tokens = super().analyze_string(string)
        yield from (token for token in tokens if not PLACEHOLDER.search(token.encode()))
