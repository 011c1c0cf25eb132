"""Text from others made safe to show: one line of printable characters, of bounded length.

Text of a server, of a reader or in a file's name can hold sequences that move a terminal's cursor, line ends
that forge lines of a log, marks that turn the direction of writing, and megabytes. It is cleaned where it
becomes text for people: in the errors (``ShardcastError``), in the log's format, in the names that commands
print. JSON escapes by itself and stays as it is.
"""

from __future__ import annotations


def one_line(text: str, most: int) -> str:
    """Return a text with each unprintable character escaped, cut to ``most`` characters."""
    cut = text if len(text) <= most else text[:most]
    if not cut.isprintable():
        cut = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in cut
        )
    return cut if len(cut) <= most and len(text) <= most else cut[: most - 1] + "…"


def short_name(text: str, most: int) -> str:
    """Return the first ``most`` characters of a name, without the unprintable ones."""
    return "".join(char for char in text[:most] if char.isprintable())
