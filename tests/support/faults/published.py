"""Versions of a node as its readers see them: which it lists, and whether every byte is right."""

from __future__ import annotations

import hashlib
import random

from shardcast.protocol.distribution import parse
from shardcast.protocol.wire import shard_path
from tests.support.faults.process import get

SHARD = 20_000
SIZE = 3 * SHARD - 7


def payload(seed: int) -> bytes:
    """Return a version's bytes."""
    return random.Random(seed).randbytes(SIZE)


class Versions:
    """Published payloads, by version."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}

    def add(self, version: str, data: bytes) -> None:
        """Note a version."""
        self.digests[version] = hashlib.sha256(data).hexdigest()

    def assert_served(
        self, url: str, keep: int, without: frozenset[str] = frozenset(), doubtful: str = ""
    ) -> list[str]:
        """Assert that a node offers the newest versions, right, and no others.

        Args:
            url: base URL of the node.
            keep: number of versions that it must offer.
            without: versions that it must not offer.
            doubtful: a version that it may offer or not.

        Returns:
            The versions that it offers.
        """
        status, answer = get(url, "/distribution.txt")
        assert status == 200, f"the list is answered with {status}"
        listed = {listing.version: listing.digest for listing in parse(answer).listings}
        expected = [
            name for name in sorted(self.digests, key=lambda name: int(name[1:])) if name not in without
        ]
        newest = expected[-keep:]
        assert [name for name in newest if name not in listed] == [], f"{listed.keys()} of {expected}"
        listed.pop(doubtful, None)
        for version, digest in listed.items():
            assert version in expected, f"{version} is listed, of {expected}"
            assert digest == self.digests[version], f"{version} is listed with another digest"
            if not is_right(url, version, digest):
                assert version not in newest, f"{version} can't be read"
                again = [listing.version for listing in parse(get(url, "/distribution.txt")[1]).listings]
                assert version not in again, f"{version} is listed, and can't be read"
        return list(listed)


def is_right(url: str, version: str, digest: str) -> bool:
    """Return whether a node sends all of a version; every byte that it sends must be right."""
    hasher = hashlib.sha256()
    for shard in range(1, -(-SIZE // SHARD) + 1):
        status, data = get(url, shard_path(version, shard))
        if status != 200:
            assert status == 0 or status == 404 or status >= 500, f"{version} is answered with {status}"
            return False
        hasher.update(data)
    if hasher.hexdigest() != digest:
        raise WrongBytes(f"what is given for {version} is not what was published")
    return True


class WrongBytes(Exception):
    """A node sent wrong bytes: the worst that can happen."""
