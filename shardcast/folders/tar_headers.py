"""The bytes of a tar around the files: headers, padding and end, a pure function of the entries.

The format is POSIX ustar, with a pax header only for values beyond ustar's fields; ``docs/protocol.md``,
*Folders*, describes each byte. Owners are 0 without names and the ustar prefix is never used, so the same
tree gives the same bytes with every publisher.
"""

from __future__ import annotations

from zlib import adler32

from shardcast.folders.entries import FolderEntry
from shardcast.folders.table import FolderTable

BLOCK = 512
"""Bytes of a header; a file is padded to a multiple of them."""
END = bytes(2 * BLOCK)
"""The end of a tar."""

_NAME_FIELD = 100
"""Bytes of the fields for a path and a link."""
_MAX_OCTAL = 8**11 - 1
"""The largest number in a field of 12 bytes."""
_TAIL = (b"ustar\x0000" + bytes(64) + b"0000000\0" * 2).ljust(BLOCK - 257, b"\0")
"""The end of each header: the magic word, no names of user and group, no device, no prefix."""
_TAIL_SUM = sum(_TAIL)
_PAX_NAME = b"PaxHeader"
"""The path in each pax header."""


def entry_header(entry: FolderEntry) -> bytes:
    """Return the blocks before an entry's bytes: the header, after a pax header where needed."""
    records = _pax_records(entry)
    size = entry.size if entry.size <= _MAX_OCTAL else 0
    mtime = entry.mtime if 0 <= entry.mtime <= _MAX_OCTAL else 0
    header = plain_header(entry.path, entry.kind, size, entry.mode, mtime, entry.link)
    if not records:
        return header
    pax = _header(_PAX_NAME, ord("x"), len(records), 0o644, 0)
    return pax + records + bytes(padding(len(records))) + header


def plain_header(path: bytes, kind: int, size: int, mode: int, mtime: int, link: bytes = b"") -> bytes:
    """Return the one block before the bytes of an entry without a pax header."""
    return _header(path, ord("0") + kind, size, mode, mtime, link)


def pax_sizes(table: FolderTable) -> dict[int, int]:
    """Return the bytes of pax headers, by the indices of the entries that need one."""
    needed = set(table.odd_paths(_NAME_FIELD))
    needed.update(
        index for index, link in table.links.items() if len(link) > _NAME_FIELD or not link.isascii()
    )
    if max(table.sizes, default=0) > _MAX_OCTAL:
        needed.update(index for index, size in enumerate(table.sizes) if size > _MAX_OCTAL)
    if not 0 <= min(table.mtimes, default=0) <= max(table.mtimes, default=0) <= _MAX_OCTAL:
        needed.update(index for index, time in enumerate(table.mtimes) if not 0 <= time <= _MAX_OCTAL)
    lengths = {index: len(_pax_records(table[index])) for index in needed}
    return {index: BLOCK + length + padding(length) for index, length in lengths.items()}


def padding(size: int) -> int:
    """Return the number of zeros after so many bytes of an entry."""
    return -size % BLOCK


def _fits_ustar(entry: FolderEntry) -> bool:
    """Return whether an entry needs no pax header."""
    return (
        len(entry.path) <= _NAME_FIELD
        and len(entry.link) <= _NAME_FIELD
        and entry.path.isascii()
        and entry.link.isascii()
        and entry.size <= _MAX_OCTAL
        and 0 <= entry.mtime <= _MAX_OCTAL
    )


def _pax_records(entry: FolderEntry) -> bytes:
    """Return the values too large for an entry's header, in this order: charset, path, link, size, mtime."""
    if _fits_ustar(entry):
        return b""
    records = []
    for key, value in ((b"path", entry.path), (b"linkpath", entry.link)):
        if len(value) > _NAME_FIELD or not value.isascii():
            records.append(_record(key, value))
    if not all(map(_is_utf8, (entry.path, entry.link))):
        records.insert(0, _record(b"hdrcharset", b"BINARY"))
    if entry.size > _MAX_OCTAL:
        records.append(_record(b"size", b"%d" % entry.size))
    if not 0 <= entry.mtime <= _MAX_OCTAL:
        records.append(_record(b"mtime", b"%d" % entry.mtime))
    return b"".join(records)


def _record(key: bytes, value: bytes) -> bytes:
    """Return a pax record: the length of the whole record in decimal, a blank, ``key=value``, newline."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _header(path: bytes, flag: int, size: int, mode: int, mtime: int, link: bytes = b"") -> bytes:
    """Return one ustar header; too long a path or link is cut."""
    before = b"%b%07o\x000000000\x000000000\0%011o\0%011o\0" % (
        path[:_NAME_FIELD].ljust(_NAME_FIELD, b"\0"),
        mode,
        size,
        mtime,
    )
    link = link[:_NAME_FIELD].ljust(_NAME_FIELD, b"\0")
    checksum = _sum(before) + 8 * ord(" ") + flag + _sum(link) + _TAIL_SUM
    return b"%b%06o\0 %c%b%b" % (before, checksum, flag, link, _TAIL)


def _sum(data: bytes) -> int:
    """Return the sum of at most 256 bytes.

    The low half of Adler-32 is this sum, modulo 65521, and takes a tenth of the time of ``sum``.
    """
    return (adler32(data) & 0xFFFF) - 1


def _is_utf8(value: bytes) -> bool:
    """Return whether bytes are UTF-8."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
