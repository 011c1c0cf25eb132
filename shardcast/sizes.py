"""Sizes, rates and counts: parsed from text written by people, formatted for people."""

from __future__ import annotations

import re
from fractions import Fraction

from shardcast.errors import UsageError

_UNITS = {
    "": 1,
    "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12,
    "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"([0-9](?:_?[0-9]){0,30}(?:\.[0-9]{1,30})?)\s*([kmgt]i?)?b?", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Return the bytes of ``50000000``, ``50MB`` (decimal, 10**6), ``48MiB`` (binary, 2**20) or ``1.5GB``.

    Raises:
        UsageError: the text is not a size, or the size is less than one byte.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{text!r} is not a size; write bytes (50000000) or a unit (50MB, 48MiB)")
    size = int(Fraction(found[1].replace("_", "")) * _UNITS[(found[2] or "").lower()])
    if size < 1:
        raise UsageError(f"{text!r} is not a usable size; it must be at least one byte")
    return size


def shard_size_of(size: int | str | None) -> int | None:
    """Return the bytes of a shard, given as a number or as text (``50MB``); None for None.

    Raises:
        UsageError: the value is no size.
    """
    if isinstance(size, str):
        try:
            return parse_size(size)
        except UsageError as error:
            raise UsageError(f"shard_size: {error}") from None
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise UsageError(f"shard_size={size!r} is not a size; give at least one byte, or text (50MB)")
    return size


def format_size(size: float) -> str:
    """Format a size of so many bytes in decimal units: ``53.7 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def format_rate(bytes_per_second: float) -> str:
    """Format a rate: ``53.7 MB/s``."""
    return f"{format_size(bytes_per_second)}/s"


def format_count(number: int, what: str) -> str:
    """Format a count: ``1 shard``, ``2 shards``."""
    return f"{number} {what}{'' if number == 1 else 's'}"
