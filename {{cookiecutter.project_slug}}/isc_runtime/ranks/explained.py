"""What torch says in its own words, where it can be said what to do instead."""

from __future__ import annotations

import re

from isc_runtime.errors import ExitCode, IscError

WHERE = "above is where it is called"


def explained(error: BaseException) -> IscError | None:
    """What to do about an error of torch's; None of one that nothing is known of."""
    said = str(error) if isinstance(error, RuntimeError) else ""
    for pattern, explain in KNOWN.items():
        if found := re.search(pattern, said):
            result = explain(found[1])
            result.__cause__ = error
            return result
    return None


def _no_determinism(operation: str) -> IscError:
    return IscError(
        f"{operation} has no deterministic form on this device, so a resume would not be exact",
        WHERE,
        "Use another operation there; or train with --no-deterministic: a resume goes on all the same, but "
        "not bit for bit.",
        ExitCode.FAILED,
    )


def _mixed(operation: str) -> IscError:
    return IscError(
        f"A shard of a weight met a tensor that is whole, in {operation}",
        WHERE,
        "In shards a weight is whole within the call of the module that has it, of a model or of a block: "
        "call these, and not what is in them, and compute nothing from weights beside that, as a penalty is. "
        "An optimizer takes scalar weights beside shards without foreach=True and fused=True, and LBFGS "
        "takes no shards. Or train with --parallelism ddp.",
        ExitCode.FAILED,
    )


def _not_in_shards(operation: str) -> IscError:
    return IscError(
        f"Torch cannot compute {operation} with weights in shards",
        WHERE,
        "Use another operation there, another optimizer if it is in one (Rprop is such a one); or train with "
        "--parallelism ddp.",
        ExitCode.FAILED,
    )


def _gone(_: str) -> IscError:
    return IscError(
        "The backward pass needs a weight in shards that is not whole any more",
        WHERE,
        "In shards there is one backward pass through a model, at the end: no torch.autograd.grad before it, "
        "for forces or a penalty on gradients; and what a block returns is not changed in place (y = y + x, "
        "not y += x). Or train with --parallelism ddp.",
        ExitCode.FAILED,
    )


KNOWN = {
    r"^(.+?) does not have a deterministic implementation": _no_determinism,
    r"(aten\.\w+)\S* got mixed torch\.Tensor and DTensor": _mixed,
    r"(aten\.\w+)\S*:? (?:in-place operations that require placement changes"
    r"|does not have a sharding strategy)": _not_in_shards,
    r"^(setStorage): .* out of bounds for storage of size 0": _gone,
}
