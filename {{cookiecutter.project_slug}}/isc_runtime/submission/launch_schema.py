"""The JSON schema of launch files, for editors: made from the same table that the check goes by.

    python -m isc_runtime.submission.launch_schema > isc_runtime/launch_file.schema.json

`#:schema` in the first line of a launch file names it: there taplo, and editors with taplo in them, look.
The file is committed, and a test compares it with what this makes. A schema tells keys, types and limits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from isc_runtime.submission.launch_file import (
    COMPUTE_MODES,
    DEAD_KEYS,
    KEYS,
    MOST_GPUS,
    MOST_GPUS_UNLESS_BURST,
    Key,
)

FILE = Path(__file__).with_name("launch_file.schema.json")
TYPES = {str: "string", int: "integer", list: "array"}
MORE: dict[str, dict[str, Any]] = {
    "experiment_name": {"pattern": r"\S"},
    "command": {"pattern": r"^[^\n\\]*\S[^\n\\]*$"},
    "compute_mode": {"enum": list(COMPUTE_MODES), "default": COMPUTE_MODES[0]},
    "gpus": {"minimum": 1, "maximum": MOST_GPUS},
    "max_rapid_cycles": {"minimum": 1},
}


def schema() -> dict[str, Any]:
    """The schema, of JSON Schema's draft 7: what taplo understands."""
    dead = {name: {"not": {}, "description": f"No key any more. {hint}."} for name, hint in DEAD_KEYS.items()}
    is_burst = {"properties": {"compute_mode": {"const": "burst"}}, "required": ["compute_mode"]}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Launch file of Strong Compute's ISC",
        "type": "object",
        "properties": {**{key.name: _property(key) for key in KEYS}, **dead},
        "required": [key.name for key in KEYS if key.required],
        "additionalProperties": False,
        "if": {"not": is_burst},
        "then": {"properties": {"gpus": {"maximum": MOST_GPUS_UNLESS_BURST}}},
    }


def _property(key: Key) -> dict[str, Any]:
    described: dict[str, Any] = {
        "type": TYPES[key.type],
        "description": f"{key.doc[0].upper()}{key.doc[1:]}.",
    }
    if key.type is list:
        described["items"] = {"type": "string", "pattern": r"\S"}
    return {**described, **MORE.get(key.name, {})}


def text() -> str:
    """What is to be in FILE."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
