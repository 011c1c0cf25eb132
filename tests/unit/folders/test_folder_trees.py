"""The folders that tests write to the disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings

from tests.support.folder_trees import FolderTree, folder_trees, read_tree


@settings(deadline=None, max_examples=30)
@given(folder_trees())
def test_written_folder_is_read_as_it_was_drawn(tree: FolderTree) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert read_tree(tree.write(Path(folder) / "tree")) == tree.nodes()
