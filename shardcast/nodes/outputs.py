"""The outputs of a following client: version and line of each file in the folder of outputs.

All calls block on the disk; coroutines make them in threads. Several processes may follow into one folder; a
lock in the folder orders their writes.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from shardcast.directories import make_folder, sync_folder
from shardcast.disk_errors import disk_errors
from shardcast.file_identity import FileIdentity
from shardcast.filesystem import set_symlink
from shardcast.folders.kept import remove_kept
from shardcast.folders.part_folder import clear_abandoned_folders
from shardcast.nodes.line_notes import LineNotes
from shardcast.nodes.output_names import (
    LATEST_LINK,
    UNDER_WAY_LINK,
    is_named_record,
    is_stale,
    manifest_path,
    output_number,
    output_path,
    path_below,
    record_path,
)
from shardcast.nodes.output_records import NO_DIGEST, PENDING, OutputRecord, hash_output, trusted_identity
from shardcast.nodes.output_storage import OutputStorage
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.store.output_part import clear_abandoned

log = logging.getLogger(__name__)


class OutputFolder:
    """The outputs and links of a followed folder.

    A record is written right after the rename of its file. A kill in between leaves a file without a record:
    ``identify`` then finds the version by the digest. The name proves nothing, since v1 of another line has
    the same name. The record of a file replaced or modified meanwhile does not count.

    Attributes:
        folder: path of the folder.
        lines: the notes about the lines followed into the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._storage = OutputStorage(folder)
        self.lines = LineNotes(self._storage)
        self._replaced: set[Path] = set()  # outputs under way where a file that no follower made was before
        self._told: set[str] = set()  # outputs of which was logged that no follower made them

    # Contents of the folder

    def scan(self) -> dict[Path, OutputRecord | None]:
        """Return the outputs in the folder, each with its record; None without a valid record.

        Raises:
            LocalDiskError: the folder can't be read.
        """
        return self._storage.scan()

    def digests(self, origin: str | None) -> dict[int, str]:
        """Return the digests of the versions of a line whose files are unchanged, by number.

        The program or hook may not have taken the newest version: a kill may come before its announcement.
        """
        return {number: record.digest for number, _, record in self._storage.versions(origin)}

    def paths(self, origin: str | None) -> dict[int, Path]:
        """Return the outputs of a line's versions, by number; of withdrawn ones, too."""
        return {number: path for number, path, _ in self._storage.versions(origin)}

    def path_of(self, withdrawal: Withdrawal) -> Path:
        """Return the path of the output of a withdrawn version; without an output, the path it would have."""
        for path, record in self.scan().items():
            if record and (record.number, record.digest) == (withdrawal.number, withdrawal.digest):
                return path
        return output_path(self.folder, withdrawal.version)

    def good_versions(self, origin: str | None) -> list[tuple[int, Path]]:
        """Return the versions of a line that are in the folder and not withdrawn, oldest first."""
        versions = self._storage.versions(origin)
        return [(number, path) for number, path, record in versions if not record.withdrawn]

    def unknown_outputs(self) -> list[Path]:
        """Return the outputs whose version is not known, newest number first."""
        found = [path for path, record in self.scan().items() if record is None or record.number is None]
        return sorted(found, key=lambda path: output_number(path.name), reverse=True)

    def version_at(self, path: Path) -> OutputRecord | None:
        """Return the record of an output, or of the output named by a link in the folder.

        Returns:
            None unless the file is unchanged and the version known.

        Raises:
            LocalDiskError: the file or the link can't be read.
        """
        with disk_errors("could not read", path):
            found: Path | None = path
            if path.is_symlink():
                found = path_below(self.folder, str(path.readlink()))
            identity = trusted_identity(found) if found else None
            record = self._storage.read_record(found) if found and identity else None
        return record if record and record.number and record.file == identity else None

    def knows(self, origin: str | None, number: int, digest: str) -> bool:
        """Return whether a version is in the folder or was announced here.

        A follower is told of the withdrawals of such versions only.
        """
        return (
            self.lines.announced(origin).get(number) == digest or self.digests(origin).get(number) == digest
        )

    # Versions of files

    def record(
        self,
        path: Path,
        origin: str | None,
        number: int,
        digest: str,
        *,
        file: os.stat_result | None = None,
    ) -> None:
        """Record the version of the output at ``path``, and whether only followers made the output.

        Args:
            path: the output.
            origin: the origin id of the version's line.
            number: the version's number.
            digest: of the payload, as shown in the distribution list.
            file: the state of the verified file, for folders filled by several processes: another process may
                have replaced the file meanwhile, and then no version is recorded for it. Without a state, the
                file now at ``path`` is taken for verified.

        Raises:
            LocalDiskError: the record can't be written, or the file is not there.
        """
        with disk_errors("could not record", path):
            verified = FileIdentity.from_stat(path.stat() if file is None else file)
        identity = verified.recorded
        made = OutputRecord(origin, number, digest, identity, followed=True, ctime_ns=verified.ctime_ns)
        with self._storage.locked():
            found, known = trusted_identity(path), self._storage.read_record(path)
            vouched = known is not None and known.followed  # by another follower, which was faster
            followed = vouched or path not in self._replaced
            if found == identity:
                self._write(path, replace(made, followed=followed))
            elif found and followed and not vouched:
                # A follower that met this file without a record took it for a stranger's, and replaced it:
                # its own file would stay for ever. The record of a replaced file does not count otherwise.
                self._storage.write_record(path, replace(known or made, followed=True))

    def identify(
        self, listings: Iterable[Listing], origin: str | None, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Record the version of each file without a record, by comparing digests with ``listings``.

        Every file is hashed once (SHA-256); a digest without a listing is recorded without a version, and
        compared again with later listings. Files of versions listed by their BLAKE3 digest (0.3.x) are not
        identified. ``stop`` is called often; True ends the work early.

        Raises:
            LocalDiskError: a record can't be written.
        """
        by_digest: dict[str, list[int]] = {}
        for listing in listings:
            by_digest.setdefault(listing.digest, []).append(listing.number)
        for path, record in self.scan().items():
            if record and record.number:
                continue
            if record is None:
                log.info("identifying the version of %s", path)
                begun, record = self._storage.read_record(path), hash_output(path, stop)
                if record is None:
                    continue
                followed = begun is not None and begun.is_pending and begun.followed
                record = replace(record, followed=followed)
                with self._storage.locked():
                    self._storage.write_record(path, record)
            numbers = by_digest.get(record.digest)
            if numbers:
                named = output_number(path.name)
                number = named if named in numbers else max(numbers)
                with self._storage.locked():
                    self._write(path, replace(record, origin=origin, number=number))

    def _write(self, path: Path, record: OutputRecord) -> None:
        """Write the record of a known version, as withdrawn if the line has withdrawn it; under the lock."""
        withdrawn = self._storage.read_lines().find(record.origin).withdrawn
        if (record.number, record.digest) in withdrawn:
            record = replace(record, withdrawn=True)
        self._storage.write_record(path, record)

    # Removal and links

    def tell_of_others(self, found: Mapping[Path, OutputRecord | None]) -> None:
        """Log, once, the outputs without a follower in their records; ``--keep`` leaves them.

        Args:
            found: the outputs in the folder, each with its valid record. An output just renamed by another
                follower has none yet.
        """
        records = {path: record or self._storage.read_record(path) for path, record in found.items()}
        others = {path for path, record in records.items() if not (record and record.followed)}
        names = sorted({path.name for path in others if path.exists()} - self._told)
        self._told.update(names)
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            log.warning(
                "%s: left here, since no record says that a follower made them: %s%s",
                self.folder,
                ", ".join(names[:3]),
                more,
            )

    def remove(self, path: Path, record: OutputRecord) -> None:
        """Remove an output and its record, unless another file has taken the name.

        Raises:
            LocalDiskError: the file can't be removed.
        """
        with disk_errors("could not remove", path), self._storage.locked():
            if trusted_identity(path) == record.file:
                if path.is_dir():
                    remove_kept(path)
                else:
                    path.unlink(missing_ok=True)
                record_path(path, self.folder).unlink(missing_ok=True)
                manifest_path(path, self.folder).unlink(missing_ok=True)
                # Before the freed blocks serve another file: a power cut could bring the name back with
                # foreign bytes.
                sync_folder(path.parent)
                self._remove_empty(path.parent)

    def _remove_empty(self, folder: Path) -> None:
        """Remove the now empty folders made by a template for an output."""
        with contextlib.suppress(OSError):
            while folder != self.folder:
                folder.rmdir()
                folder = folder.parent

    def begin(self, path: Path, origin: str | None, number: int) -> None:
        """Record an output under way, unless another file has the name already.

        After a kill, the record marks the output as a follower's, and leads to the leftovers of an output
        with a name of its own.

        Raises:
            LocalDiskError: the record can't be written.
        """
        is_free = not os.path.lexists(path)  # first: another follower records before its file has the name
        known = self._storage.read_record(path)
        # Now without a file: another follower's --keep has removed it in between.
        followed = is_free or (known is not None and known.followed) or not os.path.lexists(path)
        (self._replaced.discard if followed else self._replaced.add)(path)
        if not is_free and (known or not is_named_record(record_path(path, self.folder).name)):
            return
        with disk_errors("could not record", path), self._storage.locked():
            make_folder(path.parent)
            record = OutputRecord(origin, number, NO_DIGEST, PENDING, followed=followed)
            self._storage.write_record(path, record)

    def forget(self, path: Path) -> None:
        """Remove the record of an output begun and given up before its rename.

        Raises:
            LocalDiskError: the folder can't be written.
        """
        with disk_errors("could not tidy", self.folder), self._storage.locked():
            record = self._storage.read_record(path)
            if record and record.is_pending and not os.path.lexists(path):
                record_path(path, self.folder).unlink(missing_ok=True)
                self._remove_empty(path.parent)

    def clear_pending(self, is_over: Callable[[int], bool]) -> None:
        """Remove leftovers of interrupted downloads into outputs with names of their own.

        Args:
            is_over: returns whether downloads of the version with this number have become useless.

        Raises:
            LocalDiskError: the folder can't be written.
        """
        with disk_errors("could not tidy", self.folder), self._storage.locked():
            for path, record in self._storage.named_records():
                if not os.path.lexists(path) and is_over(record.number or 0):
                    clear_abandoned(path)
                    clear_abandoned_folders(path)
                    record_path(path, self.folder).unlink(missing_ok=True)
                    self._remove_empty(path.parent)

    def switch_link(self, name: str, target: str) -> None:
        """Point a symbolic link in the folder at ``target``.

        Raises:
            LocalDiskError: the link can't be made, or a file of another kind has the name.
        """
        with disk_errors("could not switch", self.folder / name), self._storage.locked():
            set_symlink(self.folder / name, target)

    def tidy(self) -> None:
        """Remove records without files, and temporary files left by a kill.

        Raises:
            LocalDiskError: the folder can't be written.
        """
        with disk_errors("could not tidy", self.folder), self._storage.locked():
            for entry in list(self.folder.iterdir()):
                if is_stale(entry):
                    entry.unlink(missing_ok=True)


def resume_point(outputs: OutputFolder, origin: str | None) -> int | None:
    """Return the number of a line after which versions are still to be announced; None for the newest only.

    This is the number before a version whose announcement was cut off, or the number named by ``latest``, or
    the newest one announced. If a version of another line was announced last, the newest version of this line
    is announced again: the program has loaded the other line's version since.

    Raises:
        LocalDiskError: the folder can't be read.
    """
    cut_off = outputs.version_at(outputs.folder / UNDER_WAY_LINK)
    if cut_off and cut_off.number and cut_off.origin == origin and not cut_off.withdrawn:
        return cut_off.number - 1
    latest = outputs.version_at(outputs.folder / LATEST_LINK)
    if latest and latest.origin == origin:
        return latest.number
    newest = max(outputs.lines.announced(origin), default=None)
    return newest - 1 if newest and outputs.lines.is_new_line(origin) else newest
