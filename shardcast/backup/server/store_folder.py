"""The folder of a backup server: its files and its locks.

::

    STORE_DIR/
      backup.sqlite3      accounts, invitations, snapshots, where each chunk lies, the log
      packs/ab/ab3f…      packs under their SHA-256, as in any directory of blobs; served by this server only
      admin.key           the key for deleting under --append-only
      .shardcast/lock     held by the running server: its process id
      .shardcast/prune    locked by the one prune at a time
      .shardcast/spare    blocks for the database on a full disk
"""

from __future__ import annotations

import base64
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path

from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.private_mark import mark_private
from shardcast.directories import make_folder
from shardcast.disk_errors import disk_errors
from shardcast.errors import UsageError
from shardcast.filesystem import replace
from shardcast.store.data_dir_layout import own_folder
from shardcast.store.directory_lock import DirectoryLock

ROLE = "backup server"
"""The role in the lock file of a running server."""
_PRIVATE_FOLDER = 0o700
_PRIVATE_FILE = 0o600
_MAX_ADMIN_KEY = 1000
"""Maximum bytes read as admin key."""


@dataclass(frozen=True)
class StoreFolder:
    """The folder of a backup server.

    Attributes:
        root: the folder's path.
    """

    root: Path

    @property
    def database(self) -> Path:
        """The database."""
        return self.root / "backup.sqlite3"

    @property
    def packs(self) -> Path:
        """The directory of packs."""
        return self.root / "packs"

    @property
    def admin_key(self) -> Path:
        """The file with the key for deleting under ``--append-only``."""
        return self.root / "admin.key"

    @property
    def lock_file(self) -> Path:
        """The lock of the running server."""
        return own_folder(self.root) / "lock"

    @property
    def prune_lock(self) -> Path:
        """The lock of the one prune at a time."""
        return own_folder(self.root) / "prune"

    @property
    def spare(self) -> Path:
        """The file of blocks kept for the database, released on a full disk."""
        return own_folder(self.root) / "spare"

    def make(self) -> None:
        """Make the folder, its ``.shardcast`` folder and the admin key where missing.

        Raises:
            LocalDiskError: a folder or file cannot be made.
        """
        with disk_errors("could not make", self.root):
            new = not self.root.exists()
            make_folder(self.root)
            if new:
                self.root.chmod(_PRIVATE_FOLDER)
            make_folder(own_folder(self.root))
        if not self.admin_key.exists():
            key = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=")
            replace(self.admin_key, key + b"\n", mode=_PRIVATE_FILE)

    def check(self) -> None:
        """Check that a backup server has worked in this folder.

        Raises:
            UsageError: no backup server has.
        """
        if not self.database.is_file():
            raise UsageError(
                f"{self.root} is no folder of a backup server; name it by --store_dir, "
                "or make it by `shardcast backup start`"
            )

    def read_admin_key(self) -> str:
        """Return the key for deleting under ``--append-only``.

        Raises:
            LocalDiskError: the file cannot be read.
        """
        with disk_errors("could not read", self.admin_key), self.admin_key.open("rb") as file:
            return file.read(_MAX_ADMIN_KEY).decode("ascii", "replace").strip()

    def open_packs(self) -> BlobDirectory:
        """Open the directory of packs, marked so that hash servers and archives refuse to serve it.

        Raises:
            WrongStore, LocalDiskError: the directory cannot be used.
        """
        with disk_errors("could not make", self.packs):
            make_folder(self.packs)
            mark_private(self.packs, ROLE)
        packs = BlobDirectory(self.packs, "sha256", "prefix", writable=True, private=True)
        with disk_errors("could not use", self.packs):
            self.packs.chmod(_PRIVATE_FOLDER)  # BlobDirectory shares it with its group
        return packs

    def lock(self) -> DirectoryLock:
        """Take the folder for the running server.

        Raises:
            DataDirInUse: another process serves the folder.
            LocalDiskError: the lock cannot be made.
        """
        with disk_errors("could not lock", self.root):
            return DirectoryLock(self.lock_file, self.root, ROLE, option="--store_dir")

    @property
    def is_open_to_others(self) -> bool:
        """Whether other users of this machine can look into the folder."""
        return bool(self.root.stat().st_mode & (stat.S_IRWXO | stat.S_IRWXG))
