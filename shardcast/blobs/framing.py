"""Framing of an archive's pulls and pushes: binary; integers are unsigned, 64 bits, big-endian.

::

    pull:  (key, length) …          answered with    (key, content) …
    push:  (length, content) …      answered with    nothing

A key is the 32 bytes of a SHA-256. The answer to a pull carries no lengths: its reader uses the lengths of
the request. Readers take bytes as they arrive, in chunks of any length, and buffer nothing but a head.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

KEY_SIZE, LENGTH_SIZE = 32, 8
PAIR_SIZE = KEY_SIZE + LENGTH_SIZE
MAX_KEYS = 1280
"""Keys of one pull."""
MAX_PULL = MAX_KEYS * PAIR_SIZE
"""Bytes of the body of a pull."""
MAX_LENGTH = (1 << 64) - 1


class FramingError(ValueError):
    """Bytes other than those of a pull or a push."""


class TooLong(FramingError):
    """A blob longer than accepted here.

    Attributes:
        length: the announced bytes of the blob.
    """

    def __init__(self, length: int, max_length: int) -> None:
        super().__init__(f"a blob of {length} bytes; at most {max_length} are taken")
        self.length = length


class WrongContent(FramingError):
    """A blob with another SHA-256 than its key.

    Attributes:
        key: the expected SHA-256, in hex.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"the bytes received for {key} have another SHA-256")
        self.key = key


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a blob's bytes.

    Attributes:
        key: the blob's SHA-256, in hex; empty in a push, without keys.
        length: bytes of the whole blob.
        data: the bytes of this part; valid until the input chunk is reused.
        last: whether the blob ends here. Only the last part of a blob with a key vouches for the blob.
    """

    key: str
    length: int
    data: memoryview
    last: bool


def write_pull(wanted: Iterable[tuple[str, int]]) -> bytes:
    """Return the body of a pull for pairs of a key in hex and the length of its blob."""
    return b"".join(bytes.fromhex(key) + write_length(length) for key, length in wanted)


def parse_pull(body: bytes) -> list[tuple[str, int]]:
    """Return the requested pairs of a key in hex and a length, and ignore an incomplete pair at the end.

    Raises:
        FramingError: the body has no whole pair.
    """
    if len(body) < PAIR_SIZE:
        raise FramingError(f"{len(body)} bytes are no key and length; that takes {PAIR_SIZE}")
    pairs = []
    for start in range(0, len(body) - PAIR_SIZE + 1, PAIR_SIZE):
        middle, end = start + KEY_SIZE, start + PAIR_SIZE
        pairs.append((body[start:middle].hex(), int.from_bytes(body[middle:end], "big")))
    return pairs


def write_length(length: int) -> bytes:
    """Return the head of a blob in a push."""
    return length.to_bytes(LENGTH_SIZE, "big")


class _BlobStream:
    """Splitter of a byte stream into blobs, each behind a head of fixed size.

    ``parse_head`` turns a head into the key and the length of the following blob, or raises FramingError.
    """

    def __init__(self, head_size: int, parse_head: Callable[[bytes], tuple[str, int]]) -> None:
        self._head_size = head_size
        self._parse_head = parse_head
        self._head = bytearray()
        self._key = ""
        self._length = 0
        self._remaining = 0
        self._in_blob = False

    def feed(self, chunk: bytes | memoryview) -> Iterator[Part]:
        """Yield the parts of blobs in ``chunk``; see ``PullReader.feed``."""
        rest = memoryview(chunk)
        while rest:
            if not self._in_blob:
                missing = self._head_size - len(self._head)
                self._head += rest[:missing]
                rest = rest[missing:]
                if len(self._head) < self._head_size:
                    return
                self._key, self._length = self._parse_head(bytes(self._head))
                self._head.clear()
                self._remaining, self._in_blob = self._length, True
            data, rest = rest[: self._remaining], rest[self._remaining :]
            self._remaining -= len(data)
            self._in_blob = self._remaining > 0
            if data or not self._in_blob:
                yield Part(self._key, self._length, data, not self._in_blob)

    def end(self) -> None:
        """Check that the stream ends between two blobs.

        Raises:
            FramingError: a blob or its head is cut off.
        """
        if self._in_blob:
            raise FramingError(
                f"the stream ends {self._remaining} bytes before the end of a blob of {self._length}"
            )
        if self._head:
            raise FramingError("the stream ends before a blob begins")


class PullReader:
    """Incremental reader of the answer to a pull: only requested blobs pass, each checked by its SHA-256.

    Attributes:
        missing: the lengths of the requested blobs not yet begun, by key.
    """

    def __init__(self, wanted: Mapping[str, int]) -> None:
        self.missing = dict(wanted)
        self._stream = _BlobStream(KEY_SIZE, self._parse_key)
        self._hasher = hashlib.sha256()

    def feed(self, chunk: bytes | memoryview) -> Iterator[Part]:
        """Yield the parts of blobs in ``chunk``; consume all of them before feeding the next chunk.

        Raises:
            FramingError: a key was not requested, or occurs twice.
            WrongContent: a blob has another digest than its key; its last part is withheld.
        """
        for part in self._stream.feed(chunk):
            self._hasher.update(part.data)
            if part.last and self._hasher.hexdigest() != part.key:
                raise WrongContent(part.key)
            yield part

    def end(self) -> None:
        """Check that the answer ends between two blobs.

        Raises:
            FramingError: a blob or its key is cut off.
        """
        self._stream.end()

    def _parse_key(self, head: bytes) -> tuple[str, int]:
        """Return the key in a head and its requested length, and begin the digest of its blob."""
        key = head.hex()
        length = self.missing.pop(key, None)
        if length is None:
            raise FramingError(f"the blob {key} was not requested, or came twice")
        self._hasher = hashlib.sha256()
        return key, length


class PushReader:
    """Incremental reader of the body of a push."""

    def __init__(self, max_length: int = MAX_LENGTH) -> None:
        """Refuse blobs of more than ``max_length`` bytes before any of their bytes is read."""
        self._most = max_length
        self._stream = _BlobStream(LENGTH_SIZE, self._parse_length)

    def feed(self, chunk: bytes | memoryview) -> Iterator[Part]:
        """Yield the parts of blobs in ``chunk``; consume all of them before feeding the next chunk.

        Raises:
            TooLong: a blob is longer than is accepted.
        """
        return self._stream.feed(chunk)

    def end(self) -> None:
        """Check that the body ends between two blobs.

        Raises:
            FramingError: a blob or its length is cut off.
        """
        self._stream.end()

    def _parse_length(self, head: bytes) -> tuple[str, int]:
        """Return an empty key and the length in a head."""
        length = int.from_bytes(head, "big")
        if length > self._most:
            raise TooLong(length, self._most)
        return "", length
