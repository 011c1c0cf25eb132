"""The folder of a following client: the ``latest`` link, and the removal of old versions."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from shardcast.ages import age_of
from shardcast.directories import make_folder
from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, UsageError
from shardcast.file_locks import Lock, open_lock_file, try_lock
from shardcast.filesystem import has_symlinks
from shardcast.folders.part_folder import clear_abandoned_folders
from shardcast.nodes.output_names import (
    HOOK_LOCK,
    LATEST_LINK,
    UNDER_WAY_LINK,
    folder_name,
    output_name,
    part_version,
    path_below,
)
from shardcast.nodes.output_records import OutputRecord
from shardcast.nodes.outputs import OutputFolder
from shardcast.nodes.release import Release
from shardcast.protocol.distribution import Withdrawal
from shardcast.protocol.wire import version_number
from shardcast.store.output_part import clear_abandoned

log = logging.getLogger(__name__)

_OLD = 24 * 3600.0
"""Seconds after which leftovers of interrupted downloads are removed, of whichever version."""


def check_keep(keep: int | None) -> None:
    """Check a program's number of versions to keep.

    Raises:
        UsageError: ``keep`` is no number of versions.
    """
    if keep is not None and (not isinstance(keep, int) or isinstance(keep, bool) or keep < 1):
        raise UsageError(f"keep={keep!r} is no number of versions; write 1 or more, or None for all")


def check_folder(output_dir: Path) -> None:
    """Check that versions can be put into a folder, now rather than after a download.

    Raises:
        LocalDiskError: the folder can't be written, or ``latest`` is no symbolic link.
    """
    with disk_errors("could not write", output_dir):
        make_folder(output_dir)
        link = output_dir / LATEST_LINK
        if link.exists() and not link.is_symlink():
            raise LocalDiskError(f"{link} is in the way: it is no symbolic link; move it")
        if not has_symlinks(link):
            raise LocalDiskError(
                f"the file system of {output_dir} has no symbolic links, and {LATEST_LINK} has to be one: "
                "choose a folder on another, or download single versions"
            )


def can_link(output_dir: Path) -> bool:
    """Return whether ``latest`` can be a link in a folder; log the reason if not."""
    try:
        check_folder(output_dir)
    except LocalDiskError as error:
        log.warning("versions are followed without the link %r: %s", LATEST_LINK, error)
        return False
    return True


def can_resume(output_dir: Path) -> bool:
    """Return whether a link in a folder shows the end of the last run.

    Without a link, or with a link to a removed file, a run begins with the newest version again.
    """
    return any((output_dir / link).exists() for link in (LATEST_LINK, UNDER_WAY_LINK))


def start_announcing(outputs: OutputFolder, release: Release) -> bool:
    """Point ``latest`` at a version, and remove parts of interrupted downloads.

    ``latest`` stays if it names a newer version of the same line. After its hook, the caller calls
    ``finish_announcing``.

    Returns:
        False, with nothing done, when the publisher withdrew the version meanwhile.

    Raises:
        LocalDiskError: the folder can't be written, or ``latest`` is no symbolic link.
    """
    folder, number, origin = outputs.folder, release.number, release.origin
    record = outputs.version_at(release.path)
    if record and record.withdrawn:
        return False
    # This link first: a kill from here on has the next run announce the version again.
    target = str(release.path.relative_to(folder))
    outputs.switch_link(UNDER_WAY_LINK, target)
    latest = outputs.version_at(folder / LATEST_LINK)
    newer = latest and latest.origin == origin and not latest.withdrawn and (latest.number or 0) > number
    if not newer:
        outputs.switch_link(LATEST_LINK, target)
    _clear_leftovers(folder, number)
    outputs.clear_pending(lambda begun: begun < number)
    outputs.tidy()
    return True


def previous_output(outputs: OutputFolder, release: Release) -> Path | None:
    """Return the output before a release; None where there is none.

    Before the announcement, ``latest`` names this output. If a kill interrupted the announcement, ``latest``
    names the release itself: then return the next older version in the folder.

    Raises:
        LocalDiskError: the folder can't be read.
    """
    named = _named_by(outputs.folder / LATEST_LINK)
    if named and named != release.path and named.exists():
        return named
    good = outputs.good_versions(release.origin)
    return next((path for number, path in reversed(good) if number < release.number), None)


def _clear_leftovers(folder: Path, number: int) -> None:
    """Remove parts of downloads of versions before ``number``, and all parts older than a day.

    An old part may have a number never reached by the line followed now.
    """
    with disk_errors("could not tidy", folder):
        for entry in folder.iterdir():
            version = part_version(entry.name)
            if version and ((version_number(version) or 0) < number or _is_old(entry)):
                clear_abandoned(folder / output_name(version))
                clear_abandoned_folders(folder / folder_name(version))


def _is_old(entry: Path) -> bool:
    """Return whether a file was last changed a day ago or earlier."""
    try:
        return age_of(entry, entry.lstat()) > _OLD
    except OSError:  # another follower has just removed it
        return False


def _keep_newest(outputs: OutputFolder, keep: int, announced: Path) -> None:
    """Remove all but the newest ``keep`` versions of each line, never the one just announced.

    Only outputs with a follower in their records go; others are logged once a run. Nothing goes while a hook
    of another follower, or one that outlived its follower, runs for this folder.
    """
    stay = {announced, *(_named_by(outputs.folder / link) for link in (LATEST_LINK, UNDER_WAY_LINK))}
    lines: dict[str | None, list[tuple[int, Path, OutputRecord]]] = {}
    found = outputs.scan()
    outputs.tell_of_others(found)
    for path, record in found.items():
        if record and record.number and record.followed:
            lines.setdefault(record.origin, []).append((record.number, path, record))
    with _without_hook(outputs.folder) as nothing_runs:
        for versions in lines.values() if nothing_runs else ():
            newest_first = sorted(versions, key=lambda version: version[0], reverse=True)
            for _, path, record in newest_first[keep:]:
                if path not in stay:
                    outputs.remove(path, record)


@contextlib.contextmanager
def _without_hook(folder: Path) -> Iterator[bool]:
    """Yield whether no hook runs for a folder; none starts while the block runs.

    Raises:
        LocalDiskError: the lock can't be opened.
    """
    lock = None
    with disk_errors("could not lock", folder / HOOK_LOCK):
        if (folder / HOOK_LOCK).exists():
            lock = open_lock_file(folder / HOOK_LOCK)
    try:
        yield lock is None or try_lock(lock) is not Lock.HELD
    finally:
        if lock is not None:
            os.close(lock)


def _named_by(link: Path) -> Path | None:
    """Return the output named by a link; None without a link."""
    try:
        return path_below(link.parent, str(link.readlink()))
    except OSError:  # there is no link
        return None


def finish_announcing(
    outputs: OutputFolder, release: Release, keep: int | None = None, *, links: bool = True
) -> None:
    """Note that a version was announced: ``start_announcing`` was called, and the hook has ended.

    Then remove all but the newest ``keep`` versions of each line. Not earlier: until the end of the hook, a
    program may use the version before.

    Raises:
        LocalDiskError: the folder can't be written.
    """
    # The note before the link: a kill between the two has the hook run again, but never tells of a line as
    # new whose first version was announced.
    outputs.lines.mark_announced(release.origin, release.number, release.digest)
    if links:
        with disk_errors("could not remove", outputs.folder / UNDER_WAY_LINK):
            (outputs.folder / UNDER_WAY_LINK).unlink(missing_ok=True)
    if keep is not None:
        _keep_newest(outputs, keep, release.path)


def restore_latest(outputs: OutputFolder, withdrawal: Withdrawal) -> tuple[int, Path] | None:
    """Point ``latest`` at a good version again after a withdrawal (``mark_withdrawn``).

    Nothing changes while ``latest`` names a good version. Else the link gets the newest good version of the
    line announced already or older than the withdrawn one; without such a version, a link to a withdrawn
    version is removed.

    Returns:
        The number and file of the good version now named by ``latest``; None without one.

    Raises:
        LocalDiskError: the folder can't be written.
    """
    link, number = outputs.folder / LATEST_LINK, withdrawal.number
    latest = outputs.version_at(link)
    if latest and latest.number and not latest.withdrawn:
        return latest.number, outputs.folder / link.readlink()
    lines = outputs.lines.lines_withdrawing(number, withdrawal.digest)
    if not lines:
        return None
    announced = outputs.lines.announced(lines[-1])
    good = outputs.good_versions(lines[-1])
    found = next((item for item in reversed(good) if item[0] < number or item[0] in announced), None)
    if found:
        outputs.switch_link(LATEST_LINK, str(found[1].relative_to(outputs.folder)))
    elif latest:
        with disk_errors("could not remove", link):
            link.unlink(missing_ok=True)
    return found
