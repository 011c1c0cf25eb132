"""The one line of progress on a terminal: as many parts as fit, the most important ones first."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from shardcast.plain_text import one_line
from shardcast.sizes import format_rate, format_size

_MIN_BAR, _MAX_BAR = 10, 40
"""Cells of the bar; a narrower one is left out."""
_LONGEST_LEFT = 100 * 3600
"""Seconds left from which on no time is shown: at such a rate the time means nothing."""
_MAX_TEXT = 500
"""Maximum characters of a part, whatever name is in there."""


def progress_line(
    width: int, what: str, done: int, size: int | None, rate: float | None, detail: Sequence[str]
) -> str:
    """Return the line, at most ``width`` - 1 cells wide, so that no terminal wraps it.

    Args:
        width: columns of the terminal.
        what: name of the work; cut as a last resort.
        done: bytes done.
        size: bytes in all; None while unknown.
        rate: bytes a second; None while unknown.
        detail: words beside the numbers, the most important first.
    """
    room = width - 1
    numbers = f"{done / size:4.0%} of {format_size(size)}" if size else format_size(done)
    optional = [format_rate(rate)] if rate is not None else []
    if size and rate and done < size and (left := (size - done) / rate) < _LONGEST_LEFT:
        optional.append(_left(round(left)))
    name = _cut(one_line(what, _MAX_TEXT), max(room - _cells(numbers) - 1, 0))
    line = f"{name} {numbers}" if name else _cut(numbers, room)
    for text in (*optional, *(one_line(text, _MAX_TEXT) for text in detail if text)):
        if _cells(line) + 2 + _cells(text) > room:
            break
        line += f"  {text}"
    bar = min(room - _cells(line) - 3, _MAX_BAR)
    if size and name and bar >= _MIN_BAR:
        filled = round(bar * min(done / size, 1.0))
        line = f"{name} [{'#' * filled}{'-' * (bar - filled)}]{line[len(name) :]}"
    return line


def _left(seconds: int) -> str:
    """Return the remaining time: ``0:42``, ``12:05``, ``1:30:00``."""
    minutes, hours = seconds // 60, seconds // 3600
    return f"{hours}:{minutes % 60:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


def _cells(text: str) -> int:
    """Return how many columns of a terminal a text takes at most."""
    if text.isascii():
        return len(text)
    return len(text) + sum(unicodedata.east_asian_width(char) in "WF" for char in text)


def _cut(text: str, cells: int) -> str:
    """Return as much of a text as takes ``cells`` columns, with an ellipsis where something is cut."""
    if _cells(text) <= cells:
        return text
    while text and _cells(text) > cells - 1:
        text = text[:-1]
    return f"{text}…" if cells > 0 else ""
