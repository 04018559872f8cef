"""torchrun, within the limit that the training has for its start, and without tracebacks of its own."""

from __future__ import annotations

import argparse
import os
import sys

from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import positive_float
from isc_runtime.ranks.torchrun import torchrun

FIRST_TIMEOUT = 600.0  # that of train.py


def launch(arguments: list[str]) -> int:
    """Runs torchrun with its own `arguments`, as `torchrun.torchrun` does.

    Raises:
        IscError: the nodes did not find each other, or have lost each other before the ranks could say so.
    """
    limit = first_timeout(arguments)
    conf = [] if _has_conf(arguments) else [f"--rdzv-conf=timeout={int(limit + 1)}"]
    try:
        return torchrun([*conf, *arguments])
    except Exception as error:
        if "torch" not in sys.modules or not _is_contact(error):
            raise
        place = f"node {os.environ.get('NODE_RANK', '?')}"
        raise IscError(
            f"The nodes' torchruns have lost each other, or did not come within {limit:g} s ({place})",
            f"MASTER_ADDR={os.environ.get('MASTER_ADDR')}, MASTER_PORT={os.environ.get('MASTER_PORT')}: "
            f"{' '.join(str(error).split())[:200]}",
            "The log of the other nodes, of node 0 first, tells why they ended or did not come.",
            ExitCode.PEER,
        ) from None


def first_timeout(words: list[str]) -> float:
    """Seconds that a start may take, as the arguments of the training say, or by default."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--first-timeout", type=positive_float, default=FIRST_TIMEOUT)
    try:
        return float(parser.parse_known_args(words)[0].first_timeout)
    except (argparse.ArgumentError, SystemExit):  # the training itself says what is wrong
        return FIRST_TIMEOUT


def _has_conf(arguments: list[str]) -> bool:
    return any(word.startswith(("--rdzv-conf", "--rdzv_conf")) for word in arguments)


def _is_contact(error: Exception) -> bool:
    import torch.distributed as dist

    return isinstance(error, dist.DistError)
