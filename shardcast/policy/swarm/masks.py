"""Sets of ranges as masks: integers whose bit ``n`` says that range ``n`` is in the set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from random import Random


def mask_of(ranges: Iterable[int]) -> int:
    """Return the mask of some ranges."""
    mask = 0
    for number in ranges:
        mask |= 1 << number
    return mask


def first_ranges(count: int) -> int:
    """Return the mask of the ranges from 0 up to ``count``."""
    return (1 << count) - 1


def lowest(mask: int) -> int:
    """Return the lowest range of a mask that has at least one."""
    return (mask & -mask).bit_length() - 1


def ranges_of(mask: int) -> Iterator[int]:
    """Yield the ranges of a mask, lowest first."""
    while mask:
        bit = mask & -mask
        yield bit.bit_length() - 1
        mask ^= bit


def random_range(mask: int, random: Random) -> int:
    """Return a range of a mask that has at least one, each equally likely."""
    count = mask.bit_count()
    if count == 1:
        return mask.bit_length() - 1
    index, below, width = int(random.random() * count), 0, mask.bit_length()
    while width > 1:  # halve the mask: keep the half that has the wanted bit
        half = width >> 1
        low = mask & ((1 << half) - 1)
        found = low.bit_count()
        if index < found:
            mask, width = low, half
        else:
            mask >>= half
            index -= found
            below += half
            width -= half
    return below
