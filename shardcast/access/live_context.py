"""A TLS context that follows its files, so certificates are renewed without a restart."""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from shardcast.concurrency import background_task, in_thread
from shardcast.errors import ShardcastError
from shardcast.file_identity import FileIdentity

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
"""Seconds between two looks at the files. A change counts once two looks in a row see the same files: a
certificate and its key are replaced one after the other."""


class TlsFiles(Protocol):
    """The files of a context: ``ServerTls`` or ``ClientTls``."""

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of a context."""
        ...

    def load(self) -> ssl.SSLContext:
        """Return a new context of the files as they are now.

        Raises:
            UsageError, LocalDiskError: the files can't be used.
        """
        ...


class LiveContext:
    """The newest valid context of some files.

    New connections use this context; open connections keep the context of their beginning.
    """

    def __init__(self, tls: TlsFiles) -> None:
        """Follow the files of ``tls``; nothing is read yet."""
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._loading = threading.Lock()
        self._loaded = self._seen = self._identities()

    @property
    def context(self) -> ssl.SSLContext:
        """The context for a new connection; the first use makes the context.

        Raises:
            UsageError, LocalDiskError: no context could be made yet.
        """
        if self._context is None:
            with self._loading:
                self._context = self._context or self._tls.load()
        return self._context

    def refresh(self) -> None:
        """Look at the files once; make the context again where they changed, and are as at the last look.

        Unusable files are logged once, and the former context stays.
        """
        before, self._seen = self._seen, self._identities()
        if self._seen == self._loaded or self._seen != before:
            return
        self._loaded = self._seen
        names = ", ".join(map(str, self._tls.files))
        try:
            self._context = self._tls.load()
        except ShardcastError as error:
            log.error("the certificates were changed, and the old ones stay in use: %s", error)
        else:
            log.info("the certificates were changed and read again: %s", names)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[LiveContext]:
        """Make the context, and follow the files while the block runs; without files, do neither.

        Raises:
            UsageError, LocalDiskError: the context can't be made.
        """
        if not self._tls.files:  # the system's, made when it is needed: that takes 30 ms
            yield self
            return
        await in_thread(lambda: self.context)
        async with background_task(self._follow()):
            yield self

    async def _follow(self) -> None:
        """Look at the files for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await in_thread(self.refresh)

    def _identities(self) -> tuple[FileIdentity | None, ...]:
        return tuple(FileIdentity.at(path) for path in self._tls.files)
