"""``distribution.txt``: the complete versions of a node, oldest first.

A line is ``v1: <digest of the payload>|<number of shards>``; before 0.1.0 the count was missing. Old nodes
rewrite the file in place, so a reader can catch an empty file, or one cut off in the middle.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shardcast.protocol.wire import MAX_DISTRIBUTION_SIZE, MAX_SHARDS, version_number

_LINE = re.compile(rb"\s*(v[1-9][0-9]{0,17})\s*:\s*([0-9A-Fa-f]{64})\s*(?:\|\s*([0-9]{1,7})\s*)?")


@dataclass(frozen=True, slots=True)
class Listing:
    """One version in a distribution list.

    Attributes:
        version: name, ``v3``.
        digest: digest of the payload, 64 lower-case hex digits. SHA-256; from a 0.3.x origin BLAKE3.
        shards: number of shards; None where the list omits the number.
        manifest: SHA-256 of the manifest's bytes, in hex; None where the manifest names no origin or the
            server tells none. Only feeds have this field, the list does not.
    """

    version: str
    digest: str
    shards: int | None
    manifest: str | None = None

    @property
    def number(self) -> int:
        """Number of the version."""
        return int(self.version[1:])

    @property
    def value(self) -> str:
        """Text after the colon."""
        return self.digest if self.shards is None else f"{self.digest}|{self.shards}"


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """A version withdrawn by its publisher: no node offers it any more, and its number is never used again.

    Attributes:
        version: name, ``v7``.
        digest: digest of the payload, as in the distribution list.
        reason: the publisher's words; may be empty.
    """

    version: str
    digest: str
    reason: str = ""

    @property
    def number(self) -> int:
        """Number of the version."""
        return int(self.version[1:])


@dataclass(frozen=True, slots=True)
class Distribution:
    """A distribution list as received.

    Attributes:
        listings: the versions of complete lines, by number.
        tail: the version of a last line without its newline, possibly cut off.
        is_cut: whether there is text after the last newline.
        is_foreign: whether there was text, but no line of a list.
    """

    listings: tuple[Listing, ...]
    tail: Listing | None = None
    is_cut: bool = False
    is_foreign: bool = False

    @property
    def doubtful(self) -> bool:
        """Whether the list may have been caught half-written and needs a second reading."""
        return not self.listings or self.is_cut

    def settle(self, second: Distribution) -> Distribution:
        """Return the common result of this reading and a later one, ``second``.

        The complete lines of the second count, and its last line without a newline where both readings agree
        on that line.
        """
        listings = second.listings
        if second.tail is not None and second.tail == self.tail:
            listings = _by_number((*listings, second.tail))
        return Distribution(listings, is_foreign=second.is_foreign and not listings)


def parse(body: bytes) -> Distribution:
    """Parse a distribution list; lines in another format are ignored.

    Raises:
        ValueError: the list is longer than 1 MiB.
    """
    if len(body) > MAX_DISTRIBUTION_SIZE:
        raise ValueError(f"a distribution list of more than {MAX_DISTRIBUTION_SIZE} bytes")
    *lines, last = body.split(b"\n")
    listings = [listing for listing in map(_parse_line, lines) if listing]
    tail = _parse_line(last)
    strange = bool(body.strip()) and not listings and tail is None
    return Distribution(_by_number(listings), tail, bool(last.strip()), strange)


def _parse_line(line: bytes) -> Listing | None:
    """Return the version in a line; None for a line in another format."""
    match = _LINE.fullmatch(line)
    if not match:
        return None
    shards = None if match[3] is None else int(match[3])
    if shards is not None and shards > MAX_SHARDS:
        return None
    return Listing(match[1].decode(), match[2].decode().lower(), shards)


def _by_number(listings: Iterable[Listing]) -> tuple[Listing, ...]:
    """Return listings by number; of several with one version the last counts."""
    return tuple(
        sorted(
            {listing.version: listing for listing in listings}.values(), key=lambda listing: listing.number
        )
    )


def encode(listings: Sequence[Listing]) -> bytes:
    """Return the bytes of a distribution list, by number; of several listings of one version the last."""
    lines = (f"{listing.version}: {listing.value}\n" for listing in _by_number(listings))
    return "".join(lines).encode()


def is_version(text: str) -> bool:
    """Return whether a text is a version's name: ``v`` and a number from 1, ASCII, without leading zeros."""
    return version_number(text) is not None
