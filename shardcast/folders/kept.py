"""The files beside a downloaded folder: the manifest of its version, and the states of its files.

::

    v3/              the folder
    .v3.manifest     the version's manifest
    .v3.files        inode, size, mtime and ctime of each file when the folder got its name (``file_states``)

Both are written before the folder gets its name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import chain
from pathlib import Path

from shardcast.directories import remove_tree
from shardcast.errors import LocalDiskError, UsageError
from shardcast.file_identity import FileIdentity
from shardcast.filesystem import replace, replace_by_parts
from shardcast.folders.contents import folder_layout
from shardcast.folders.file_states import FileStates, open_trusted, read_patterns, renewed_states
from shardcast.folders.layout import FolderLayout
from shardcast.folders.pieces import FolderPieces
from shardcast.folders.selection import FolderSelection
from shardcast.folders.table import FolderTable
from shardcast.folders.tree import OpenTree
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import MAX_MANIFEST, ManifestError, parse
from shardcast.store.link_changes import LinkChange, unlink
from shardcast.temporary_files import temporary_name

MANIFEST = ".manifest"
FILES = ".files"


def kept_manifest(folder: Path) -> Path:
    """Return the path of the manifest beside a downloaded folder."""
    return folder.with_name(f".{folder.name}{MANIFEST}")


def kept_states(folder: Path) -> Path:
    """Return the path of the record of a downloaded folder's files."""
    return folder.with_name(f".{folder.name}{FILES}")


def keep(folder: Path, manifest: Manifest, states: FileStates, selection: FolderSelection) -> None:
    """Write the records of a folder for later runs.

    Raises:
        LocalDiskError: the disk failed.
    """
    replace(kept_manifest(folder), manifest.raw)
    keep_states(folder, manifest, states, selection)


def keep_states(folder: Path, manifest: Manifest, states: FileStates, selection: FolderSelection) -> None:
    """Write the states of a folder's files, and the patterns of the wanted ones.

    Raises:
        LocalDiskError: the disk failed.
    """
    identity = sha256(manifest.raw).hexdigest()
    replace_by_parts(kept_states(folder), states.encode(identity, selection.only, selection.exclude))


def kept_selection(folder: Path, manifest: Manifest, table: FolderTable) -> FolderSelection:
    """Return the entries wanted when a folder was downloaded; all entries if unknown."""
    only, exclude = read_patterns(kept_states(folder), sha256(manifest.raw).hexdigest())
    try:
        return FolderSelection(table, only, exclude)
    except UsageError:  # the record was damaged
        return FolderSelection(table)


def read_kept(folder: Path) -> Manifest | None:
    """Return the manifest beside a downloaded folder; None without a readable one."""
    try:
        with open_trusted(kept_manifest(folder)) as file:
            return parse(file.read(MAX_MANIFEST + 1))
    except (OSError, ManifestError):
        return None


def is_unchanged(folder: Path, manifest: Manifest) -> bool:
    """Return whether a folder belongs to a manifest and is untouched since it got its name."""
    return unchanged_folder(folder, manifest) is not None


def unchanged_folder(folder: Path, manifest: Manifest) -> tuple[FolderLayout, FileStates] | None:
    """Return the entries and file states of a folder untouched since it got its name.

    Only the states of the files are compared, no bytes.

    Returns:
        None if the folder is not the manifest's, or an entry was touched.
    """
    try:
        facts, identity = manifest.header.folder, sha256(manifest.raw).hexdigest()
        if facts is None or not kept_states(folder).exists():
            return None
        layout = folder_layout(manifest) if facts.entries is None else None
        entries = len(layout.table) if layout else facts.entries or 0
        states = FileStates.load(kept_states(folder), identity, entries)
        layout = layout or (folder_layout(manifest) if states is not None else None)
        if states is None or layout is None:
            return None
        with OpenTree.at(folder) as tree:
            return (layout, states) if _looks_unchanged(tree, layout.table, states) else None
    except (OSError, ManifestError):
        return None


def unchanged_pieces(folder: Path, manifest: Manifest) -> FolderPieces | None:
    """Open an untouched folder, to give its pieces to neighbours; None for a touched or unreadable one."""
    found = unchanged_folder(folder, manifest)
    if found is None:
        return None
    layout, states = found
    try:
        with OpenTree.at(folder) as tree:
            pieces = FolderPieces(tree.root, layout)
    except OSError:
        return None
    pieces.mark_named(folder, states, KeptStates(folder, manifest, len(layout.table)).reload)
    return pieces


class KeptStates:
    """The record of a folder's files, read again after each renewal."""

    def __init__(self, folder: Path, manifest: Manifest, entries: int) -> None:
        """Take the present record as known; blocks on the disk."""
        self._record, self._entries = kept_states(folder), entries
        self._manifest = sha256(manifest.raw).hexdigest()
        self._known = FileIdentity.at(self._record)

    def reload(self) -> FileStates | None:
        """Return the states of the files where the record was replaced since the last call; None else."""
        now = FileIdentity.at(self._record)
        if now == self._known:
            return None
        self._known = now
        return FileStates.load(self._record, self._manifest, self._entries)


def _looks_unchanged(tree: OpenTree, table: FolderTable, states: FileStates) -> bool:
    """Return whether all entries look as they did, and there are no others.

    Raises:
        OSError: a folder can't be read.
    """
    counts = table.counts()
    for path in chain([b""], table.folders()):
        if len(os.listdir(tree.folder(path))) != counts.get(path, 0):
            return False
    return states.is_unchanged(tree, table)


def remove_kept(folder: Path) -> None:
    """Remove a downloaded folder and its records; programs with open files of the folder read on.

    Files shared with other downloads beside the folder (``--link``) lose one name; the records of those
    downloads are renewed.

    Raises:
        OSError: the folder can't be removed.
    """
    removed = temporary_name(folder)
    folder.rename(removed)  # at once, so that nobody sees a part of it under its name
    for kept in (kept_manifest(folder), kept_states(folder)):
        kept.unlink(missing_ok=True)
    changes: list[LinkChange] = []
    for file in _linked_files(removed):
        with suppress(OSError):  # its folder may not be written to, which ``remove_tree`` can change
            changes += filter(None, [unlink(file)])
    remove_tree(removed)
    if changes:
        _renew_beside(folder.parent, changes)


def _linked_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder with further names; skip unreadable subfolders."""
    for above, _, names in os.walk(folder):
        for name in names:
            file = Path(above, name)
            with suppress(OSError):
                found = file.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
                    yield file


def _renew_beside(outputs: Path, changes: Sequence[LinkChange]) -> None:
    """Renew the records of all downloaded folders in a folder after files lost a name.

    If a record can't be renewed, a later run has to read the files again.
    """
    for record in outputs.glob(f".v*{FILES}"):
        with suppress(OSError, LocalDiskError):
            with open_trusted(record) as file:
                renewed = renewed_states(file.read(), changes)
            if renewed:
                replace(record, renewed)
