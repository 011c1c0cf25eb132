"""Text that others chose, made safe to show: one line, of characters that can be printed, not too long.

What a server, a reader or a file's name says can hold the sequences that move a terminal's cursor, line ends
that forge lines of a log, marks that turn the direction of writing, and megabytes. It is cleaned where it
becomes text for people: in the errors (``ShardcastError``), in the log's format, in the names that commands
print. JSON escapes by itself and stays as it is.
"""

from __future__ import annotations


def one_line(text: str, most: int) -> str:
    """Return the text with each character that can't be printed escaped, cut to ``most`` characters."""
    cut = text if len(text) <= most else text[:most]
    if not cut.isprintable():
        cut = "".join(
            one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in cut
        )
    return cut if len(cut) <= most and len(text) <= most else cut[: most - 1] + "…"


def short_name(text: str, most: int) -> str:
    """Return the first ``most`` characters of a name, without those that can't be printed."""
    return "".join(one for one in text[:most] if one.isprintable())
