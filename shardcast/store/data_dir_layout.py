"""The layout of a data directory: the place of each file and folder.

::

    data_dir/
      distribution.txt            the complete versions
      v1/manifest.jsonl           header line, one line a shard, closing line
      v1/shard_001.bin  …         plain files
      v2/payload                  the whole payload in one file, if published without a copy
      .shardcast/                 the node's own: lock, socket, socket-at, origin, line, next, keep,
                                  max_bytes, verified/, linked/, pinned/, retired/, lines/, uploads/,
                                  sources/, changing, spare, swarm-key
"""

from __future__ import annotations

from pathlib import Path

from shardcast.constants import DISTRIBUTION_FILE
from shardcast.protocol.wire import version_name, version_number
from shardcast.store.version_place import VersionPlace


def own_folder(root: Path) -> Path:
    """Return the folder with the node's own files in a data directory."""
    return root / ".shardcast"


class DataDirLayout:
    """The paths in a data directory; nothing here reads or writes a file's bytes.

    Attributes:
        root: the directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def own(self) -> Path:
        """The node's own folder."""
        return own_folder(self.root)

    @property
    def distribution(self) -> Path:
        """The distribution list."""
        return self.root / DISTRIBUTION_FILE

    @property
    def verified(self) -> Path:
        """Records of the verified shards of versions, with their files' state then."""
        return self.own / "verified"

    @property
    def linked(self) -> Path:
        """Records of the state of payloads when they were published without a copy."""
        return self.own / "linked"

    @property
    def pinned(self) -> Path:
        """An empty file for each pinned version."""
        return self.own / "pinned"

    @property
    def line(self) -> Path:
        """The record of the current line of versions."""
        return self.own / "line"

    @property
    def lines(self) -> Path:
        """The versions of other lines, in a folder for each line."""
        return self.own / "lines"

    @property
    def uploads(self) -> Path:
        """Payloads from elsewhere, in a folder for each upload."""
        return self.own / "uploads"

    @property
    def sources(self) -> Path:
        """Records of the folders published here: the identities of their files."""
        return self.own / "sources"

    @property
    def changing(self) -> Path:
        """The plan of a change of line, until carried out."""
        return self.own / "changing"

    @property
    def swarm_key(self) -> Path:
        """The seed of the node's key for tickets."""
        return self.own / "swarm-key"

    @property
    def spare(self) -> Path:
        """Blocks for the node's own small files where the disk is full."""
        return self.own / "spare"

    @property
    def retired(self) -> Path:
        """Folders in removal."""
        return self.own / "retired"

    def folder(self, number: int) -> Path:
        """Return the folder of a version of the current line."""
        return self.root / version_name(number)

    def place(self, number: int) -> VersionPlace:
        """Return where a version of the current line lies."""
        version = version_name(number)
        return VersionPlace(
            self.root / version, self.verified / version, self.linked / version, self.pinned / version
        )

    def manifest(self, number: int) -> Path:
        """Return the file of a version's manifest."""
        return self.place(number).manifest

    def shard(self, number: int, shard: int) -> Path:
        """Return the file of a shard; names from 0.3.x have five digits."""
        return self.place(number).shard(shard)

    def numbers(self) -> list[int]:
        """Return the versions with a folder, oldest first; blocks on the disk."""
        found = (version_number(entry.name) for entry in self.root.iterdir() if entry.is_dir())
        return sorted(number for number in found if number is not None)
