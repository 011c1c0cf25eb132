"""Entries of a folder, packed: a line of the manifest holds many times as many of them.

The value of ``entries`` is text then: base64 of a zlib stream of the list as JSON.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator

from shardcast.protocol.lines import MAX_LINE

MAX_UNPACKED = 1 << 20
"""Bytes of JSON in one line."""
_FILLED = MAX_UNPACKED * 7 // 8
"""Bytes of JSON in a line whose entries are as long as the others of their folder."""
_LEVEL = 6


def pack(text: bytes) -> str:
    """Return a JSON text as the value of ``entries``."""
    return base64.b64encode(zlib.compress(text, _LEVEL)).decode()


def unpack(packed: str) -> bytes:
    """Return the JSON text in a value of ``entries``; no more than ``MAX_UNPACKED`` bytes are ever made.

    Raises:
        ValueError: the value is malformed, or has more bytes.
    """
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(base64.b64decode(packed, validate=True), MAX_UNPACKED)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not stream.eof or stream.unused_data:
        raise ValueError(f"the stream does not end within {MAX_UNPACKED} bytes, or has bytes behind its end")
    return text


def packed_lines(
    count: int, entry_bytes: int, encode: Callable[[int, int], bytes], line_of: Callable[[str], bytes]
) -> Iterator[tuple[bytes, int]]:
    """Yield lines with all entries, and the bytes of JSON in each.

    Badly compressible names fill a line sooner: each line is first tried with as many entries as the last
    one.

    Args:
        count: the number of entries.
        entry_bytes: usual bytes of JSON for an entry.
        encode: returns the JSON of the entries from one index to another.
        line_of: returns the line with a value of ``entries``.
    """
    start, batch = 0, max(1, _FILLED // entry_bytes)
    while start < count:
        end = min(start + batch, count)
        text = encode(start, end)
        line = line_of(pack(text)) if len(text) <= MAX_UNPACKED else b""
        fill = max(len(line) / MAX_LINE, len(text) / MAX_UNPACKED)
        if fill <= 1:
            yield line, len(text)
            start = end
        batch = max(1, int((end - start if fill > 1 else batch) * min(0.9 / fill, 4)))
