"""A folder sent to an origin elsewhere: first the list, then the tar, read from the files while sending."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from shardcast.constants import SHARD_SIZE
from shardcast.errors import LocalDiskError
from shardcast.folders.layout import FolderLayout, TooManyShards
from shardcast.folders.list_plan import plan_list
from shardcast.folders.listing import ListTooLong
from shardcast.folders.payload import FolderPayload
from shardcast.folders.publishing import check_folder_options, folder_name
from shardcast.folders.survey import SurveyRules, open_survey
from shardcast.folders.tar_publishing import SUFFIX
from shardcast.nodes.payload_sources import FileSource, ReadSource
from shardcast.protocol.uploads import UploadedFolder, UploadRequest
from shardcast.sharding.publication import PublishProgress
from shardcast.sharding.publishing import check_payload


class FolderSource(ReadSource):
    """A folder to send.

    Attributes:
        path: the folder.
        size: bytes of list and tar.
        folder: the announcement of the folder.
    """

    def __init__(self, path: Path, *, rules: SurveyRules, shard_size: int | None = None) -> None:
        """Walk through a folder, and keep it open.

        Args:
            path: the folder.
            rules: the part of the folder to publish.
            shard_size: bytes of a shard; None for the origin's own.

        Raises:
            PayloadChanged: the folder changed meanwhile.
            LocalDiskError: an entry can't be published or read.
            UsageError: a pattern is malformed.
        """
        self.path = path
        self._stack = ExitStack()
        with ExitStack() as opening:
            self._survey = opening.enter_context(open_survey(path, rules))
            try:
                layout = FolderLayout(self._survey.table, shard_size or SHARD_SIZE)
                plan = plan_list(layout)
            except (TooManyShards, ListTooLong) as error:
                raise LocalDiskError(
                    f"can't broadcast {path}: {error}; broadcast its parts one by one"
                ) from None
            self._list = b"".join(plan.entry_lines)
            self._payload = FolderPayload(self._survey, layout, PublishProgress(), plan=plan)
            opening.callback(self._payload.close)
            self._stack = opening.pop_all()
        super().__init__(unhashed=len(self._list))
        self.size = len(self._list) + layout.size
        self.folder = UploadedFolder(folder_name(path), len(layout.table), len(self._list))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def name(self) -> str:
        """Name of the tar."""
        return self.folder.name + SUFFIX

    def key(self, **options: Any) -> str:
        """Return the digest by which a repeated, unchanged command finds its earlier upload."""
        words = [platform.node(), os.fsencode(self.path.absolute()).hex(), options]
        found = hashlib.sha256(json.dumps(words, sort_keys=True).encode())
        found.update(self._list)
        for column in self._survey.identities.columns:
            found.update(column)
        return found.hexdigest()

    def _read(self, offset: int, length: int) -> bytes:
        """Return bytes of the list, or of the tar.

        Raises:
            PayloadChanged: a file differs from the survey.
            LocalDiskError: a file can't be read.
        """
        listed = len(self._list)
        if offset < listed:
            return self._list[offset : offset + length]
        chunk = bytearray(length)
        self._payload.fill(memoryview(chunk), offset - listed)
        self._payload.hashing(memoryview(chunk))  # the origin hashes files by themselves
        return bytes(chunk)

    def check_unchanged(self) -> None:
        """Walk through the folder once more, and compare it with the survey.

        Raises:
            PayloadChanged: an entry was touched.
            LocalDiskError: the folder can't be read.
        """
        self._payload.check_unchanged()


def open_source(
    path: Path, *, exclude: Sequence[str] = (), mtimes: bool = True, shard_size: int | None = None
) -> FileSource | FolderSource:
    """Open a file or a folder to be sent.

    Args:
        path: the file or folder.
        exclude: patterns of the paths to leave out of a folder.
        mtimes: whether times of a folder's files are published.
        shard_size: bytes of a shard; None for the origin's own.

    Raises:
        PayloadMissing: there is no such file or folder.
        PayloadChanged, LocalDiskError, UsageError: as ``FolderSource`` says.
    """
    rules = SurveyRules(tuple(exclude), mtimes)
    is_folder = is_sendable_folder(path, rules)
    return FolderSource(path, rules=rules, shard_size=shard_size) if is_folder else FileSource(path)


def is_sendable_folder(path: Path, rules: SurveyRules) -> bool:
    """Return whether a payload to send is a folder.

    Raises:
        PayloadMissing: there is no such file or folder.
        LocalDiskError: the payload can't be read.
        UsageError: a pattern is malformed, or the payload is a file, and a file has nothing to leave out.
    """
    is_folder = stat.S_ISDIR(check_payload(path).st_mode)
    check_folder_options(path, is_folder, rules)
    return is_folder


def announcement(
    source: FileSource | FolderSource, shard_size: int | None, metadata: dict[str, Any], *, live: bool
) -> UploadRequest:
    """Return the announcement of a source, with the key by which a later run finds this upload."""
    key = source.key(shard_size=shard_size, metadata=metadata, live=live)
    folder = source.folder if isinstance(source, FolderSource) else None
    return UploadRequest(source.name, source.size, shard_size, metadata, live, key, folder)
