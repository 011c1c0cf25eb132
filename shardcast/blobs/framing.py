"""How an archive's pulls and pushes are framed: binary, all integers unsigned, 64 bits, big-endian.

::

    pull:  (key, length) …          answered with    (key, content) …
    push:  (length, content) …      answered with    nothing

A key is the 32 bytes of a SHA-256. The answer to a pull tells no lengths, so who reads it goes by those that
it asked with. Readers are fed bytes as they come, in chunks of any length, and hold none of them back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

KEY_SIZE, LENGTH_SIZE = 32, 8
PAIR_SIZE = KEY_SIZE + LENGTH_SIZE
MAX_KEYS = 1280
"""Keys of one pull."""
MAX_PULL = MAX_KEYS * PAIR_SIZE
"""Bytes of the body of a pull."""
MAX_LENGTH = (1 << 64) - 1


class FramingError(ValueError):
    """These are not the bytes of a pull or a push."""


class TooLong(FramingError):
    """A blob is longer than is taken here.

    Attributes:
        length: bytes that it is said to have.
    """

    def __init__(self, length: int, most: int) -> None:
        super().__init__(f"a blob of {length} bytes; at most {most} are taken")
        self.length = length


class WrongContent(FramingError):
    """What came under a key is not what the key says.

    Attributes:
        key: that key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"what came as {key} is something else")
        self.key = key


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a blob's bytes.

    Attributes:
        key: its SHA-256, in hex; empty in a push, where it isn't told.
        length: bytes that the blob has in all.
        data: these.
        last: whether the blob ends here. With a key, it is right then; before, nothing is known of it.
    """

    key: str
    length: int
    data: memoryview
    last: bool


def write_pull(wanted: Iterable[tuple[str, int]]) -> bytes:
    """The body of a pull: keys in hex, and the lengths of their blobs."""
    return b"".join(bytes.fromhex(key) + write_length(length) for key, length in wanted)


def parse_pull(body: bytes) -> list[tuple[str, int]]:
    """Keys in hex, and lengths, as they were asked for; what follows the last whole pair is passed over.

    Raises:
        FramingError: there is no whole pair.
    """
    if len(body) < PAIR_SIZE:
        raise FramingError(f"{len(body)} bytes are no key and length; that takes {PAIR_SIZE}")
    pairs = []
    for start in range(0, len(body) - PAIR_SIZE + 1, PAIR_SIZE):
        middle, end = start + KEY_SIZE, start + PAIR_SIZE
        pairs.append((body[start:middle].hex(), int.from_bytes(body[middle:end], "big")))
    return pairs


def write_length(length: int) -> bytes:
    """What goes before a blob in a push."""
    return length.to_bytes(LENGTH_SIZE, "big")


class _Reader:
    """Blobs one after the other, each behind a head of so many bytes."""

    def __init__(self, head_size: int) -> None:
        self._head_size = head_size
        self._head = bytearray()
        self._key = ""
        self._length = 0
        self._left = 0
        self._within = False

    def feed(self, chunk: bytes | memoryview) -> Iterator[Part]:
        """The parts of blobs in the next bytes; take all of them before feeding more.

        Raises:
            FramingError: these are not the bytes that can come here.
        """
        rest = memoryview(chunk)
        while rest:
            if not self._within:
                missing = self._head_size - len(self._head)
                self._head += rest[:missing]
                rest = rest[missing:]
                if len(self._head) < self._head_size:
                    return
                self._key, self._length = self._begin(bytes(self._head))
                self._head.clear()
                self._left, self._within = self._length, True
            data, rest = rest[: self._left], rest[self._left :]
            self._left -= len(data)
            self._within = self._left > 0
            if data or not self._within:
                self._check(data, not self._within)
                yield Part(self._key, self._length, data, not self._within)

    def end(self) -> None:
        """There are no more bytes.

        Raises:
            FramingError: a blob, or what goes before it, is cut off.
        """
        if self._within:
            raise FramingError(f"it ends {self._left} bytes before the end of a blob of {self._length}")
        if self._head:
            raise FramingError("it ends before a blob begins")

    def _begin(self, head: bytes) -> tuple[str, int]:
        raise NotImplementedError

    def _check(self, data: memoryview, last: bool) -> None:
        """Look at what comes."""


class PullReader(_Reader):
    """Reads the answer to a pull; checks that the blobs are right, and among those that were asked for.

    Attributes:
        missing: what was asked for and has not come.
    """

    def __init__(self, wanted: Mapping[str, int]) -> None:
        super().__init__(KEY_SIZE)
        self.missing = dict(wanted)
        self._hasher = hashlib.sha256()

    def _begin(self, head: bytes) -> tuple[str, int]:
        key = head.hex()
        length = self.missing.pop(key, None)
        if length is None:
            raise FramingError(f"{key} came, which was not asked for, or came before")
        self._hasher = hashlib.sha256()
        return key, length

    def _check(self, data: memoryview, last: bool) -> None:
        self._hasher.update(data)
        if last and self._hasher.hexdigest() != self._key:
            raise WrongContent(self._key)


class PushReader(_Reader):
    """Reads the body of a push."""

    def __init__(self, most: int = MAX_LENGTH) -> None:
        """``most``: bytes of a blob; a longer one is refused before any of it is read."""
        super().__init__(LENGTH_SIZE)
        self._most = most

    def _begin(self, head: bytes) -> tuple[str, int]:
        length = int.from_bytes(head, "big")
        if length > self._most:
            raise TooLong(length, self._most)
        return "", length
