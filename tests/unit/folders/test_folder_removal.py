"""A folder whose subfolders let nothing be written is removed all the same."""

from __future__ import annotations

import stat
from pathlib import Path

from shardcast.directories import remove_tree
from tests.support.other_user import as_nobody, place_for_all


def make_and_remove(top: Path) -> bool:
    """Make a folder that nothing may be removed from, and remove it; return whether nothing is left."""
    (top / "v1" / "a" / "b").mkdir(parents=True)
    (top / "v1" / "a" / "b" / "file").touch()
    (top / "v1" / "outside").symlink_to(top / "kept")
    for folder in ("v1/a/b", "v1/a", "v1"):
        (top / folder).chmod(0o500)
    return remove_tree(top / "v1")


def test_folder_without_write_permissions_is_removed_and_no_link_followed() -> None:
    with place_for_all() as top:
        (top / "kept").mkdir(0o500)
        assert as_nobody(lambda: make_and_remove(top))
        assert not (top / "v1").exists()
        assert stat.S_IMODE((top / "kept").stat().st_mode) == 0o500
