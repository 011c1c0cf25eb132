"""Files of tokens for listeners of tests, with a clock that a test moves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from shardcast.access.scopes import Scope
from shardcast.access.server_access import ServerAccess
from shardcast.access.token_file import TokenFile
from shardcast.access.tokens import NewToken, Token, make_token


class TokensOnDisk:
    """A file of tokens, and the listener's view of it.

    Attributes:
        access: rules of a listener with these tokens.
    """

    def __init__(self, path: Path) -> None:
        """Make the file, without a token."""
        self._path = path
        self._tokens: list[Token] = []
        self._now = 0.0
        self._write()
        self.access = ServerAccess(tokens=TokenFile(path, lambda: self._now))

    def add(self, scopes: Iterable[Scope], expires: float | None = None, name: str = "") -> NewToken:
        """Add a line for a new token, which counts at once."""
        new = make_token(scopes, name, expires)
        self._tokens.append(new.token)
        self._write()
        return new

    def revoke(self, *revoked: NewToken) -> None:
        """Remove the lines of tokens, which counts at once."""
        ids = {new.token.id for new in revoked}
        self._tokens = [token for token in self._tokens if token.id not in ids]
        self._write()

    def _write(self) -> None:
        """Write the file, and move the clock to its next look at it."""
        self._path.write_text("# tokens\n" + "".join(f"{token.line}\n" for token in self._tokens))
        self._now += 1.0


def bearer(new: NewToken) -> dict[str, str]:
    """Return the header that shows a token."""
    return {"Authorization": f"Bearer {new.text}"}
