"""What a kill leaves of a small file that is replaced goes with the next one who works there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shardcast.blobs.directory.layout import OWN_FOLDER, PREFIX, Folder
from shardcast.blobs.directory.quarantine import Quarantine
from shardcast.blobs.maintenance.gc import GarbageCollection
from shardcast.blobs.maintenance.gc_policy import Rules
from shardcast.blobs.server.status_file import StatusFile
from shardcast.nodes.output_names import LATEST_LINK, LINES_FILE, UNDER_WAY_LINK
from shardcast.nodes.outputs import OutputFolder
from shardcast.temporary_files import temporary_name


def collect(root: Path) -> None:
    for _ in GarbageCollection(
        Folder(str(root), PREFIX), frozenset(), Rules(None, 0), now=0, delete=True
    ).run():
        pass


def look_into_quarantine(root: Path) -> None:
    Quarantine(Folder(str(root), PREFIX)).finish_interrupted()


WRITERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "latest": (LATEST_LINK, lambda root: OutputFolder(root).tidy()),
    "under way": (UNDER_WAY_LINK, lambda root: OutputFolder(root).tidy()),
    "lines": (LINES_FILE, lambda root: OutputFolder(root).tidy()),
    "record": (".download_v3.bin.record", lambda root: OutputFolder(root).tidy()),
    "status": ("status.json", lambda root: StatusFile(root / "status.json", {}).report_running(8000)),
    "marks": (f"{OWN_FOLDER}/gc/marks", collect),
    "roots": (f"{OWN_FOLDER}/gc/roots.json", collect),
    "quarantine": (f"{OWN_FOLDER}/quarantine/{'ab' * 32}-5c01d2e7.json", look_into_quarantine),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("link", [False, True])
def test_only_temporary_file_left_by_kill_is_removed(writer: str, link: bool, tmp_path: Path) -> None:
    name, work = WRITERS[writer]
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    left, foreign = temporary_name(file), file.with_name("notes.txt")
    if link:
        left.symlink_to("download_v3.bin")
    else:
        left.write_bytes(b"half of it")
    foreign.write_bytes(b"somebody else's")
    work(tmp_path)
    assert not left.is_symlink() and not left.exists()
    assert foreign.read_bytes() == b"somebody else's"
