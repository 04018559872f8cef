"""The causes that this project's own messages, its exit codes and torchrun's words for them show."""

from __future__ import annotations

from isc_runtime.explanation.cause import Cause, Kind

ERROR = r"^ERROR: (?:rank (?P<rank>\d+) on (?P<host>\S+): )?(?P<message>.+)"
READ_IT = "The message says where and what to do."

# What a message starts with "ERROR:" is about; the first that matches counts.
MESSAGES = (
    Cause(
        "hang",
        r"No batch was finished within (?P<seconds>[\d.]+) s"
        r"(?:; (?:(?P<master>node 0) does not answer|no answer from rank (?P<absent>\d+)))?",
        "No batch was finished within {seconds} s: the ranks waited for one that did not come.",
        "Look at the stacks beside that line in the log of each node: the rank that stands elsewhere than in "
        "a collective is the one. A collective that only some ranks call looks like this; if a batch really "
        "takes that long, raise --timeout.",
    ),
    Cause(
        "launcher-gone",
        r"torchrun is gone",
        "torchrun was killed on that node, and its ranks ended themselves.",
        "If nobody killed it, look for the node's memory: the OOM killer may have taken it.",
    ),
    Cause(
        "lost-contact",
        r"Lost contact with(?: another rank;)? (?P<master>node 0)|Lost contact with another rank"
        r"(?:; no answer from rank (?P<absent>\d+) on (?P<absent_host>[^\s,.]+))?",
        "The ranks lost contact with one that is gone.",
        "Look at the log of its node: it was killed, or its machine is gone.",
        Kind.CONSEQUENCE,
    ),
    Cause(
        "rendezvous",
        r"The ranks did not find each other|The nodes' torchruns have lost each other"
        r"|Node 0 does not answer|Nodes? \d[\d, ]* of \d+ did not come",
        "The ranks did not find each other.",
        "Look at node 0's log first: it must be running, and every node must reach MASTER_ADDR. A node that "
        "ended in its checks never comes.",
        Kind.CONSEQUENCE,
    ),
    Cause(
        "fruitless",
        r"(?P<number>\d+) starts? in a row from (?P<place>.+?) saved nothing",
        "{number} starts in a row from {place} have saved nothing, so this one ended by itself.",
        "The message says what the last one was at, and what helps. The next start counts anew.",
    ),
    Cause("own-error", r"^(?P<message>.+)", "{message}", READ_IT),
)

# The start before this one was interrupted before its first save. Where that goes on, nothing is gained.
FRUITLESS_START = Cause(
    "fruitless-start",
    r"\[START\] This is start (?P<number>\d+) from (?P<place>.+?): the one before has saved nothing"
    r"(?:\. (?P<reasons>.+))?",
    "This is start {number} from {place}: those before it were interrupted before they had saved anything.",
    "{reasons} Until a start saves, each one costs money and begins at the same place.",
    Kind.NOTICE,
)

# Lines of the training's loggers.
LOGGED = (
    FRUITLESS_START,
    Cause("save-failed", r"\[FAILED\]", "A save failed.", "Look at the storage.", Kind.NOTICE),
    Cause(
        "damaged-checkpoint",
        r"\[DAMAGED\]",
        "A checkpoint is damaged.",
        "python -m isc_runtime checkpoints --verify DIRECTORY shows which ones are good.",
        Kind.NOTICE,
    ),
    Cause("repaired", r"\[REPAIR\]", "What an interruption left was cleared away.", "Nothing.", Kind.NOTICE),
    Cause(
        "not-finite",
        r"step \d+ is skipped",
        "A step was skipped: loss or gradient were not finite, or nothing in its batch counted.",
        "Look at the data and the learning rate if there are many.",
        Kind.NOTICE,
    ),
    Cause(
        "stopped",
        r"Stopped by signal (?P<signal>\d+)",
        "The training was asked to stop with signal {signal}, saved, and ended.",
        "Nothing: the next start goes on from there.",
        Kind.END,
    ),
    Cause(
        "completed",
        r"Training is complete",
        "The training is complete.",
        "Nothing.",
        Kind.END,
    ),
)

# What launch.sh says when all has ended, on the ISC.
LAUNCHER = "isc_runtime: "
LAUNCHED = (
    Cause(
        "ended-with-0",
        r"^isc_runtime: this experiment is complete",
        "The training is complete.",
        "Nothing.",
        Kind.END,
    ),
)

# Exit codes of isc_runtime.errors.ExitCode, and 128 + n after signal n.
EXITS = (
    Cause(
        "exit-unforeseen",
        r"^exit code 1$",
        "A rank ended with an error nobody foresaw.",
        "Its traceback, in the log of its node, shows where.",
    ),
    Cause(
        "exit-usage",
        r"^exit code 2$",
        "The arguments are wrong.",
        "Correct them in the command of experiment.isc; python train.py --help lists them.",
    ),
    Cause(
        "exit-unfit",
        r"^exit code 3$",
        "This place is not ready to train in: a variable, a directory or a package.",
        "Do what the message says, then run python -m isc_runtime preflight there.",
    ),
    Cause(
        "exit-data",
        r"^exit code 4$",
        "The data are missing or malformed.",
        "Look at dataset_id_list in experiment.isc and --dataset-id in its command, and at the named file.",
    ),
    Cause(
        "exit-checkpoint",
        r"^exit code 5$",
        "There are checkpoints, and none can be used.",
        "python -m isc_runtime checkpoints --verify DIRECTORY says what is wrong with each. Bring a good one "
        "back, or the code that wrote them.",
    ),
    Cause(
        "exit-save",
        r"^exit code 6$",
        "Checkpoints could not be saved.",
        "Correct what the message names (space, quota, rights), then start again.",
    ),
    Cause(
        "exit-diverged",
        r"^exit code 7$",
        "The loss was not finite, several times in a row.",
        "Lower --learning-rate or look at the data; the last checkpoint is from before it.",
    ),
    Cause(
        "exit-peer",
        r"^exit code 8$",
        "A rank ended because another one was gone or made no progress.",
        "Look for that one in the logs of the other nodes.",
        Kind.CONSEQUENCE,
    ),
    Cause(
        "exit-taken",
        r"^exit code 9$",
        "Two runs used one checkpoint directory: the later one goes on, this one ended.",
        "Nothing, if it was an old one that woke up. Otherwise look for the second process or experiment.",
    ),
    Cause(
        "exit-fruitless",
        r"^exit code 10$",
        "Several starts in a row have saved nothing, so that each began where the one before had begun.",
        "The message says what the last one was at. docs: What the ISC does to your run, and what you see.",
    ),
    Cause(
        "killed",
        r"^exit code 137$",
        "The rank was killed with SIGKILL, from outside, while its torchrun lived on.",
        "Most often this is the OOM killer: the node's memory was full. Use less of it (fewer --workers, a "
        "smaller --batch-size, data that are not loaded whole). The log cannot tell it from a person's or "
        "the platform's SIGKILL.",
    ),
    Cause(
        "crashed",
        r"^exit code (?P<code>13[2456]|139)$",
        "The rank crashed in native code (exit code {code} = 128 + the signal's number).",
        "Look for a message of the library above it; PYTHONFAULTHANDLER=1 in the environment prints where "
        "it happened.",
    ),
    Cause(
        "exit-stopped",
        r"^exit code (?P<code>129|130|131|138|143)$",
        "The training was stopped by a signal (exit code {code} = 128 + the signal's number).",
        "Nothing: the next start goes on from the last checkpoint.",
        Kind.END,
    ),
    Cause(
        "exit-other", r"^exit code (?P<code>\d+)$", "A rank ended with exit code {code}.", "Look above it."
    ),
)
