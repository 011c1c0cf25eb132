"""Coded blobs (zstd, gzip), decoded in bounded memory whatever their bytes expand to; and their digests."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from shardcast.blobs.directory.reading_ahead import read_parts
from shardcast.digest import Buffer, new_hasher

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionObj

HAS_ZSTD = importlib.util.find_spec("zstandard") is not None
"""Whether zstd can be decoded here: part of ``shardcast[store]``."""
CODINGS: tuple[str, ...] = ("zstd", "gzip") if HAS_ZSTD else ("gzip",)
"""The codings with a decoder here, by their names in HTTP."""

SEAL = "blake3"
"""The digest for recognising a verified file: several times as fast as SHA-256, and as sure."""
_OUTPUT = 1 << 20
"""Bytes returned by gzip at a time."""
_ZSTD_INPUT = 1 << 10
"""Bytes fed to zstd at a time; they expand to 32 MiB at most, since a block of 128 KiB takes 4 bytes."""
_ZSTD_WINDOW = 8 << 20
"""The largest window of zstd in HTTP (RFC 9659); the sender decides on its allocation."""


class MalformedCoding(ValueError):
    """Bytes not of their coding, or not whole."""


class Decoder(Protocol):
    """A decoder of one stream of bytes."""

    def decode(self, data: Buffer) -> Iterator[bytes]:
        """Yield the decoded bytes, in parts of bounded size.

        Raises:
            MalformedCoding: the bytes are not of this coding.
        """

    def finish(self) -> None:
        """Check for a whole stream.

        Raises:
            MalformedCoding: the end of the stream is missing.
        """


def decoder(coding: str | None) -> Decoder:
    """Return a decoder; without a coding, one to yield its input."""
    if coding is None:
        return _AsItIs()
    return _Zstd() if coding == "zstd" else _Gzip()


class _AsItIs:
    """A decoder of uncoded bytes."""

    def decode(self, data: Buffer) -> Iterator[bytes]:
        """Yield the bytes."""
        yield bytes(data)

    def finish(self) -> None:
        """Accept any end."""


class _Gzip:
    """A decoder of gzip, several streams in a row included."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)
        self._started = False

    def decode(self, data: Buffer) -> Iterator[bytes]:
        """See ``Decoder``."""
        left = bytes(data)
        while left:
            if self._stream.eof:  # several streams in a row are one (RFC 1952)
                self._stream = zlib.decompressobj(wbits=31)
            self._started = True
            more = True
            while more and not self._stream.eof:  # zlib may hold output back, having taken all its input
                try:
                    part = self._stream.decompress(left, _OUTPUT)
                except zlib.error as error:
                    raise MalformedCoding(f"this can't be decoded as gzip: {error}") from None
                if part:
                    yield part
                left = self._stream.unconsumed_tail
                more = bool(part)
            left = self._stream.unused_data

    def finish(self) -> None:
        """See ``Decoder``."""
        if not (self._started and self._stream.eof):
            raise MalformedCoding("this gzip is truncated")


class _Zstd:
    """A decoder of zstd, several frames in a row included."""

    def __init__(self) -> None:
        import zstandard

        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._error = zstandard.ZstdError
        self._stream: ZstdDecompressionObj | None = None
        self._whole = False

    def decode(self, data: Buffer) -> Iterator[bytes]:
        """See ``Decoder``."""
        view = memoryview(data)
        for start in range(0, len(view), _ZSTD_INPUT):
            left = bytes(view[start : start + _ZSTD_INPUT])
            while left:
                if self._stream is None:
                    self._stream, self._whole = self._decompressor.decompressobj(), False
                try:
                    part = self._stream.decompress(left)
                except self._error as error:
                    raise MalformedCoding(f"this can't be decoded as zstd: {error}") from None
                if part:
                    yield part
                left = b""
                if self._stream.eof:
                    left = self._stream.unused_data
                    self._stream, self._whole = None, True

    def finish(self) -> None:
        """See ``Decoder``."""
        if not self._whole:
            raise MalformedCoding("this zstd is truncated")


class DigestCheck:
    """The digest and the length of a blob, computed from its bytes as they arrive, coded or not.

    Attributes:
        length: decoded bytes so far.
    """

    def __init__(self, algorithm: str, coding: str | None = None, with_seal: bool = False) -> None:
        """Decode ``coding`` and digest by ``algorithm``; with ``with_seal``, ``read`` computes the seal."""
        self._hasher: Any = new_hasher(algorithm)
        self._decoder = decoder(coding) if coding else None
        self._seal = new_hasher(SEAL) if with_seal else None
        self.length = 0

    def update(self, data: Buffer) -> None:
        """Take the next bytes.

        Raises:
            MalformedCoding: they are not of this coding.
        """
        if self._decoder is None:
            self._hasher.update(data)
            self.length += len(data)
            return
        for part in self._decoder.decode(data):
            self._hasher.update(part)
            self.length += len(part)

    def read(self, descriptor: int, position: int, end: int, ahead: bool = False) -> int:
        """Take a file's bytes from ``position`` to ``end``, and return the position reached.

        Returns:
            ``end``, or less where the file is shorter.

        Args:
            descriptor: the file.
            position: the offset of the first byte.
            end: the offset behind the last byte.
            ahead: whether a thread reads the next bytes while these are digested.

        Raises:
            MalformedCoding: the bytes are not of this coding.
            OSError: they can't be read.
        """
        on_read = self._seal.update if self._seal else None
        with closing(read_parts(descriptor, position, end, ahead=ahead, on_read=on_read)) as coming:
            for part in coming:
                self.update(part)
                position += len(part)
        return position

    def finish(self) -> str:
        """Return the digest, in hex.

        Raises:
            MalformedCoding: the end of the coded bytes is missing.
        """
        if self._decoder is not None:
            self._decoder.finish()
        digest: str = self._hasher.hexdigest()
        return digest

    @property
    def computes_seal(self) -> bool:
        """Whether ``read`` computes the seal."""
        return self._seal is not None

    @property
    def seal(self) -> str | None:
        """The digest by ``SEAL`` of a file's own bytes, not decoded; None unless computed."""
        return self._seal.hexdigest() if self._seal else None
