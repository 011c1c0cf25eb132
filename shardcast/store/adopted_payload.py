"""The payload of a version that is published without a copy: a clone, or a hard link."""

from __future__ import annotations

from pathlib import Path

from shardcast.errors import PayloadChanged
from shardcast.file_identity import FileIdentity
from shardcast.filesystem import replace
from shardcast.open_files import sync_file
from shardcast.store.disk_usage import DiskUsage
from shardcast.store.version_place import VersionPlace


class AdoptedPayload:
    """The whole payload in a version's folder, shared with the publisher's file.

    Attributes:
        present: whether the version's shards are parts of it. Set before the manifest has its first line.
        identity: the file when it was hashed, by its open descriptor; None before.
    """

    def __init__(self, place: VersionPlace, usage: DiskUsage) -> None:
        """Adopt nothing yet."""
        self.present = False
        self.identity: FileIdentity | None = None
        self._place = place
        self._usage = usage

    @property
    def path(self) -> Path:
        """Where the payload lies."""
        return self._place.payload

    def adopt(self, payload: Path) -> bool:
        """Clone a payload where the file system can, else hard-link it; return False where neither can be.

        Of a symbolic link the file at its end is adopted.

        Raises:
            OSError: the payload can't be read.
        """
        self.present = self._place.adopt(payload)
        if self.present:
            self._usage.add(self._place.folder, self.path.stat())
        return self.present

    def commit(self) -> None:
        """Make the payload durable, and record its identity, by which later starts know it again.

        Raises:
            PayloadChanged: it was written to or replaced since it was hashed.
            OSError: the disk failed.
        """
        sync_file(self.path)  # the publisher may not have synced it, and its identity vouches for it now
        identity = FileIdentity.from_stat(self.path.stat()).recorded
        if identity != self.identity:
            raise PayloadChanged(f"{self.path} is not the file any more that was hashed")
        replace(self._place.linked, identity.text.encode())
