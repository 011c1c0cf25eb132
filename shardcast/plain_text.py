"""Text from others made safe to show: one line of printable characters, of bounded length.

Text of a server, of a reader or in a file's name can hold sequences that move a terminal's cursor, line ends
that forge lines of a log, marks that turn the direction of writing, and megabytes. Such text is cleaned where
shown to people: in errors (``ShardcastError``), in the log's format, in names printed by commands. JSON
output has its own escapes and is not cleaned.
"""

from __future__ import annotations


def one_line(text: str, max_length: int) -> str:
    """Return a text with each unprintable character escaped, cut to ``max_length`` characters."""
    cut = text if len(text) <= max_length else text[:max_length]
    if not cut.isprintable():
        cut = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in cut
        )
    return cut if len(cut) <= max_length and len(text) <= max_length else cut[: max_length - 1] + "…"


def short_name(text: str, max_length: int) -> str:
    """Return the first ``max_length`` characters of a name, without the unprintable ones."""
    return "".join(char for char in text[:max_length] if char.isprintable())
