"""The bytes of a client's output for its neighbours: in the temporary file, then in the output."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from shardcast.file_identity import FileIdentity


class OutputPieces:
    """The file of one output, open for reading.

    While it arrives, the file is this process's alone. A named file is the user's: its bytes are given only
    after a check for writes and replacements.

    Attributes:
        file: the file.
    """

    def __init__(self, descriptor: int, output: Path) -> None:
        """Read from a copy of an open descriptor.

        Args:
            descriptor: of the temporary file.
            output: the final path of the file.

        Raises:
            OSError: this process has no descriptor left.
        """
        self.file: BinaryIO = os.fdopen(os.dup(descriptor), "rb", buffering=0)
        self._output = output
        self._named: FileIdentity | None = None

    def mark_named(self, found: os.stat_result) -> None:
        """From now on compare the file, and the one at its path, with the state ``found`` at its naming."""
        self._named = FileIdentity.from_stat(found)

    @property
    def unchanged(self) -> bool:
        """Whether the file still has the verified bytes, and its name."""
        if self._named is None:
            return True
        try:
            opened = FileIdentity.from_stat(os.fstat(self.file.fileno()))
        except OSError:
            return False
        at_path = FileIdentity.at(self._output)
        return at_path is not None and self._named.same_content(opened) and self._named.same_content(at_path)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
