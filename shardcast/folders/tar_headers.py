"""The bytes of a tar around the files: headers, padding and end, a pure function of the entries.

The format is POSIX ustar, with a pax header only where an entry does not fit it; ``docs/protocol.md``,
*Folders*, describes each byte. Owners are 0 without names and the ustar prefix is never used, so that the
same tree gives the same bytes, whoever publishes it.
"""

from __future__ import annotations

from shardcast.folders.entries import FolderEntry

BLOCK = 512
"""Bytes of a header; a file is padded to a multiple of them."""
END = bytes(2 * BLOCK)
"""The end of a tar."""

_NAME_FIELD = 100
"""Bytes of the fields for a path and a link."""
_MAX_OCTAL = 8**11 - 1
"""The largest number that a field of 12 bytes holds."""
_TAIL = (b"ustar\x0000" + bytes(64) + b"0000000\0" * 2).ljust(BLOCK - 257, b"\0")
"""The end of each header: the magic word, no names of user and group, no device, no prefix."""
_TAIL_SUM = sum(_TAIL)
_PAX_NAME = b"PaxHeader"
"""The path that each pax header has."""


def entry_header(entry: FolderEntry) -> bytes:
    """Return the blocks before an entry's bytes: its header, behind a pax header where it needs one."""
    records = _pax_records(entry)
    fits = 0 <= entry.mtime <= _MAX_OCTAL
    header = _header(
        entry.path,
        f"{entry.kind:d}".encode(),
        size=entry.size if entry.size <= _MAX_OCTAL else 0,
        mode=entry.mode,
        mtime=entry.mtime if fits else 0,
        link=entry.link,
    )
    if not records:
        return header
    pax = _header(_PAX_NAME, b"x", size=len(records), mode=0o644, mtime=0)
    return pax + records + bytes(padding(len(records))) + header


def header_size(entry: FolderEntry) -> int:
    """Return the number of bytes of ``entry_header``."""
    if _fits_ustar(entry):
        return BLOCK
    records = len(_pax_records(entry))
    return 2 * BLOCK + records + padding(records)


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
    """Return what does not fit an entry's header, in this order: charset, path, link, size, mtime."""
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
    """Return a pax record: the length of all of it in decimal, a blank, ``key=value``, newline."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _header(path: bytes, flag: bytes, *, size: int, mode: int, mtime: int, link: bytes = b"") -> bytes:
    """Return one ustar header; a path or link that is too long is cut."""
    before = b"%b%07o\x000000000\x000000000\0%011o\0%011o\0" % (
        path[:_NAME_FIELD].ljust(_NAME_FIELD, b"\0"),
        mode,
        size,
        mtime,
    )
    link = link[:_NAME_FIELD]
    checksum = sum(before) + 8 * ord(" ") + ord(flag) + sum(link) + _TAIL_SUM
    return b"%b%06o\0 %b%b%b" % (before, checksum, flag, link.ljust(_NAME_FIELD, b"\0"), _TAIL)


def _is_utf8(value: bytes) -> bool:
    """Return whether bytes are UTF-8."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
