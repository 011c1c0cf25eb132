"""Lists of digests as people have them: what ``sha256sum``, ``openssl dgst`` and ``store ls`` write.

::

    5891b5b5…  a name               sha256sum; "*a name" with -b
    \\5891b5b5…  a\\\\name           the same of a name with a backslash or a new line in it
    SHA256 (a name) = 5891b5b5…     sha256sum --tag, BSD's sha256; SHA2-256(a name)= from openssl
    # what begins so is passed over, and so are empty lines and a byte order mark before the first

A line has at most 64 Ki characters: a device, or a payload that was named by mistake, has none that end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, AnyStr

from shardcast.digest import is_digest
from shardcast.errors import UsageError

AS_TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}
"""How such a file is opened: the names in it may be of any bytes."""
_MAX_LINE = 64 << 10
"""Characters of a line."""
_TAGS = {"SHA256": "sha256", "SHA2-256": "sha256", "SHA3-256": "sha3-256"}
"""What stands before a name in parentheses, and the algorithm that it means."""


def parse_digest(text: str) -> str:
    """A digest as it is kept.

    Raises:
        UsageError: it is none.
    """
    digest = text.strip().lower()
    if not is_digest(digest):
        raise UsageError(f"{text[:80]!r} is no digest; that is 64 hex digits")
    return digest


def bounded_lines(file: IO[AnyStr], name: str) -> Iterator[AnyStr]:
    """Yield the lines of a file.

    Raises:
        UsageError: one is too long.
    """
    number = 1
    while line := file.readline(_MAX_LINE + 1):
        if len(line) > _MAX_LINE:
            raise UsageError(f"{name}, line {number}: it has more than {_MAX_LINE} characters")
        yield line
        number += 1


def read_digests(lines: IO[str], name: str, algorithm: str | None = None) -> Iterator[str]:
    """The digests in a list, one a line; what else a line says doesn't matter.

    Raises:
        UsageError: one is no digest, or says that it is of another than this ``algorithm``.
    """
    for number, line in enumerate(bounded_lines(lines, name), 1):
        text = (line.removeprefix("\ufeff") if number == 1 else line).strip()
        if text and not text.startswith("#"):
            try:
                yield _digest_in(text, algorithm)
            except UsageError as error:
                if number == 1 and any(one == "\0" or "\udc80" <= one <= "\udcff" for one in text):
                    raise UsageError(f"{name} is no text; write one digest a line") from None
                raise UsageError(f"{name}, line {number}: {error}") from None


def _digest_in(text: str, algorithm: str | None) -> str:
    text = text.removeprefix("\\")
    tag, parenthesis, _ = text.partition("(")
    of = _TAGS.get(tag.strip().upper()) if parenthesis else None
    if of is None:
        return parse_digest(text.split(maxsplit=1)[0] if text else text)
    if algorithm not in (None, of):
        raise UsageError(f"it is of {of}, and this store is of {algorithm}")
    return parse_digest(text.rpartition("=")[2])
