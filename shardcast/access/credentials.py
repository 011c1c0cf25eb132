"""Credentials of a node: its tokens for servers, from a file, a variable or an argument."""

from __future__ import annotations

import logging
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

from shardcast.access.secret import Secret
from shardcast.access.token_text import MAX_TOKEN, MAX_TOKENS, Tokens, parse_credentials
from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, UsageError
from shardcast.file_identity import FileIdentity

log = logging.getLogger(__name__)

_LOOK = 1.0
"""Seconds between two looks at whether a token file changed."""


class Credentials:
    """Tokens for servers."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    @classmethod
    def from_text(cls, text: Secret, source: str) -> Credentials:
        """Return the credentials in a text: a token, or lines ``host=token``.

        Args:
            text: the text.
            source: name of the text, for the error.

        Raises:
            UsageError: the text is malformed. The error does not show the text.
        """
        tokens, problem = parse_credentials(text)
        if problem:
            raise UsageError(f"{source}: {problem}")
        return cls(tokens)

    @classmethod
    def for_all(cls, token: Secret) -> Credentials:
        """Return credentials with one token for all servers, unchanged."""
        return cls(Tokens(general=token))

    def token_for(self, url: str) -> Secret | None:
        """Return the token to show to the server at a base URL; None for no token."""
        return self._tokens.for_server(url)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class CredentialsFile(Credentials):
    """Tokens in a file, read again when the file changes.

    A broken or missing file changes nothing: the last good tokens stay, with a warning. A pipe is read once.
    """

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file.

        Args:
            file: the file; a warning is logged where every user of the machine can read it.
            clock: gives seconds.

        Raises:
            UsageError: the file is malformed. The error does not show the text.
            LocalDiskError: the file can't be read.
        """
        self._file = file
        self._clock = clock
        self._identity = FileIdentity.at(file)
        self._lock = threading.Lock()
        self._looked_at = clock()
        self._complaint = ""
        super().__init__(_read_tokens(file))
        mode = _mode(file)
        self._regular = stat.S_ISREG(mode)
        if self._regular and mode & stat.S_IROTH:
            log.warning("every user of this machine can read the token file %s; chmod o-r %s", file, file)

    def token_for(self, url: str) -> Secret | None:
        """Return the token to show to the server at a base URL; None for no token."""
        with self._lock:
            if self._regular and self._clock() - self._looked_at >= _LOOK:
                self._looked_at = self._clock()
                self._refresh()
        return super().token_for(url)

    def _refresh(self) -> None:
        """Read a changed file again; keep the last good tokens if it is broken or missing."""
        identity = FileIdentity.at(self._file)
        if identity == self._identity and (identity is not None or self._complaint):
            return
        self._identity = identity
        try:
            if identity is not None and not stat.S_ISREG(_mode(self._file)):
                raise UsageError(f"the token file {self._file}: it is no plain file any more")
            tokens = _read_tokens(self._file)
        except (UsageError, LocalDiskError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                log.warning("%s; the tokens that it had are used on", error)
            return
        if tokens != self._tokens or self._complaint:
            log.info("read the token file %s again", self._file)
        self._complaint = ""
        self._tokens = tokens


def read_token(file: Path) -> str:
    """Return the token in a file with nothing else.

    Raises:
        UsageError: the file is empty, too long, or contains more than one word of ASCII.
        LocalDiskError: the file can't be read.
    """
    text = _read(file, MAX_TOKEN)
    tokens, problem = parse_credentials(text)
    if problem:
        raise UsageError(f"the token file {file}: {problem}")
    if tokens.by_server or tokens.general is None:
        raise UsageError(f"the token file {file}: it names servers; write one word of ASCII there")
    return tokens.general.reveal()


def _read_tokens(file: Path) -> Tokens:
    """Return the tokens of a file.

    Raises:
        UsageError: the file is malformed. The error does not show the text.
        LocalDiskError: the file can't be read.
    """
    tokens, problem = parse_credentials(_read(file, MAX_TOKENS))
    if problem:
        raise UsageError(f"the token file {file}: {problem}")
    return tokens


def _read(file: Path, max_bytes: int) -> Secret:
    """Return the text of a token file without surrounding blanks.

    Raises:
        UsageError: there are more than ``max_bytes`` bytes.
        LocalDiskError: the file can't be read.
    """
    with disk_errors("could not read the token file", file), file.open("rb") as stream:
        text = Secret(stream.read(max_bytes + 2).strip().decode("ascii", "replace"))
    if len(text.reveal()) > max_bytes:
        raise UsageError(f"there are more than {max_bytes} bytes in the token file {file}")
    return text


def _mode(file: Path) -> int:
    """Return the kind and permissions of a file; 0 where there is none."""
    try:
        return file.stat().st_mode
    except OSError:
        return 0
