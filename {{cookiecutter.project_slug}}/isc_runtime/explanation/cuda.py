"""The causes that CUDA and NCCL show. None of them was seen by this project's tests: they have no GPU.

What is known comes from the public documentation and from the public threads that are named as sources.
"""

from __future__ import annotations

from isc_runtime.explanation.cause import Cause, Kind

MEMORY = "https://docs.pytorch.org/docs/stable/notes/cuda.html#environment-variables"
ERRORS = "https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html"
NCCL_ERRORS = "https://docs.nvidia.com/deeplearning/nccl/user-guide/docs/troubleshooting.html"
XID = "https://docs.nvidia.com/deploy/xid-errors/index.html"
ANOTHER_NODE = "Start again, if it can be on another node, and tell who runs the machine."

CUDA_CAUSES = (
    Cause(
        "cuda-memory",
        r"CUDA out of memory|torch(?:\.cuda)?\.OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED"
        r"|CUDA error: out of memory",
        "The memory of a GPU was not enough.",
        "Lower --batch-size or raise --accumulate; --checkpoint-activations and --parallelism fsdp help. "
        "If much is reserved but unallocated, PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True helps.",
        seen=False,
        source=MEMORY,
    ),
    Cause(
        "cuda-assert",
        r"device-side assert triggered|Assertion `.*` failed",
        "A kernel on the GPU found a value it cannot use, most often an index out of range: a label or token "
        "that is not less than the number of classes.",
        "Look at the data. On the CPU, or with CUDA_LAUNCH_BLOCKING=1, the traceback shows the right line.",
        seen=False,
        source="https://github.com/pytorch/pytorch/issues/74079",
    ),
    Cause(
        "cuda-hardware",
        r"uncorrectable ECC error|fallen off the bus|NVRM: Xid|CUDA error: unspecified launch failure",
        "A GPU reports that it, or the connection to it, is broken.",
        ANOTHER_NODE,
        seen=False,
        source=XID,
    ),
    Cause(
        "cuda-illegal-access",
        r"an illegal memory access was encountered|CUDA error: misaligned address",
        "A kernel on the GPU used memory that is not its own.",
        "Run with CUDA_LAUNCH_BLOCKING=1 to see which one; look first at kernels of your own and at indices.",
        seen=False,
        source=ERRORS,
    ),
    Cause(
        "cuda-architecture",
        r"no kernel image is available for execution",
        "torch, or another package, was not built for this kind of GPU.",
        "Install one that was, in pyproject.toml; make lock; build the image anew.",
        seen=False,
        source="https://github.com/pytorch/pytorch/issues/6515",
    ),
    Cause(
        "cuda-driver",
        r"Found no NVIDIA driver|NVIDIA driver on your system is too old|driver version is insufficient"
        r"|No CUDA GPUs are available|no CUDA-capable device is detected",
        "No GPU can be used on that node: there is none, or its driver is too old for this CUDA.",
        "Look at nvidia-smi there; a driver that is too old needs an older torch in pyproject.toml.",
        seen=False,
        source=ERRORS,
    ),
    Cause(
        "nccl-duplicate",
        r"Duplicate GPU detected|ncclInvalidUsage|ncclInvalidArgument",
        "NCCL was used in a way that it refuses; two ranks on one GPU are the usual one.",
        "Start as many processes per node as it has GPUs (N_PROC, --nproc-per-node).",
        seen=False,
        source=NCCL_ERRORS,
    ),
    Cause(
        "nccl-timeout",
        r"(?:\[(?:PG [^\]]*)?Rank (?P<rank>\d+)\].*)?Watchdog caught collective operation timeout"
        r"(?:.*OpType=(?P<operation>\w+))?",
        "A rank waited in a collective for others that did not come.",
        "Find the rank that does not report the same timeout: it failed, hangs or was slow (data, a save on "
        "one rank alone). A collective that only some ranks call looks like this, too.",
        Kind.CONSEQUENCE,
        seen=False,
        source="https://github.com/pytorch/pytorch/issues/118369",
    ),
    Cause(
        "nccl-remote",
        r"ncclRemoteError|NCCL WARN .*(?:Connection closed by remote peer|Broken pipe|Connection reset)"
        r"|NCCL communicator was aborted",
        "NCCL lost the connection to a rank that ended, or the network broke.",
        "Look for the rank that ended first. If none did, it is the network between the nodes.",
        Kind.CONSEQUENCE,
        seen=False,
        source="https://github.com/pytorch/pytorch/pull/85887",
    ),
    Cause(
        "nccl-system",
        r"ncclSystemError|ncclUnhandledCudaError|ncclInternalError|NCCL WARN .*[Cc]all to \w+ .*failed",
        "NCCL failed in the system below it: a socket, shared memory, or CUDA.",
        "NCCL_DEBUG=WARN in the environment makes it say what. With several networks NCCL_SOCKET_IFNAME says "
        "which.",
        seen=False,
        source=NCCL_ERRORS,
    ),
    Cause(
        "cuda-other",
        r"CUDA error: (?P<what>.+)|(?P<library>cuDNN|CUBLAS)[ _](?:error|STATUS)",
        "CUDA reports an error: {what}{library}.",
        "Run with CUDA_LAUNCH_BLOCKING=1: then the traceback shows the call that failed.",
        seen=False,
        source=ERRORS,
    ),
)
