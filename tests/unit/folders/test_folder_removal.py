"""A folder whose subfolders let nothing be written is removed all the same."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from shardcast.directories import remove_tree

NOBODY = 65534


def make_and_remove(top: Path) -> bool:
    """Make a folder that nothing may be removed from, and remove it; return whether nothing is left."""
    (top / "v1" / "a" / "b").mkdir(parents=True)
    (top / "v1" / "a" / "b" / "file").touch()
    (top / "v1" / "outside").symlink_to(top / "kept")
    for folder in ("v1/a/b", "v1/a", "v1"):
        (top / folder).chmod(0o500)
    return remove_tree(top / "v1")


def test_folder_without_write_permissions_is_removed_and_no_link_followed() -> None:
    with tempfile.TemporaryDirectory() as place:
        top = Path(place)
        (top / "kept").mkdir(0o500)
        top.chmod(0o777)
        child = os.fork()
        if not child:  # root may remove anything, so it is another user's
            done = 1
            try:
                if os.geteuid() == 0:
                    os.setuid(NOBODY)
                done = 0 if make_and_remove(top) else 2
            finally:
                os._exit(done)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert not (top / "v1").exists()
        assert stat.S_IMODE((top / "kept").stat().st_mode) == 0o500
