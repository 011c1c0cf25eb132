"""Lists of a folder's entries, made by hypothesis: odd names, links of both kinds, extreme numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable

from hypothesis import strategies as st

from shardcast.folders.entries import EntryKind, FolderEntry
from shardcast.folders.table import FolderTable

names = st.one_of(
    st.text("abc-.", min_size=1, max_size=3).map(str.encode),
    st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_")),
    st.sampled_from(
        [b"x" * 255, b"y" * 101, "ü".encode(), b"\xff\xfe", b"new\nline", b" ", b"-rf", b"a" * 98]
    ),
).filter(lambda name: name not in (b".", b".."))
times = st.one_of(st.integers(0, 2_000_000_000), st.sampled_from([-1, 8**11 - 1, 8**11]))
modes = st.integers(0, 0o777).map(lambda mode: mode if os.geteuid() == 0 else mode | 0o500)
"""Only root can compare what its owner may not read."""


def table_of_files(names: Iterable[str], size: int = 5) -> FolderTable:
    """Return a table of files of ``size`` bytes with these names."""
    table = FolderTable()
    for name in sorted(names):
        table.append(FolderEntry(name.encode(), EntryKind.FILE, size, 0o644, 1_763_780_000))
    return table


@st.composite
def folder_tables(draw: st.DrawFn, max_size: int = 3000, huge: bool = False) -> FolderTable:
    """Draw a table whose files have up to ``max_size`` bytes; with ``huge`` some have more than 8 GiB."""
    sizes = st.integers(0, max_size)
    if huge:
        sizes = st.one_of(sizes, st.sampled_from([8**11 - 1, 8**11, 2**40]))
    entries: dict[bytes, FolderEntry] = {}
    folders = [b""]
    for _ in range(draw(st.integers(0, 12))):
        path = draw(st.sampled_from(folders)) + draw(names)
        if path in entries or path + b"/" in entries or len(path) > 1000:
            continue
        kind = draw(st.sampled_from(["file", "file", "folder", "symlink", "link"]))
        files = [found for found in entries.values() if found.kind is EntryKind.FILE and found.path < path]
        if kind == "folder":
            entries[path + b"/"] = FolderEntry(path + b"/", EntryKind.FOLDER, mode=draw(modes))
            folders.append(path + b"/")
        elif kind == "symlink":
            up = b"../" * draw(st.integers(0, path.count(b"/")))
            entries[path] = FolderEntry(path, EntryKind.SYMLINK, 0, 0o777, draw(times), up + draw(names))
        elif kind == "link" and files:
            first = draw(st.sampled_from(files))
            entries[path] = FolderEntry(path, EntryKind.HARD_LINK, 0, first.mode, first.mtime, first.path)
        else:
            entries[path] = FolderEntry(path, EntryKind.FILE, draw(sizes), draw(modes), draw(times))
    table = FolderTable()
    for _, entry in sorted(entries.items()):
        table.append(entry)
    return table
