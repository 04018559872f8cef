"""What is in the files of Weights & Biases, read without its server.

Their format is LevelDB's log: a header, then blocks of 32 KiB, with records of which each may reach over
several. A record is a protobuf message. What is not whole ends the reading: it was killed there.
"""

from __future__ import annotations

import importlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER, START = 32768, 7, b":W&B"
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def rows_of(file: Path) -> list[dict[str, Any]]:
    """The rows of a run's history."""
    message = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    histories = (message.FromString(record).history for record in records(file.read_bytes()))
    return [
        {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in history.item}
        for history in histories
        if history.item
    ]


def records(content: bytes) -> Iterator[bytes]:
    """The whole records in the content of a file."""
    at, record = HEADER if content.startswith(START) else len(content), b""
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:  # the end of a block is too small for a record
            at += BLOCK - at % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)  # after a checksum
        piece = content[at + HEADER : at + HEADER + length]
        if len(piece) < length or kind not in (FULL, FIRST, MIDDLE, LAST):
            return
        record = piece if kind in (FULL, FIRST) else record + piece
        if kind in (FULL, LAST):
            yield record
        at += HEADER + length
