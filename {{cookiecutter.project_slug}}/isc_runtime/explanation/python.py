"""The causes that Python, torch on the CPU, shells and Linux show in their own words."""

from __future__ import annotations

from isc_runtime.explanation.cause import Cause, Kind

ERRNO = "https://man7.org/linux/man-pages/man3/errno.3.html"
OOM = "https://github.com/reportportal/kubernetes/issues/203"
SHARED_MEMORY = "https://github.com/pytorch/pytorch/issues/5040"

PYTHON_CAUSES = (
    Cause(
        "oom-killer",
        r"[Oo]ut of memory: Kill(?:ed)? process|invoked oom-killer|oom-kill:|oom_reaper: reaped process"
        r"|Detected \d+ oom[_-]kill event",
        "The kernel's OOM killer ended a process: the memory of the node, or of the container, was full.",
        "Use less memory: fewer --workers, a smaller --batch-size, data that are read piece by piece.",
        seen=False,
        source=OOM,
    ),
    Cause(
        "shared-memory",
        r"DataLoader worker.*Bus error|[Uu]nexpected bus error encountered in worker"
        r"|No space left on device.*/dev/shm|/dev/shm.*No space left on device",
        "Shared memory (/dev/shm) is full: data-loading workers, or NCCL, pass tensors through it.",
        "Use fewer --workers or smaller batches; where you start the container, give it more shared memory.",
        seen=False,
        source=SHARED_MEMORY,
    ),
    Cause(
        "worker-killed",
        r"DataLoader worker \(pid (?P<pid>\d+)\) is killed by signal: (?P<signal>[\w ]+)",
        "A data-loading worker was killed by a signal ({signal}).",
        "Killed means SIGKILL, most often the OOM killer: use fewer --workers, or hold less data in each. "
        "After a segmentation fault look at the library that reads the data.",
    ),
    Cause(
        "disk-full",
        r"No space left on device|ENOSPC",
        "A disk is full.",
        "Delete what is no longer needed, or write less: larger --save-steps, caches elsewhere.",
    ),
    Cause(
        "quota",
        r"Disk quota exceeded|EDQUOT",
        "The quota of a disk is used up.",
        "Delete what is no longer needed, or ask for more.",
        seen=False,
        source=ERRNO,
    ),
    Cause(
        "read-only",
        r"Read-only file system",
        "A file system is mounted read-only, and something was to be written there.",
        "Write to the artifacts only; /data is read-only on the ISC.",
        seen=False,
        source=ERRNO,
    ),
    Cause(
        "storage",
        r"Stale file handle|Transport endpoint is not connected|Input/output error|Remote I/O error",
        "The storage, or the network behind it, failed.",
        "Start again: the training goes on from its last checkpoint. If it happens again, tell who runs it.",
        seen=False,
        source=ERRNO,
    ),
    Cause(
        "open-files",
        r"Too many open files",
        "The process has too many files open.",
        "Close files that are no longer read, use fewer --workers, or raise the limit (ulimit -n).",
        seen=False,
        source=ERRNO,
    ),
    Cause(
        "missing-module",
        r"No module named '?(?P<module>[\w.]+)|The package (?P<package>\S+) is not installed",
        "A Python module is missing: {module}{package}.",
        "Add its package to pyproject.toml, run make lock, and build the image anew; or install it in the "
        "container's environment.",
    ),
    Cause(
        "missing-library",
        r"(?P<library>lib[\w.+-]+\.so[\w.]*): cannot open shared object file",
        "A library is missing: {library}.",
        "Install the Debian package that has it, in the Dockerfile.",
        seen=False,
        source="https://man7.org/linux/man-pages/man8/ld.so.8.html",
    ),
    Cause(
        "memory",
        r"^(?:\w+\.)*MemoryError|DefaultCPUAllocator: .*memory|Cannot allocate memory",
        "The memory of the node was not enough.",
        "Use a smaller --batch-size, fewer --workers, or data that are read piece by piece.",
    ),
    Cause(
        "port-in-use",
        r"EADDRINUSE|[Aa]ddress already in use",
        "The port for the rendezvous is taken: another training runs on this node, or one was left behind.",
        "End it, or take another port where you choose it (MASTER_PORT; the ISC sets its own).",
        seen=False,
        source=ERRNO,
    ),
    Cause(
        "no-network",
        r"Temporary failure in name resolution|Name or service not known|Could not resolve host"
        r"|Max retries exceeded with url|urlopen error",
        "Something was to be fetched from the network, and the network was not there.",
        "Nothing promises internet on training nodes: bring data and weights as a dataset (dataset_id_list) "
        "or in the image.",
        seen=False,
        source="https://docs.python.org/3/library/urllib.error.html",
    ),
    Cause(
        "permission",
        r"Permission denied",
        "A file or directory may not be used by this user.",
        "Give it the right, or use another place.",
    ),
    Cause(
        "usage",
        r"^(?P<program>(?!slurm|srun)[\w./-]+): error: (?P<message>.+)",
        "The arguments of {program} are wrong: {message}.",
        "Correct them in the command of experiment.isc; python train.py --help lists them.",
    ),
    Cause(
        "no-such-command",
        r"(?<!\S)(?P<command>\S+): command not found",
        "The shell does not find the command {command}.",
        "Name it with its whole path, or install it in the image.",
    ),
    Cause(
        "no-such-script",
        r"^(?:/bin/)?(?:ba)?sh: (?:line \d+: )?(?P<path>\S+): No such file or directory"
        r"|^\S*python[\d.]*: can't open file '?(?P<file>[^']+?)'?: ",
        "The command names a file that is not there: {path}{file}.",
        "The container that was submitted must have it: the project belongs in /root, and the command has "
        "absolute paths.",
    ),
    Cause(
        "syntax",
        r"^(?:Syntax|Indentation|Tab)Error: (?P<message>.+)",
        "Python cannot read the code: {message}.",
        "Correct the line that is shown above it.",
    ),
    Cause(
        "native-crash",
        r"^Fatal Python error: (?P<what>.+)"
        r"|^(?P<fault>Segmentation fault|Bus error|Illegal instruction|Aborted)(?: \(core dumped\))?$"
        r"|: +\d+ (?P<told>Segmentation fault|Bus error|Illegal instruction|Aborted)(?:$| )"
        r"|^(?P<heap>(?:free|malloc|munmap_chunk|realloc)\(\): .+|terminate called (?:after|without) .+"
        r"|corrupted (?:size vs|double-linked) .+|double free or corruption.*)",
        "Python crashed in native code: {what}{fault}{told}{heap}.",
        "The lines below it show where; update or change the library that is named there.",
    ),
    Cause(
        "process-killed",
        r"^Killed$|: +\d+ Killed(?:$| )",
        "A process was ended with SIGKILL from outside, while the shell that had started it lived on.",
        "Most often this is the OOM killer: the node's memory was full. Use less of it: fewer --workers, a "
        "smaller --batch-size, data that are read piece by piece.",
    ),
    Cause(
        "torchrun-stopped",
        r"SignalException: Process \d+ got signal: (?P<signal>\d+)",
        "torchrun was asked to stop with signal {signal}.",
        "Nothing: the next start goes on from the last checkpoint.",
        Kind.END,
    ),
    Cause("ctrl-c", r"^KeyboardInterrupt", "A person stopped it (Ctrl-C).", "Nothing.", Kind.END),
    Cause(
        "torchrun-summary",
        r"ChildFailedError|ProcessRaisedException",
        "The launcher reports that a rank failed.",
        "Look for what that rank said before.",
        Kind.CONSEQUENCE,
    ),
    Cause(
        "torchrun-waited",
        r"DistStoreError|DistNetworkError|RendezvousTimeoutError|RendezvousConnectionError"
        r"|[Cc]lient socket has timed out|Timed out after \d+ seconds waiting for clients",
        "A node waited for the others at the rendezvous, and they did not come.",
        "Look at the logs of the other nodes: one that ended in its checks, or was not started, never comes.",
        Kind.CONSEQUENCE,
    ),
    Cause(
        "gloo",
        r"gloo/transport|[Gg]loo .*(?:fail|[Tt]imed out)",
        "A rank's connection to another one broke.",
        "Look for the one that ended first.",
        Kind.CONSEQUENCE,
    ),
    Cause(
        "connection",
        r"^ConnectionResetError|^BrokenPipeError|^Connection reset by peer|^Broken pipe",
        "A connection to another process broke; with --workers most often that to a data-loading worker.",
        "Look for a process that was killed: a worker of the same rank may have been, by the OOM killer.",
        seen=False,
        source="https://docs.python.org/3/library/exceptions.html#ConnectionResetError",
    ),
    Cause(
        "worker-gone",
        r"DataLoader worker \(pid\(s\) (?P<pid>[\d, ]+)\) exited unexpectedly",
        "A data-loading worker ended without a word.",
        "Look for what it said above; with --workers 0 the error shows in the training itself.",
        seen=False,
        source=SHARED_MEMORY,
    ),
)

# Any other exception, in a traceback or in what all ranks agreed on.
EXCEPTION = Cause(
    "exception",
    r"^(?P<exception>(?:\w+\.)*\w+)(?::(?: (?P<message>.*))?)?$",
    "The code raised {exception}: {message}",
    "Correct the code at the place that the traceback shows.",
)
