"""Clients, keys and invitations: single-use, hashed, revoked."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardcast.backup.server.accounts import authenticate, make_invitation, register, revoke, set_quota
from shardcast.backup.server.database import connect
from shardcast.backup.server.refusals import BackupRefused
from shardcast.errors import UsageError


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    opened = connect(tmp_path / "db")
    yield opened
    opened.close()


def invited(database: sqlite3.Connection, now: float = 0.0, **words: object) -> str:
    return make_invitation(database, now, now + 10.0, **words)  # type: ignore[arg-type]


def test_invitation_registers_one_client_once(database: sqlite3.Connection) -> None:
    invitation = invited(database)
    made = register(database, invitation, "desk", "/home/me/work/", 1.0)
    client = authenticate(database, made.key)
    assert client is not None and client.name == made.client == "desk-work" and not client.read_only
    assert len(made.id_key) == 32
    with pytest.raises(BackupRefused) as refused:
        register(database, invitation, "desk", "/", 2.0)
    assert refused.value.status == 403


@pytest.mark.parametrize("invitation", ["", "9d739ff3-c218-4a52-a6c3-22fb669c74df", "x" * 5000])
def test_unknown_invitation_is_refused(database: sqlite3.Connection, invitation: str) -> None:
    invited(database)
    with pytest.raises(BackupRefused, match="does not know the invitation"):
        register(database, invitation, "desk", "/", 1.0)


def test_expired_invitation_is_refused(database: sqlite3.Connection) -> None:
    invitation = invited(database)
    with pytest.raises(BackupRefused, match="expired"):
        register(database, invitation, "desk", "/", 10.0)


def test_nothing_secret_is_kept(database: sqlite3.Connection) -> None:
    invitation = invited(database)
    made = register(database, invitation, "desk", "/", 1.0)
    kept = "\n".join(database.iterdump())
    assert invitation not in kept and made.key.rpartition("_")[2] not in kept
    assert made.key not in repr(made)


def test_names_of_clients_are_plain_and_differ(database: sqlite3.Connection) -> None:
    names = [
        register(database, invited(database), host, path, 1.0).client
        for host, path in [("a b\n", "/x"), ("a b\n", "/x"), ("", ""), ("\x1b[1m", "/\u202e")]
    ]
    assert names == ["a-b-x", "a-b-x-2", "client", "1m"]


def test_new_machine_becomes_a_client_beside_the_old_one(database: sqlite3.Connection) -> None:
    old = register(database, invited(database), "desk", "/w", 1.0)
    reader = register(database, invited(database, client=old.client, read_only=True), "laptop", "/", 1.0)
    assert (reader.client, reader.id_key, reader.read_only) == (old.client, old.id_key, True)
    found = authenticate(database, reader.key)
    assert found is not None and found.read_only and authenticate(database, old.key) is not None


def test_replacing_invitation_revokes_the_old_keys_when_it_is_used(database: sqlite3.Connection) -> None:
    old = register(database, invited(database), "desk", "/w", 1.0)
    invitation = invited(database, client=old.client, replaces=True)
    assert authenticate(database, old.key) is not None
    new = register(database, invitation, "laptop", "/", 1.0)
    assert authenticate(database, old.key) is None and authenticate(database, new.key) is not None


def test_revoked_client_has_no_valid_key_and_no_open_invitation(database: sqlite3.Connection) -> None:
    made = register(database, invited(database), "desk", "/w", 1.0)
    invitation = invited(database, client=made.client)
    assert revoke(database, made.client, 2.0) == 1
    assert authenticate(database, made.key) is None
    with pytest.raises(BackupRefused):
        register(database, invitation, "desk", "/", 3.0)


def test_changed_keys_are_wrong(database: sqlite3.Connection) -> None:
    key = register(database, invited(database), "desk", "/w", 1.0).key
    flipped = key[:-2] + ("AA" if not key.endswith("AA") else "BB")
    for wrong in ("", "shardcast_", flipped, key + "x", key.upper(), key.replace("shardcast", "shardcas")):
        assert authenticate(database, wrong) is None


def test_unknown_client_is_an_error_in_words(database: sqlite3.Connection) -> None:
    for work in (
        lambda: revoke(database, "nobody", 1.0),
        lambda: set_quota(database, "nobody", 5),
        lambda: invited(database, client="nobody"),
    ):
        with pytest.raises(UsageError, match="no client 'nobody'"):
            work()
