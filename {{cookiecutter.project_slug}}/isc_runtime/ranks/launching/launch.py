"""torchrun, within the limit that the training has for its start, and without tracebacks of its own."""

from __future__ import annotations

import os
import sys

from isc_runtime.config import seconds_in
from isc_runtime.errors import ExitCode, IscError
from isc_runtime.options import FIRST_TIMEOUT
from isc_runtime.ranks.launching.torchrun import torchrun
from isc_runtime.standard_streams import outlive_streams


def launch(arguments: list[str]) -> int:
    """Runs torchrun with its own `arguments`, as `torchrun.torchrun` does.

    Raises:
        IscError: the nodes did not find each other, or have lost each other before the ranks could say so.
    """
    outlive_streams()  # the exit code is that of the ranks, whatever becomes of the log
    limit = seconds_in(arguments, "--first-timeout", FIRST_TIMEOUT)
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


def _has_conf(arguments: list[str]) -> bool:
    return any(word.startswith(("--rdzv-conf", "--rdzv_conf")) for word in arguments)


def _is_contact(error: Exception) -> bool:
    import torch.distributed as dist

    return isinstance(error, dist.DistError)
