r"""Lists of digests in the formats of ``sha256sum``, ``openssl dgst`` and ``store ls``.

::

    5891b5b5…  a name               sha256sum; "*a name" with -b
    \5891b5b5…  a\\name           the same of a name with a backslash or a new line in it
    SHA256 (a name) = 5891b5b5…     sha256sum --tag, BSD's sha256; SHA2-256(a name)= from openssl
    # a comment; empty lines and a byte order mark before the first line are ignored, too

A line has at most 64 Ki characters: the lines of a device, or of a payload named by mistake, may never end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, AnyStr

from shardcast.digest import is_digest
from shardcast.errors import UsageError

OPEN_ARGUMENTS: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}
"""Arguments for ``open``: the names in such a file may have any bytes."""
_MAX_LINE = 64 << 10
"""Characters of the longest line."""
_TAGS = {"SHA256": "sha256", "SHA2-256": "sha256", "SHA3-256": "sha3-256"}
"""The words before a name in parentheses, and their algorithms."""


def parse_digest(text: str) -> str:
    """Return a digest in lower case, without the spaces around it.

    Raises:
        UsageError: the text is no digest.
    """
    digest = text.strip().lower()
    if not is_digest(digest):
        raise UsageError(f"{text[:80]!r} is no digest; write 64 hex digits")
    return digest


def bounded_lines(file: IO[AnyStr], name: str) -> Iterator[AnyStr]:
    """Yield the lines of a file, called ``name`` in errors.

    Raises:
        UsageError: a line is too long.
    """
    number = 1
    while line := file.readline(_MAX_LINE + 1):
        if len(line) > _MAX_LINE:
            raise UsageError(f"{name}, line {number}: more than {_MAX_LINE} characters")
        yield line
        number += 1


def read_digests(lines: IO[str], name: str, algorithm: str | None = None) -> Iterator[str]:
    """Yield the digests of a list, one a line; the rest of a line is ignored.

    Args:
        lines: the list, opened with ``OPEN_ARGUMENTS``.
        name: the name of the list in errors.
        algorithm: the digests' algorithm; None accepts every algorithm.

    Raises:
        UsageError: a line has no digest, or one of another algorithm.
    """
    for number, line in enumerate(bounded_lines(lines, name), 1):
        text = (line.removeprefix("\ufeff") if number == 1 else line).strip()
        if text and not text.startswith("#"):
            try:
                yield _digest_in(text, algorithm)
            except UsageError as error:
                if number == 1 and any(char == "\0" or "\udc80" <= char <= "\udcff" for char in text):
                    raise UsageError(f"{name} is no text; write one digest a line") from None
                raise UsageError(f"{name}, line {number}: {error}") from None


def _digest_in(text: str, algorithm: str | None) -> str:
    """Return the digest in a line of any of the formats.

    Raises:
        UsageError: the line has none, or one of another ``algorithm``.
    """
    text = text.removeprefix("\\")
    tag, parenthesis, _ = text.partition("(")
    tagged = _TAGS.get(tag.strip().upper()) if parenthesis else None
    if tagged is None:
        return parse_digest(text.split(maxsplit=1)[0] if text else text)
    if algorithm not in (None, tagged):
        raise UsageError(f"the digest is of {tagged}, and this store uses {algorithm}")
    return parse_digest(text.rpartition("=")[2])
