"""Bytes that are kept coded (zstd, gzip): decoded a little at a time, whatever they were made to become."""

from __future__ import annotations

import importlib.util
import zlib
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Protocol

from shardcast.blobs.directory.reading_ahead import parts
from shardcast.digest import Buffer, new_hasher

if TYPE_CHECKING:
    from zstandard import ZstdDecompressionObj

HAS_ZSTD = importlib.util.find_spec("zstandard") is not None
"""Whether zstd can be decoded here: it comes with ``shardcast[store]``."""
CODINGS: tuple[str, ...] = ("zstd", "gzip") if HAS_ZSTD else ("gzip",)
"""The codings that blobs can have here, by their names in HTTP."""

SEAL = "blake3"
"""By which a file that was verified is known again: several times as fast as SHA-256, and as sure."""
_OUTPUT = 1 << 20
_ZSTD_INPUT = 1 << 10
"""Bytes handed to zstd at a time: they can become 32 MiB at most (a block of 128 KiB takes 4 bytes)."""
_ZSTD_WINDOW = 8 << 20
"""The largest window that zstd may have in HTTP (RFC 9659); it is allocated as the sender says."""


class Malformed(ValueError):
    """These bytes are not of the coding that they are said to have, or not whole."""


class Decoder(Protocol):
    """Decodes what it is handed."""

    def decode(self, data: Buffer) -> Iterator[bytes]:
        """What these bytes become, in parts of bounded size.

        Raises:
            Malformed: they are not of this coding.
        """

    def finish(self) -> None:
        """
        Raises:
            Malformed: something is missing at the end.
        """


def decoder(coding: str | None) -> Decoder:
    """A decoder; without a coding, one that hands on what it gets."""
    if coding is None:
        return _AsItIs()
    return _Zstd() if coding == "zstd" else _Gzip()


class _AsItIs:
    def decode(self, data: Buffer) -> Iterator[bytes]:
        yield bytes(data)

    def finish(self) -> None:
        pass


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)
        self._begun = False

    def decode(self, data: Buffer) -> Iterator[bytes]:
        left = bytes(data)
        while left:
            if self._stream.eof:  # several streams, one after another, are one
                self._stream = zlib.decompressobj(wbits=31)
            self._begun = True
            going_on = True
            while going_on and not self._stream.eof:  # it may hold some back, having taken all its input
                try:
                    part = self._stream.decompress(left, _OUTPUT)
                except zlib.error as error:
                    raise Malformed(f"this is no gzip: {error}") from None
                if part:
                    yield part
                left = self._stream.unconsumed_tail
                going_on = bool(part)
            left = self._stream.unused_data

    def finish(self) -> None:
        if not (self._begun and self._stream.eof):
            raise Malformed("this gzip is cut short")


class _Zstd:
    def __init__(self) -> None:
        import zstandard

        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._error = zstandard.ZstdError
        self._stream: ZstdDecompressionObj | None = None
        self._whole = False

    def decode(self, data: Buffer) -> Iterator[bytes]:
        view = memoryview(data)
        for start in range(0, len(view), _ZSTD_INPUT):
            left = bytes(view[start : start + _ZSTD_INPUT])
            while left:
                if self._stream is None:
                    self._stream, self._whole = self._decompressor.decompressobj(), False
                try:
                    part = self._stream.decompress(left)
                except self._error as error:
                    raise Malformed(f"this is no zstd: {error}") from None
                if part:
                    yield part
                left = b""
                if self._stream.eof:
                    left = self._stream.unused_data
                    self._stream, self._whole = None, True

    def finish(self) -> None:
        if not self._whole:
            raise Malformed("this zstd is cut short")


class Check:
    """The digest and the length of what bytes, as they come, decode to.

    Attributes:
        length: bytes that it was so far, decoded.
    """

    def __init__(self, algorithm: str, coding: str | None = None, sealing: bool = False) -> None:
        """``sealing``: whether what ``read`` takes is sealed as well; see ``seal``."""
        self._hasher: Any = new_hasher(algorithm)
        self._decoder = decoder(coding) if coding else None
        self._seal = new_hasher(SEAL) if sealing else None
        self.length = 0

    def update(self, data: Buffer) -> None:
        """
        Raises:
            Malformed: they are not of this coding.
        """
        if self._decoder is None:
            self._hasher.update(data)
            self.length += len(data)
            return
        for part in self._decoder.decode(data):
            self._hasher.update(part)
            self.length += len(part)

    def read(self, descriptor: int, position: int, end: int, ahead: bool = False) -> int:
        """Take a file's bytes from ``position`` to ``end``, reading ``ahead`` or not; where it got to, less
        where the file ends.

        Raises:
            Malformed: they are not of this coding.
            OSError: they can't be read.
        """
        beside = self._seal.update if self._seal else None
        with closing(parts(descriptor, position, end, ahead=ahead, beside=beside)) as coming:
            for part in coming:
                self.update(part)
                position += len(part)
        return position

    def finish(self) -> str:
        """The digest, in hex.

        Raises:
            Malformed: something is missing at the end.
        """
        if self._decoder is not None:
            self._decoder.finish()
        digest: str = self._hasher.hexdigest()
        return digest

    @property
    def is_sealing(self) -> bool:
        """Whether it seals what it reads."""
        return self._seal is not None

    @property
    def seal(self) -> str | None:
        """The digest by ``SEAL`` of a file's own bytes, coded as they are; None where none was wanted."""
        return self._seal.hexdigest() if self._seal else None
