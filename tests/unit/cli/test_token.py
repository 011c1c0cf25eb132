"""``shardcast token new``: what it prints, and what it writes."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shardcast.access import token_file
from shardcast.access.authorization import authorize
from shardcast.access.scopes import Scope
from shardcast.access.token_file import TokenFile, append_token
from shardcast.access.tokens import Token, make_token, parse_tokens
from shardcast.cli import token as command
from shardcast.cli.access_options import ServerAccessOptions, server_access_options, store_access_options
from shardcast.errors import LocalDiskError, UsageError


def new(*words: str) -> Result:
    return CliRunner().invoke(command.token, ["new", *words])


def test_token_comes_first_and_then_its_line() -> None:
    token, line = new(
        "--scope", "read,report", "--scope", "status", "--name", "gpu-fleet"
    ).stdout.splitlines()
    tokens = parse_tokens(line)
    (known,) = tokens.values()
    assert (known.name, known.expires) == ("gpu-fleet", None)
    assert known.scopes == {Scope.READ, Scope.REPORT, Scope.STATUS}
    assert isinstance(authorize([f"Bearer {token}"], tokens, Scope.STATUS, 0.0), Token)
    assert token[19:] not in line


def test_json_has_token_line_and_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.time, "time", lambda: 0.0)
    printed = json.loads(new("--scope", "store-write,store-read", "--expires", "2d", "--json").stdout)
    assert parse_tokens(printed["line"])[printed["id"]].name == printed["name"]
    assert printed["scopes"] == ["store-read", "store-write"]
    assert printed["expires"] == "1970-01-03T00:00:00Z"
    assert printed["token"].startswith(f"shardcast_{printed['id']}_")


@pytest.mark.parametrize(
    ("text", "expires"),
    [
        ("90d", 1000.0 + 90 * 86400),
        ("1970-01-02", 86400.0),
        ("1970-01-01T01:00:00Z", 3600.0),
        ("never", None),
    ],
)
def test_expiry_is_a_length_of_time_or_a_date(
    text: str, expires: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.time, "time", lambda: 1000.0)
    line = new("--scope", "read", "--expires", text).stdout.splitlines()[1]
    assert [token.expires for token in parse_tokens(line).values()] == [expires]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--scope", "reed"], "'reed' is no scope; the scopes are read, report"),
        ([], "Missing option '--scope'"),
        (["--scope", "read", "--expires", "1999-01-01"], "no time in the future"),
        (["--scope", "read", "--expires", "999999999w"], "no time in the future"),
        (["--scope", "read", "--expires", "2027"], "the expiry is no date"),
        (["--scope", "read", "--expires", "soon"], "the expiry is no date"),
    ],
)
def test_wrong_option_is_a_usage_error(words: Sequence[str], problem: str) -> None:
    result = new(*words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert problem in " ".join(result.stderr.split())


def test_name_that_does_not_fit_the_file_is_a_usage_error() -> None:
    assert isinstance(new("--scope", "read", "--name", "gpu fleet").exception, UsageError)


def test_append_makes_a_file_for_its_owner_and_keeps_the_mode_of_another(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    assert new("--scope", "read", "--append", str(file)).stdout.count("\n") == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(f"# ours\n{file.read_text().rstrip()}")
    file.chmod(0o644)
    new("--scope", "report", "--append", str(file))
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert file.read_text().startswith("# ours\n")
    assert len(TokenFile(file).current()) == 2


def test_append_leaves_a_broken_file_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("nonsense\n")
    assert isinstance(new("--scope", "read", "--append", str(file)).exception, UsageError)
    assert file.read_text() == "nonsense\n"


def test_append_that_the_disk_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tokens"
    append_token(file, make_token([Scope.READ]).token)
    before = file.read_text()

    def write_half(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(token_file, "write_all", write_half)
    with pytest.raises(LocalDiskError, match="No space left"):
        append_token(file, make_token([Scope.READ]).token)
    assert file.read_text() == before


def test_appends_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    made = [make_token([Scope.READ]).token for _ in range(8)]
    threads = [threading.Thread(target=append_token, args=(file, token)) for token in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(TokenFile(file).current()) == {token.id for token in made}


@pytest.mark.parametrize(
    ("add_options", "environ", "read"),
    [
        (server_access_options, {"SHARDCAST_TOKENS": "a"}, "a"),
        (server_access_options, {"SHARDCAST_STORE_TOKENS": "b"}, None),
        (store_access_options, {"SHARDCAST_TOKENS": "a"}, "a"),
        (store_access_options, {"SHARDCAST_TOKENS": "a", "SHARDCAST_STORE_TOKENS": "b"}, "b"),
    ],
)
def test_variable_names_the_file_of_tokens(
    add_options: object, environ: dict[str, str], read: str | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        (tmp_path / name).write_text("# none\n")
    found: list[TokenFile | None] = []

    def serve(*, server_access: ServerAccessOptions) -> None:
        found.append(server_access.load().tokens)

    assert callable(add_options)
    result = CliRunner(env=environ).invoke(command.click.command()(add_options(serve)), [])
    assert (result.exit_code, [str(one.path) if one else None for one in found]) == (0, [read])


@pytest.mark.parametrize("name", ["TOKENS", "CERTIFICATE", "KEY", "CLIENT_CA"])
@pytest.mark.parametrize("add_options", [server_access_options, store_access_options])
def test_empty_variable_of_a_lock_opens_no_server(add_options: object, name: str) -> None:
    def serve(*, server_access: ServerAccessOptions) -> None:
        pytest.fail("it would serve without a lock")

    assert callable(add_options)
    environ = {f"SHARDCAST_{name}": ""}
    result = CliRunner(env=environ).invoke(command.click.command()(add_options(serve)), [])
    assert result.exit_code == 2
    assert f"SHARDCAST_{name} is set, and empty" in result.output
