"""What a launch file of the ISC can say, and where we know it from: one table for the check and for editors.

Sources: the documentation (`DOCUMENTATION`, `ARTIFACTS`), the official examples (`DEMOS`), and what users of
the ISC report, with the month of the report. What has no source here, the check does not know. The template
reads this file as well, for its questions.
"""

from __future__ import annotations

from dataclasses import dataclass

DOCUMENTATION = "https://docs.strongcompute.com/basic-concepts/launching-experiments"
ARTIFACTS = "https://docs.strongcompute.com/basic-concepts/artifacts"
DEMOS = "https://github.com/StrongResearch/isc-demos"

COMPUTE_MODES = ("cycle", "interruptible", "burst")  # the first is the default: DOCUMENTATION
MOST_GPUS = 72  # in every mode: DOCUMENTATION
SEEN_GPUS_UNLESS_BURST = 16  # more were refused in cycle and interruptible mode: a report of users, 2025-07
# Identifiers as Control Plane gives them: words and a day, or a UUID as of old.
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
PROJECT_ID = rf"prj(-[a-z0-9]+)+-[0-9]{{6}}|{_UUID}"
DATASET_ID = rf"uds(-[a-z0-9]+)+-[0-9]{{6}}|{_UUID}"
# Mounted by the launch files in DEMOS: Fashion-MNIST, texts, weights of a language model.
PUBLIC_DATASETS = (
    "uds-decorous-field-baritone-250513",
    "uds-visual-water-soup-250513",
    "uds-standing-denim-promise-250527",
)
# Of ids that become the name of a folder, /data/<id>: no blank, comma, slash or quote. DOCUMENTATION
ID_LISTS = ("dataset_id_list", "input_artifact_id_list")
ID_CHARACTERS = r"!#-&(-+\-.0-~"


@dataclass(frozen=True)
class Key:
    """A key of a launch file.

    Attributes:
        name: the key.
        type: of its value; a list holds strings.
        required: whether a launch file must have it.
        doc: what its value is.
        source: where that is written or was seen.
    """

    name: str
    type: type[str] | type[int] | type[list[str]]
    required: bool
    doc: str
    source: str


@dataclass(frozen=True)
class Variable:
    """An environment variable that the ISC sets for the command, on every node.

    Attributes:
        doc: what it holds.
        example: a value as it has been seen, or one that is possible.
        source: where that is written or was seen.
    """

    doc: str
    example: str
    source: str


KEYS = (
    Key(
        "isc_project_id",
        str,
        True,
        "the project that pays, prj-<words>-YYMMDD in Control Plane, or a UUID of old",
        DOCUMENTATION,
    ),
    Key("experiment_name", str, True, "any name", DOCUMENTATION),
    Key("gpus", int, True, f"GPUs over all nodes, 1 to {MOST_GPUS}", DOCUMENTATION),
    Key(
        "command",
        str,
        True,
        "what every node runs, with absolute paths; lines are joined by a blank, && chains commands",
        f"{DOCUMENTATION}, {DEMOS}",
    ),
    Key("compute_mode", str, False, f"one of {', '.join(COMPUTE_MODES)}", DOCUMENTATION),
    Key(
        "max_rapid_cycles", int, False, "in cycle mode, after how many cycles it is completed", DOCUMENTATION
    ),
    Key(
        "dataset_id_list",
        list,
        False,
        f"datasets, each mounted at /data/<id>; public ones are {', '.join(PUBLIC_DATASETS)}",
        f"{DOCUMENTATION}, {DEMOS}",
    ),
    Key(
        "burst_shape_priority_list",
        list,
        False,
        "shapes for burst mode, as Control Plane names them",
        DOCUMENTATION,
    ),
    Key(
        "input_artifact_id_list",
        list,
        False,
        "checkpoint artifacts of earlier experiments to start from",
        f"{DEMOS}/blob/main/deepseek/deepseek-r1-generic.isc",
    ),
)
# In published launch files of 2023 to 2025, which have run with them; no key of DOCUMENTATION any more.
DEAD_KEYS = {
    "gpu_type": "Delete it: the ISC chooses the nodes",
    "output_path": "Delete it: outputs go where CHECKPOINT_ARTIFACT_PATH and LOSSY_ARTIFACT_PATH say",
    "dataset_id": 'Write dataset_id_list = ["<id>"] instead',
    "nnodes": "Write gpus instead, the number over all nodes",
    "venv_path": "Delete it: launch.sh activates the virtual environment",
}
VARIABLES = {
    "NNODES": Variable("nodes", "2", DOCUMENTATION),
    "N_PROC": Variable("GPUs of this node", "8", DOCUMENTATION),
    "MASTER_ADDR": Variable("node 0", "10.0.0.1", DOCUMENTATION),
    "MASTER_PORT": Variable("a port on node 0", "29500", DOCUMENTATION),
    "NODE_RANK": Variable("the number of this node, from 0", "0", DOCUMENTATION),
    "CHECKPOINT_ARTIFACT_PATH": Variable("where checkpoints are saved", "/mnt/checkpoints", ARTIFACTS),
    "OUTPUT_PATH": Variable("the same directory as CHECKPOINT_ARTIFACT_PATH", "/mnt/checkpoints", ARTIFACTS),
    "LOSSY_ARTIFACT_PATH": Variable(
        "small files that are synced often, TensorBoard's", "/mnt/lossy", ARTIFACTS
    ),
    "CRUD_ARTIFACT_PATH": Variable("files that the user reads and writes, too", "/mnt/crud", ARTIFACTS),
}
# What torchrun sets for its workers, and not the ISC for the command.
TORCHRUN_VARIABLES = {
    "RANK": "Write $NODE_RANK: the number of the node is there since 2025-11 (launch files in isc-demos).",
    "LOCAL_RANK": "Leave it to train.py: torchrun sets it for every process.",
    "WORLD_SIZE": "Leave it to train.py, or write $NNODES for the number of nodes.",
}
