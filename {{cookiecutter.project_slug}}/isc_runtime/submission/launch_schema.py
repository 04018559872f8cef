"""The JSON schema of launch files, for editors: made from the same table that the check goes by.

    python -m isc_runtime.submission.launch_schema > isc_runtime/submission/launch_file.schema.json

`#:schema` in the first line of a launch file names it: there taplo, and editors with taplo in them, look.
The file is committed, and a test compares it with what this makes. A schema tells keys, types and limits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from isc_runtime.submission.launch_keys import (
    COMPUTE_MODES,
    DEAD_KEYS,
    ID_CHARACTERS,
    ID_LISTS,
    KEYS,
    MOST_GPUS,
    PUBLIC_DATASETS,
    Key,
)

FILE = Path(__file__).with_name("launch_file.schema.json")
TYPES = {str: "string", int: "integer", list: "array"}
ID = r"^\S(.*\S)?$"
MORE: dict[str, dict[str, Any]] = {
    "isc_project_id": {"pattern": r"^$|" + ID},  # empty: open, which is a warning
    "experiment_name": {"pattern": r"\S"},
    "command": {"pattern": r"^[^\\]*[^\s\\][^\\]*$"},
    "compute_mode": {"enum": list(COMPUTE_MODES), "default": COMPUTE_MODES[0]},
    "gpus": {"minimum": 1, "maximum": MOST_GPUS},
    "max_rapid_cycles": {"minimum": 1},
    "dataset_id_list": {"examples": [[dataset] for dataset in PUBLIC_DATASETS]},
}


def schema() -> dict[str, Any]:
    """The schema, of JSON Schema's draft 7: what taplo understands."""
    dead = {
        name: {"deprecated": True, "description": f"No key any more. {hint}."}
        for name, hint in DEAD_KEYS.items()
    }
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Launch file of Strong Compute's ISC",
        "type": "object",
        "properties": {**{key.name: _property(key) for key in KEYS}, **dead},
        "required": [key.name for key in KEYS if key.required],
        "additionalProperties": False,
    }


def _property(key: Key) -> dict[str, Any]:
    described: dict[str, Any] = {
        "type": TYPES[key.type],
        "description": f"{key.doc[0].upper()}{key.doc[1:]}. Source: {key.source}",
    }
    if key.type is list:
        pattern = f"^[{ID_CHARACTERS}]+$" if key.name in ID_LISTS else ID
        described["items"] = {"type": "string", "pattern": pattern}
    return {**described, **MORE.get(key.name, {})}


def text() -> str:
    """What is to be in FILE."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
