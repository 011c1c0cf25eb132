"""Versions that are here already and count as verified: nothing touched the output since its record.

Beside a record lies the manifest of the version, ``.download_v3.bin.manifest``, for when no server tells it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from shardcast.directories import make_folder
from shardcast.errors import LocalDiskError, NoServerReachable, UsageError
from shardcast.file_identity import FileIdentity
from shardcast.filesystem import replace as replace_file
from shardcast.folders.kept import is_unchanged, read_kept
from shardcast.folders.options import WHOLE
from shardcast.log_fields import about
from shardcast.nodes.output_names import manifest_path, record_path
from shardcast.nodes.output_records import OutputRecord, read_bounded, trusted_identity
from shardcast.nodes.output_storage import OutputStorage
from shardcast.nodes.release import Release, payload_digest
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import MAX_MANIFEST, ManifestError, parse
from shardcast.protocol.tags import is_tag
from shardcast.protocol.wire import version_name, version_number
from shardcast.upstream.lists import LATEST

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LocalVersion:
    """A version whose output is verified.

    Attributes:
        path: the output.
        record: its record.
        manifest: the version's.
        recorded_at: when the record was written, in nanoseconds since 1970.
    """

    path: Path
    record: OutputRecord
    manifest: Manifest
    recorded_at: int

    @property
    def release(self) -> Release:
        """The version as a client gets it when no server was asked about it."""
        version = version_name(self.record.number or 0)
        return Release(version, self.path, self.manifest, 0.0, {}, offline=True)


def is_untouched(path: Path, record: OutputRecord) -> bool:
    """Return whether a file is that of a record, and nothing touched it since: its ctime is the same.

    Records of earlier versions have no ctime.
    """
    try:
        found = path.stat()
    except OSError:
        return False
    return record.ctime_ns == found.st_ctime_ns and record.file == trusted_identity(path)


def has_version(folder: Path, path: Path, manifest: Manifest) -> bool:
    """Return whether the output at a path is a file with the payload of a manifest, by an untouched record.

    Args:
        folder: the folder of outputs.
        path: the output.
        manifest: the version's.
    """
    if not path.is_relative_to(folder):
        return False
    record = OutputStorage(folder).read_record(path)
    return record is not None and record.digest == payload_digest(manifest) and is_untouched(path, record)


def keep_manifest(folder: Path, path: Path, manifest: Manifest) -> None:
    """Keep the manifest of an output that is a file; the one of a folder is kept beside that.

    Raises:
        LocalDiskError: it can't be written.
    """
    if manifest.header.folder is None and manifest.raw:  # versions of 0.1.0 have none
        replace_file(manifest_path(path, folder), manifest.raw)


def keep_version(folder: Path, release: Release, final: os.stat_result) -> None:
    """Record a version for later calls without a server; a failure is logged, since the output is complete.

    Args:
        folder: the folder of outputs.
        release: the version.
        final: the state of the output when it was verified.
    """
    storage, path = OutputStorage(folder), release.path
    known = storage.read_record(path)
    identity = FileIdentity.from_stat(final)
    record = OutputRecord(
        release.origin, release.number, release.digest, identity.recorded, ctime_ns=identity.ctime_ns
    )
    if known and known.file == record.file:
        record = replace(record, followed=known.followed)
    try:
        make_folder(folder)
        storage.write_record(path, record)
        keep_manifest(folder, path, release.manifest)
    except (LocalDiskError, OSError) as error:
        log.warning("%s is not recorded, and so not given without a server: %s", path, error)


def find_local(
    folder: Path, version: str, origin: str | None = None, output: Path | None = None
) -> LocalVersion | None:
    """Return the verified version meant by a name; None where there is none, or it was withdrawn.

    Of several lines, the one counts that was recorded last. Blocks on the disk.

    Args:
        folder: the folder of outputs.
        version: a version's name, "latest", or a tag.
        origin: the id of the only line that counts; None for any.
        output: the only output that counts; None for all in the folder.
    """
    here = [found for found in _local_versions(folder, output) if origin in (None, found.record.origin)]
    last = max(here, key=lambda found: found.recorded_at, default=None)
    if last is None:
        return None
    line = [found for found in here if found.record.origin == last.record.origin and _is(found, version)]
    return max(line, key=lambda found: (found.record.number or 0, found.recorded_at), default=None)


def check_offline(offline: bool, verify: str | None) -> None:
    """Check that ``offline``, which reads no bytes, is not combined with verifying whole outputs.

    Raises:
        UsageError: ``offline`` is combined with ``verify="whole"``.
    """
    if offline and verify == WHOLE:
        raise UsageError(
            "offline=True (--offline) gives a version without reading its bytes; verify='whole' "
            "(--verify whole) has them read: leave one of the two out"
        )


def release_without_server(
    found: LocalVersion | None, version: str, error: NoServerReachable, *, offline: bool
) -> Release:
    """Return the version that is here, with a warning.

    Args:
        found: the version; None where none is here.
        version: the caller's name for the version.
        error: says which servers don't answer.
        offline: whether the caller takes a version that no server confirms.

    Raises:
        NoServerReachable: no version is here, or ``offline`` is False.
    """
    if found is None:
        raise NoServerReachable(f"{error}; no verified {version} is here") if offline else error
    release = found.release
    if not offline:
        raise NoServerReachable(
            f"{error}; {release.version} is here, verified: --offline (offline=True) gives that"
        ) from error
    log.warning(
        "%s is not checked against a server: %s", release.version, error, extra=about(version=release.version)
    )
    return release


def _is(found: LocalVersion, version: str) -> bool:
    """Return whether a version has a name or a tag."""
    if is_tag(version):
        return version in found.manifest.header.tags
    return version == LATEST or version_number(version) == found.record.number


def _local_versions(folder: Path, output: Path | None) -> Iterator[LocalVersion]:
    """Yield the verified versions in a folder."""
    storage = OutputStorage(folder)
    with contextlib.suppress(LocalDiskError):
        if output is None:
            records = [(path, record) for path, record in storage.scan().items() if record]
        else:
            found = storage.read_record(output)
            records = [(output, found)] if found else []
        for path, record in records:
            manifest = None if record.withdrawn or not record.number else _verified(folder, path, record)
            with contextlib.suppress(OSError):
                if manifest:
                    yield LocalVersion(path, record, manifest, record_path(path, folder).stat().st_mtime_ns)


def _verified(folder: Path, path: Path, record: OutputRecord) -> Manifest | None:
    """Return the manifest of an output that nothing touched since it was recorded; None for any other."""
    if path.is_dir():
        manifest = read_kept(path) if record.file == trusted_identity(path) else None
        untouched = manifest is not None and is_unchanged(path, manifest)
    else:
        untouched = is_untouched(path, record)
        manifest = _read_manifest(manifest_path(path, folder)) if untouched else None
    is_its = manifest is not None and payload_digest(manifest) == record.digest
    return manifest if untouched and is_its else None


def _read_manifest(place: Path) -> Manifest | None:
    """Return the manifest in a file; None where none can be read."""
    try:
        return parse(read_bounded(place, MAX_MANIFEST))
    except FileNotFoundError:
        return None
    except (OSError, ManifestError) as error:
        log.warning("ignored %s, so its version is not given without a server: %s", place, error)
        return None
