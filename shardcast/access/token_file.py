"""The file of a server's tokens: read again after each change, and appended to."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from shardcast.access.tokens import Token, parse_tokens
from shardcast.directories import sync_name
from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, ShardcastError, UsageError
from shardcast.file_identity import FileIdentity
from shardcast.file_locks import Lock, try_lock
from shardcast.open_files import close, write_all

log = logging.getLogger(__name__)

MAX_FILE = 256 << 10
"""Maximum bytes of a token file: some 2000 tokens, read by the event loop in 45 ms."""
_LOCK_SECONDS = 10.0
"""Maximum seconds to wait for another process with a lock on the file."""
LOOK_SECONDS = 1.0
"""Minimum seconds between two looks at whether the file has changed."""


class TokenFile:
    """The tokens in a file.

    Where the file is broken, missing or unreadable later, the tokens read before stay, with one warning for
    each state of the file: a mistake in an editor must not end a cluster's downloads.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file.

        Raises:
            UsageError: the file is broken; the message names the line.
            LocalDiskError: the file can't be read.
        """
        self.path = path
        self._clock = clock
        self._identity: FileIdentity | None
        self._tokens, self._identity = self._read()
        self._told: tuple[FileIdentity | None, str] | None = None
        self._looked_at = clock()

    def __repr__(self) -> str:
        return f"TokenFile({str(self.path)!r}, {len(self._tokens)} tokens)"

    def current(self) -> Mapping[str, Token]:
        """Return the tokens by id, as of a second ago at most; of a broken file, the former ones."""
        now = self._clock()
        if now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            identity = FileIdentity.at(self.path)
            if identity != self._identity:
                self._reread(identity)
        return self._tokens

    def _reread(self, identity: FileIdentity | None) -> None:
        """Read the changed file; keep the tokens on a failure."""
        try:
            tokens, read = self._read()
            if read.size == 0 and self._tokens:
                # An editor writing in place has emptied the file first.
                raise UsageError(f"the file of tokens {self.path} is empty; a comment there revokes all")
        except ShardcastError as error:
            if isinstance(error, UsageError):
                self._identity = identity  # else it is tried again: too many open files, a network's hiccup
            if self._told != (identity, str(error)):
                self._told = identity, str(error)
                log.error("%s; the %d tokens read before stay valid", error, len(self._tokens))
        else:
            self._tokens, self._identity, self._told = tokens, read, None
            log.info("read %d tokens from %s", len(tokens), self.path)

    def _read(self) -> tuple[Mapping[str, Token], FileIdentity]:
        """Return the tokens, and the identity of their file.

        Raises:
            UsageError: the file is broken.
            LocalDiskError: the file can't be read.
        """
        with disk_errors("could not read the tokens in", self.path):
            # A named pipe without a writer would block the open.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise LocalDiskError(f"could not read the tokens in {self.path}: it is no regular file")
                raw = os.read(descriptor, MAX_FILE + 1)  # of a regular file all that there is
            finally:
                os.close(descriptor)
        if found.st_mode & stat.S_IWOTH:
            log.warning("any user of this machine can write %s, and let anybody in: chmod o-w it", self.path)
        return _parse(raw, self.path), FileIdentity.from_stat(found)


def append_token(path: Path, token: Token) -> None:
    """Append a token's line to a file, durably; a new file is readable by its owner only.

    The line is written whole: a server reading meanwhile sees the line, or the file before the change.

    Raises:
        UsageError: the file is broken or full, or has a token of this id.
        LocalDiskError: the file can't be written, and is unchanged.
    """
    with disk_errors("could not write", path):
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = os.open(path, flags, 0o600)
        try:
            _lock(descriptor, path)
            size = os.fstat(descriptor).st_size
            raw = os.pread(descriptor, MAX_FILE + 1, 0)
            line = b"" if raw.endswith(b"\n") or not raw else b"\n"
            line += token.line.encode() + b"\n"
            _parse(raw + line, path)
            try:
                write_all(descriptor, line)
                os.fsync(descriptor)
                sync_name(path)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            close(descriptor)  # what it must keep was synced


def _lock(descriptor: int, path: Path) -> None:
    """Lock an open file against appends by other processes.

    Raises:
        LocalDiskError: another process holds the lock for too long.
    """
    deadline = time.monotonic() + _LOCK_SECONDS
    while try_lock(descriptor) is Lock.HELD:
        if time.monotonic() >= deadline:
            raise LocalDiskError(
                f"could not write {path}: another process kept it locked for {_LOCK_SECONDS:g} s; try again"
            )
        time.sleep(0.01)


def _parse(raw: bytes, path: Path) -> Mapping[str, Token]:
    """Return the tokens in the bytes of a file.

    Raises:
        UsageError: the file is broken; the message names the file and the line.
    """
    if len(raw) > MAX_FILE:
        raise UsageError(f"there are more than {MAX_FILE} bytes in the file of tokens {path}")
    try:
        return parse_tokens(raw.decode())
    except UnicodeDecodeError:
        raise UsageError(f"the file of tokens {path} is no text in UTF-8") from None
    except UsageError as error:
        raise UsageError(f"the file of tokens {path} is broken: {error}") from None
