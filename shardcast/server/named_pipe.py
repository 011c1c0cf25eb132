"""The named pipe from a program with a payload to the publisher: the reading end."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Self

from shardcast.disk_errors import disk_errors
from shardcast.open_files import close
from shardcast.store.special_files import make_local_folder
from shardcast.temporary_files import PART


class NamedPipe:
    """A named pipe in ``folder``, with its writing end kept open here.

    So the reader sees no end before this end is closed, whatever happens to the writer.
    """

    def __init__(self, folder: Path) -> None:
        """Make the pipe, elsewhere where the file system of ``folder`` has none.

        Raises:
            LocalDiskError: no pipe can be made.
        """
        self.path = folder / f"stream-{secrets.token_hex(8)}{PART}"
        self._elsewhere: TemporaryDirectory[str] | None = None
        self._source = self._sink = -1
        with disk_errors("could not make a pipe in", folder):
            try:
                os.mkfifo(self.path, 0o600)
            except OSError as error:
                self._elsewhere = make_local_folder(folder, error)
                self.path = Path(self._elsewhere.name) / self.path.name
                os.mkfifo(self.path, 0o600)
            try:
                # Without O_NONBLOCK the first end would wait for the second.
                self._source = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                self._sink = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            except BaseException:
                self.close()
                raise

    def take_source(self) -> BinaryIO:
        """Return the reading end, to be closed by the publisher."""
        os.set_blocking(self._source, True)
        source, self._source = os.fdopen(self._source, "rb", buffering=0), -1
        return source

    def close(self) -> None:
        """Close this end, so the reader comes to the end once the writer has closed its own."""
        with contextlib.suppress(OSError):  # the next start removes it
            self.path.unlink()
        for descriptor in (self._source, self._sink):
            if descriptor >= 0:
                close(descriptor)
        self._source = self._sink = -1
        if self._elsewhere is not None:
            with contextlib.suppress(OSError):
                self._elsewhere.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
