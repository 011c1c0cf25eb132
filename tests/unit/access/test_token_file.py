"""The file of a server's tokens, as it changes."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from shardcast.access import token_file
from shardcast.access.scopes import Scope
from shardcast.access.token_file import MAX_FILE, TokenFile
from shardcast.access.tokens import Token, make_token
from shardcast.errors import LocalDiskError, UsageError

FIRST, SECOND = make_token([Scope.READ], "first").token, make_token([Scope.READ], "second").token


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written = tmp_path / "tokens"
    write(written, FIRST)
    return written


def write(path: Path, *tokens: Token) -> None:
    path.write_text("".join(f"{token.line}\n" for token in tokens))


def test_change_is_seen_at_the_next_look_a_second_later(path: Path, clock: Clock) -> None:
    file = TokenFile(path, clock)
    write(path, FIRST, SECOND)
    clock.now = 0.9
    assert set(file.current()) == {FIRST.id}
    clock.now = 1.0
    assert set(file.current()) == {FIRST.id, SECOND.id}


def test_file_replaced_by_rename_is_seen(path: Path, clock: Clock) -> None:
    file = TokenFile(path, clock)
    write(path.with_name("new"), SECOND)
    path.with_name("new").rename(path)
    clock.now = 1.0
    assert set(file.current()) == {SECOND.id}


def break_line(path: Path) -> None:
    path.write_text("nonsense\n")


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_text("")


def fill(path: Path) -> None:
    path.write_bytes(b"#" * (MAX_FILE + 1))


def write_latin(path: Path) -> None:
    path.write_bytes(b"# \xe4\n")


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("spoil", [break_line, remove, empty, fill, write_latin, make_folder, make_pipe])
def test_file_that_becomes_unusable_keeps_tokens_and_says_so_once(
    spoil: object, path: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    file = TokenFile(path, clock)
    assert callable(spoil)
    spoil(path)
    for clock.now in (1.0, 2.0, 3.0):
        assert set(file.current()) == {FIRST.id}
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(told) == 1
    assert str(path) in told[0]
    assert "the 1 tokens read before stay valid" in told[0]
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    write(path, SECOND)
    clock.now = 4.0
    assert set(file.current()) == {SECOND.id}


def test_change_that_could_not_be_read_is_read_when_it_can_be(
    path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = TokenFile(path, clock)
    write(path, SECOND)

    def fail(*words: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(token_file.os, "open", fail)
        for clock.now in (1.0, 2.0):
            assert set(file.current()) == {FIRST.id}
    assert len(caplog.messages) == 1
    clock.now = 3.0
    assert set(file.current()) == {SECOND.id}


def test_comment_alone_revokes_all_tokens(path: Path, clock: Clock) -> None:
    file = TokenFile(path, clock)
    path.write_text("# none\n")
    clock.now = 1.0
    assert file.current() == {}


def test_broken_file_at_the_start_is_an_error_that_names_file_and_line(path: Path) -> None:
    path.write_text(f"{FIRST.line}\nnonsense\n")
    with pytest.raises(UsageError, match="line 2") as caught:
        TokenFile(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("spoil", [remove, make_folder, make_pipe])
def test_unreadable_file_at_the_start_is_an_error_of_the_disk(spoil: object, path: Path) -> None:
    assert callable(spoil)
    spoil(path)
    with pytest.raises(LocalDiskError, match="tokens"):
        TokenFile(path)


def test_file_that_others_can_write_is_warned_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.chmod(0o664)
    TokenFile(path)
    assert caplog.messages == []
    path.chmod(0o666)
    TokenFile(path)
    assert "any user of this machine can write" in caplog.text


def test_repr_shows_no_digest(path: Path) -> None:
    assert FIRST.digest.hex() not in repr(TokenFile(path))
