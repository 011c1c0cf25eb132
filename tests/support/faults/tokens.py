"""Operations on the file of a server's tokens: it is appended to, and read again."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from shardcast.access.scopes import Scope
from shardcast.access.token_file import TokenFile
from shardcast.access.tokens import make_token, parse_tokens, split_token
from shardcast.cli.exit_codes import DONE, OTHER_FAILURE
from tests.support.faults.cells import Operation
from tests.support.faults.process import CapturedStderr, Nodes, Outcome, command


class TokenOperation(Operation):
    """An operation on a file of tokens."""

    def __init__(self, place: Path, nodes: Nodes) -> None:
        super().__init__(place, nodes)
        self.folder = place / "access"
        self.file = self.folder / "tokens"
        self.before = b""

    def begin(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def prepare(self) -> None:
        line = make_token(frozenset({Scope.READ}), "before", None).token.line
        self.file.write_text(f"# the fleet's\n{line}")
        self.before = self.file.read_bytes()


class AppendToken(TokenOperation):
    """A token whose line is appended to a file; the file has the whole line, or is as it was."""

    name = "origin: append a token"

    def act(self) -> Outcome:
        return command("token", "new", "--scope", "read", "--append", self.file)

    def check(self, outcome: Outcome) -> None:
        found = self.file.read_bytes() if self.file.exists() else b""
        if outcome.code == DONE:
            assert found.startswith(self.before), "a line from before is lost"
            printed = split_token(outcome.out.strip())
            assert printed and printed[0] in parse_tokens(found.decode()), "a token has no line"
        else:
            assert found == self.before, "it failed, and the file has changed"

    def recover(self) -> None:
        self.before = self.file.read_bytes() if self.file.exists() else b""
        again = self.act()
        assert again.code == DONE, again
        self.check(again)


class AppendTokenToNewFile(AppendToken):
    """A token whose line is the first one of a new file."""

    name = "origin: append a token to a new file"

    def prepare(self) -> None:
        self.file.unlink(missing_ok=True)
        self.before = b""


class ReadTokens(TokenOperation):
    """A file of tokens that has changed; while it can't be read, the tokens that were read before stay."""

    name = "origin: read its tokens again"
    failures = frozenset({OTHER_FAILURE})

    def __init__(self, place: Path, nodes: Nodes) -> None:
        super().__init__(place, nodes)
        self.now = time.monotonic()
        self.tokens: TokenFile | None = None

    def begin(self) -> None:
        super().begin()
        super().prepare()
        self.tokens = TokenFile(self.file, lambda: self.now)

    def prepare(self) -> None:
        self.known = set(self.current())
        super().prepare()
        self.added = set(parse_tokens(self.before.decode()))

    def current(self) -> list[str]:
        """Return the ids of the tokens that are valid two seconds later."""
        assert self.tokens
        self.now += 2
        return list(self.tokens.current())

    def act(self) -> Outcome:
        log = sys.stderr
        assert isinstance(log, CapturedStderr)
        start = len(log.getvalue())
        found = set(self.current())
        if found == self.added:
            return Outcome(DONE)
        assert found == self.known, "what was read before is forgotten"
        return Outcome(OTHER_FAILURE, stderr=log.getvalue()[start:].replace("could not", "Error: could not"))

    def check(self, outcome: Outcome) -> None:
        expected = self.added if outcome.code == DONE else self.known
        assert self.tokens and set(self.tokens.current()) == expected

    def recover(self) -> None:
        assert set(self.current()) == self.added


OPERATIONS: tuple[type[Operation], ...] = (AppendToken, AppendTokenToNewFile, ReadTokens)
