"""Restores of trees that are saved in memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from shardcast.backup.attributes import AttributeRights
from shardcast.backup.client.restore_entries import RestoreSettings
from shardcast.backup.client.restore_places import RestorePlaces
from shardcast.backup.client.restore_report import RestoreReport
from shardcast.backup.client.restore_selection import RestoreSelection
from shardcast.backup.client.restoring import Restore
from shardcast.backup.client.snapshot_tree import SnapshotTree
from tests.support.saved_trees import SavedTree

IS_ROOT = os.geteuid() == 0


class Restored:
    """A restore that ran.

    Attributes:
        report: its counts.
        told: what was said of paths.
    """

    def __init__(self, saved_tree: SavedTree, folder: Path, **options: object) -> None:
        self.told: dict[str, str] = {}
        self.report = RestoreReport(self.told.__setitem__)
        self.shown: list[tuple[str, bytes]] = []
        tree = SnapshotTree(saved_tree.reader, saved_tree.root, options.pop("snapshot", None))  # type: ignore[arg-type]
        include: Sequence[str] = options.pop("include", ())  # type: ignore[assignment]
        privileged = bool(options.pop("privileged", True))
        exclude: Sequence[str] = options.pop("exclude", ())  # type: ignore[assignment]
        how = RestoreSettings(
            RestoreSelection(include, exclude),
            rights=AttributeRights(owners=IS_ROOT, privileged=privileged),
            show=lambda word, path: self.shown.append((word, path)),
            **options,  # type: ignore[arg-type]
        )
        fresh = not folder.exists()
        if fresh:
            folder.mkdir()
        root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        places = RestorePlaces(root)
        try:
            Restore(tree, saved_tree.reader, places, how, self.report).run(fresh=fresh, ours=fresh)
        finally:
            places.close()
            os.close(root)

    @property
    def counts(self) -> dict[str, int]:
        """The counts that are not zero."""
        return {name: count for name, count in vars(self.report.counts).items() if count}
