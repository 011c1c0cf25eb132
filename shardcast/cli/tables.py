"""Tables of plain text: columns of equal width, one line a row, without control characters."""

from __future__ import annotations

from collections.abc import Sequence

from shardcast.plain_text import one_line

_MAX_CELL = 255
"""Maximum characters of a cell; names in cells come from servers."""
_GAP = "  "


def format_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table, the heading first; the last column is not padded."""
    cleaned = [[one_line(cell, _MAX_CELL) for cell in row] for row in (heading, *rows)]
    widths = [max(map(len, column)) for column in zip(*cleaned, strict=True)]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cleaned
    ]
