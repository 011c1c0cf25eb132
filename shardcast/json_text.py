"""JSON written by others: from the network, from the disk, from a person."""

from __future__ import annotations

import json
from typing import Any


def parse_json(text: bytes | bytearray | str) -> Any:
    """Return the value of a JSON text.

    A few kilobytes of brackets make ``json.loads`` raise RecursionError, not ValueError: a caller prepared
    for malformed text would fail.

    Raises:
        ValueError: the text is no JSON, is not UTF-8, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
