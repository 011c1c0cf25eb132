"""Choosing a snapshot by id, by the first characters of an id, or as the latest of a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence

from shardcast.backup.client.answers import ListedSnapshot
from shardcast.backup.client.snapshot_tree import shown
from shardcast.errors import UsageError, VersionNotOffered

LATEST = "latest"
_SHORTEST = 4
"""Minimum characters of an abbreviated id."""


def choose_snapshot(
    snapshots: Sequence[ListedSnapshot], text: str, folder: bytes | None = None
) -> ListedSnapshot:
    """Return the snapshot meant by a text.

    Args:
        snapshots: those of the client, oldest first.
        text: an id, its first four characters or more, or ``latest``.
        folder: folder of ``latest``; None if all snapshots are of one folder.

    Raises:
        UsageError: the text fits several snapshots, or has the wrong form.
        VersionNotOffered: no snapshot fits.
    """
    if text == LATEST:
        return _latest(snapshots, folder)
    if len(text) < _SHORTEST or not all(char in "0123456789abcdef" for char in text):
        raise UsageError(
            f"{text!r} is no snapshot; write its id, at least {_SHORTEST} characters of it, or {LATEST}"
        )
    found = [one for one in snapshots if one.id.startswith(text)]
    exact = [one for one in found if one.id == text]
    if len(found) > 1 and not exact:
        raise UsageError(f"{len(found)} snapshots have ids that begin with {text}; write more characters")
    if not found:
        raise VersionNotOffered(f"there is no snapshot {text}; `shardcast backup snapshots` lists them")
    return (exact or found)[0]


def _latest(snapshots: Sequence[ListedSnapshot], folder: bytes | None) -> ListedSnapshot:
    """Return the newest snapshot of a folder.

    Raises:
        UsageError: no folder is named, and there are several.
        VersionNotOffered: there is none.
    """
    folders = sorted({one.path for one in snapshots})
    if folder is None and len(folders) > 1:
        named = ", ".join(shown(path) for path in folders[:5])
        raise UsageError(f"there are snapshots of {len(folders)} folders ({named}); name one by --dir")
    wanted = [one for one in snapshots if folder is None or one.path == folder]
    if not wanted:
        of = f" of {shown(folder)}" if folder is not None else ""
        hint = f"; there are some of {', '.join(map(shown, folders[:5]))}" if folders else ""
        raise VersionNotOffered(f"there is no snapshot{of} yet{hint}")
    return max(wanted, key=lambda one: one.arrived)


def snapshots_of(snapshots: Sequence[ListedSnapshot], folder: bytes | None) -> list[ListedSnapshot]:
    """Return the snapshots of a folder and of folders below, oldest first; all snapshots for None."""
    if folder is None:
        return list(snapshots)
    below = os.path.join(folder, b"")
    return [one for one in snapshots if one.path == folder or one.path.startswith(below)]
