"""What a collective says when it fails, and what to do about it if no rank is gone."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch.distributed as dist

from isc_runtime.errors import ExitCode, IscError

# Gloo's errors name the line of its source that raised them. A path of the user's may have "gloo" in it, too.
COMMUNICATION = re.compile(
    r"third_party/gloo/|\bgloo/[\w/]+\.(?:cc|h):\d|\bGloo \w+ failed|\bNCCL\b|\bnccl[A-Z]"
)
SOURCE_LINE = re.compile(r"\[(?:enforce fail at )?\S+\.(?:cc|h|cpp|hpp):\d+\] ?")
CONSOLATION = re.compile(r"This is typically caused by .*", re.DOTALL)  # gloo's; we know who is gone
MOST_CHARACTERS = 400


@dataclass(frozen=True)
class Known:
    """A reason for which collectives fail though all ranks are there.

    Attributes:
        pattern: found in what is said.
        what: is wrong.
        hint: what to do.
        exit_code: of the ranks.
    """

    pattern: str
    what: str
    hint: str
    exit_code: ExitCode = ExitCode.UNFIT


# The first that matches counts. Those of NCCL were read in its source and manual, and not seen.
KNOWN = (
    Known(
        "Duplicate GPU detected",
        "Two ranks use the same GPU",
        "Start as many processes per node as it has GPUs (N_PROC, --nproc-per-node), and let "
        "CUDA_VISIBLE_DEVICES name each of them once.",
    ),
    Known(
        r"/dev/shm|No space left on device|shared memory",
        "There is no room for the ranks' shared memory (/dev/shm)",
        "Give the container more (docker run --shm-size=1g, or --ipc=host), or set NCCL_SHM_DISABLE=1.",
    ),
    Known(
        r"Unable to find address for: \S+",
        "There is no network interface of this name with an address",
        "Correct GLOO_SOCKET_IFNAME on this node, or unset it: then the way to MASTER_ADDR decides.",
    ),
    Known(
        r"out of memory|cudaErrorMemoryAllocation",
        "The ranks' exchange had no memory left on the GPU",
        "Lower --batch-size, or raise --accumulate.",
    ),
    Known(
        r"unhandled cuda error|ncclUnhandledCudaError",
        "NCCL failed in CUDA",
        "Set NCCL_DEBUG=WARN: then it says in which call. Compare the driver that nvidia-smi shows with the "
        "CUDA that torch was built for.",
    ),
    Known(
        r"ncclSystemError|unhandled system error",
        "NCCL failed in the system below it",
        "Set NCCL_DEBUG=WARN: then it says in which call. With several networks NCCL_SOCKET_IFNAME names "
        "the right one.",
    ),
    Known(
        r"Timed out waiting|collective mismatch",
        "The ranks are all there, and not in the same collective",
        "A collective that only some ranks call looks like this, or one with tensors of unequal size.",
        ExitCode.FAILED,
    ),
    Known(
        r"[Cc]onnect|reset by peer|Broken pipe|No route to host|unreachable|ncclRemoteError",
        "The ranks are all there, and lost the connection between them",
        "Look at the network between the nodes. With several networks GLOO_SOCKET_IFNAME and "
        "NCCL_SOCKET_IFNAME name the right one.",
        ExitCode.PEER,
    ),
)
UNKNOWN = Known("", "A collective failed, and all ranks are there", "", ExitCode.FAILED)


def is_of_collective(error: BaseException) -> bool:
    """Whether a collective failed, which is also how another rank's end is felt."""
    is_said = isinstance(error, RuntimeError) and COMMUNICATION.search(str(error)) is not None
    return isinstance(error, dist.DistError) or is_said


def words_of(error: BaseException) -> str:
    """What an error and its causes say, in one line."""
    said: list[str] = []
    while error is not None and len(said) < 3:
        text = " ".join(CONSOLATION.sub("", SOURCE_LINE.sub("", str(error))).split()) or type(error).__name__
        said += [text.rstrip(".")[:MOST_CHARACTERS]] if text not in said else []
        error = error.__cause__ or error.__context__  # type: ignore[assignment]  # None ends it
    return " <- ".join(said)


def true_reason(error: BaseException) -> IscError:
    """The error of a collective that failed though no rank is gone."""
    words = words_of(error)
    known = next((known for known in KNOWN if re.search(known.pattern, words)), UNKNOWN)
    return IscError(f"{known.what} ({words})", "", known.hint, known.exit_code)
