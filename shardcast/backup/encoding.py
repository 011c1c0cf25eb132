"""Encoded chunks, as sent and stored: one byte for the encoding, then the plain or compressed bytes."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from shardcast.backup.ids import MAX_CHUNK
from shardcast.digest import Buffer
from shardcast.errors import IntegrityError, UsageError

try:
    import zstandard
except ImportError:  # the extra "backup" is not installed: chunks are written plain
    zstandard = None  # type: ignore[assignment]

PLAIN, ZSTD = b"\0", b"\1"
_LEVEL = 3
_SAMPLE = 4096
"""Bytes of each of the two samples of a large chunk: its start and its middle."""
_ONE_PIECE = 4 * _SAMPLE
"""Chunks up to this size are their own sample."""
_GAIN = 0.95
"""A chunk or sample is written plain if compression leaves more than this share of its size."""
_TOGETHER = zstandard is not None and "multi_compress_to_buffer" in zstandard.backend_features
_local = threading.local()


def encode_chunk(data: Buffer) -> bytes:
    """Return a chunk encoded: compressed if this saves 5 % or more, else plain; plain without zstandard.

    A large chunk whose samples don't shrink is not tried as a whole.
    """
    if zstandard is not None and _is_compressible(data):
        return _smaller(data, _compressor().compress(data))
    return PLAIN + bytes(data)


def _smaller(data: Buffer, compressed: bytes) -> bytes:
    """Return a chunk encoded: compressed if this saves 5 % or more, else plain."""
    if len(compressed) <= len(data) * _GAIN:
        return ZSTD + compressed
    return PLAIN + bytes(data)


def encode_chunks(chunks: Sequence[Buffer]) -> list[bytes]:
    """Return chunks encoded, in their order.

    Small ones are compressed together, in one call during which other threads run: separate calls would take
    the interpreter lock from the file-reading thread, thousands of times a second.
    """
    small = [data for data in chunks if 0 < len(data) <= _ONE_PIECE]
    if len(small) < 2 or not _TOGETHER:
        return [encode_chunk(data) for data in chunks]
    compressed = iter(_compressor().multi_compress_to_buffer(small, threads=0))  # in this thread
    return [
        _smaller(data, next(compressed).tobytes()) if 0 < len(data) <= _ONE_PIECE else encode_chunk(data)
        for data in chunks
    ]


def check_decoder() -> None:
    """Check that compressed chunks can be decoded here.

    Raises:
        UsageError: the package zstandard is not installed.
    """
    if zstandard is None:
        raise UsageError(
            "chunks compressed with zstd can't be read; install the package zstandard "
            "(the extra shardcast[backup])"
        )


def decode_chunk(encoded: Buffer) -> bytes:
    """Return the plain bytes of an encoded chunk, at most 8 MiB of them.

    Raises:
        IntegrityError: the encoding is unknown, the bytes are damaged or would be more than a chunk has.
        UsageError: the chunk is compressed and the package zstandard is not installed.
    """
    encoding, body = bytes(encoded[:1]), encoded[1:]
    if encoding == PLAIN:
        if len(body) > MAX_CHUNK:
            raise IntegrityError(f"a chunk of {len(body)} bytes; at most {MAX_CHUNK} are allowed")
        return bytes(body)
    if encoding != ZSTD:
        raise IntegrityError(f"a chunk in an unknown encoding ({encoding.hex() or 'none'})")
    check_decoder()
    return _decompress(body)


def _decompress(body: Buffer) -> bytes:
    """Return the bytes of one zstd frame with a size within bounds in its header.

    Raises:
        IntegrityError: the body is no such frame.
    """
    try:
        size = zstandard.frame_content_size(body)
        if not 0 <= size <= MAX_CHUNK:
            raise IntegrityError(f"a compressed chunk of {size} bytes; at most {MAX_CHUNK} are allowed")
        data = _decompressor().decompress(body, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"a compressed chunk is damaged: {error}") from None
    if len(data) != size:
        raise IntegrityError(f"a compressed chunk has {len(data)} bytes instead of {size}")
    return data


def _is_compressible(data: Buffer) -> bool:
    """Return whether to try compression: the samples of a large chunk shrink; a small one is not empty."""
    if len(data) <= _ONE_PIECE:
        return len(data) > 0
    view, middle = memoryview(data), len(data) // 2
    sample = b"".join((view[:_SAMPLE], view[middle : middle + _SAMPLE]))
    return len(_compressor().compress(sample)) <= len(sample) * _GAIN


def _compressor() -> zstandard.ZstdCompressor:
    """Return this thread's compressor: one object is for one thread at a time."""
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
    found: zstandard.ZstdCompressor = _local.compressor
    return found


def _decompressor() -> zstandard.ZstdDecompressor:
    """Return this thread's decompressor."""
    if not hasattr(_local, "decompressor"):
        _local.decompressor = zstandard.ZstdDecompressor()
    found: zstandard.ZstdDecompressor = _local.decompressor
    return found
