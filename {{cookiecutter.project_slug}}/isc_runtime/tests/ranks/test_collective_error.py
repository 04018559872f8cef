"""What a collective says is neither thrown away nor found where none has spoken."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from isc_runtime.errors import ExitCode
from isc_runtime.ranks.collective_error import is_of_collective, true_reason, words_of

GLOO = "/__w/pytorch/pytorch/third_party/gloo/gloo/transport/tcp"  # as torch 2.13 says it
CLOSED = (
    f"[{GLOO}/pair.cc:553] Connection closed by peer [127.0.0.1]:8591. This is typically caused by a remote "
    "worker crashing. Check the logs of the remote worker before reporting an error. GLHF!"
)
NO_INTERFACE = f"[enforce fail at {GLOO}/device.cc:84] ifa != nullptr. Unable to find address for: nope0"
TIMED_OUT = f"[{GLOO}/unbound_buffer.cc:78] Timed out waiting 2000ms for recv operation to complete"
SHARED_MEMORY = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, unhandled system error (run with "
    "NCCL_DEBUG=INFO for details), NCCL version 2.27\nncclSystemError: System call failed\nLast error:\n"
    "Error while creating shared memory segment /dev/shm/nccl-KaPQ (size 33030532), error: No space left"
)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(CLOSED),
        RuntimeError("Gloo connectFullMesh failed with x"),
        RuntimeError(SHARED_MEMORY),
        dist.DistBackendError("anything"),
    ],
)
def test_what_collectives_say(error: Exception) -> None:
    assert is_of_collective(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("cannot read /data/igloo"),
        RuntimeError("cannot read /data/gloo/part 1"),
        RuntimeError("the shapes of Gloo are wrong"),
        ValueError(CLOSED),
    ],
)
def test_what_others_say(error: Exception) -> None:
    assert not is_of_collective(error)


@pytest.mark.parametrize(
    ("said", "what", "cure", "code"),
    [
        (CLOSED, "lost the connection between them (Connection closed", "network", ExitCode.PEER),
        (NO_INTERFACE, "no network interface", "unset it", ExitCode.UNFIT),
        (TIMED_OUT, "not in the same collective (Timed out", "only some ranks", ExitCode.FAILED),
        (SHARED_MEMORY, "(/dev/shm)", "--shm-size", ExitCode.UNFIT),
        ("NCCL error: something new", "(NCCL error: something new)", "", ExitCode.FAILED),
    ],
)
def test_the_reason_is_named_with_what_was_said_and_what_to_do(
    said: str, what: str, cure: str, code: ExitCode
) -> None:
    reason = true_reason(RuntimeError(said))
    assert what in reason.what
    assert cure in reason.hint
    assert reason.exit_code is code


def test_causes_are_said_and_where_gloo_was_built_is_not() -> None:
    error = RuntimeError("NCCL error in: x")
    error.__cause__ = RuntimeError(CLOSED)
    assert words_of(error) == "NCCL error in: x <- Connection closed by peer [127.0.0.1]:8591"
    assert words_of(RuntimeError()) == "RuntimeError"
