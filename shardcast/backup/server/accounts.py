"""The clients of a backup server, their keys, and the invitations by which they register.

Of keys and invitations only the SHA-256 is kept: both are random, so that it tells nobody anything.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
import uuid
from dataclasses import dataclass, field

from shardcast.access.tokens import digest_of, join_token, make_secret, split_token
from shardcast.backup.server.refusals import BackupRefused
from shardcast.errors import UsageError

ID_KEY_BYTES = 32
"""Bytes of the key that a client makes its ids with."""
_NAME_LENGTH = 40
"""Characters of a client's name."""
_NO_DIGEST = digest_of("")
"""Compared with where no key has the id, so that an unknown id takes as long as a wrong secret."""


@dataclass(frozen=True)
class BackupClient:
    """A client whose key a request showed.

    Attributes:
        number: its number in the database.
        name: what people call it.
        read_only: whether the key only reads.
        key_id: names the key; in the log.
    """

    number: int
    name: str
    read_only: bool
    key_id: str


@dataclass(frozen=True)
class AdmittedClient:
    """A client that has just registered.

    Attributes:
        client: its name.
        key: the key that only this client has.
        id_key: the key that it makes ids with.
        read_only: whether the key only reads.
    """

    client: str
    key: str = field(repr=False)
    id_key: bytes = field(repr=False)
    read_only: bool


def make_invitation(
    database: sqlite3.Connection,
    now: float,
    expires: float,
    *,
    client: str | None = None,
    read_only: bool = False,
    replaces: bool = False,
) -> str:
    """Return the text of a new invitation, which registers one machine.

    Args:
        database: inside a transaction.
        now: seconds since 1970.
        expires: when it can no longer be used, in seconds since 1970.
        client: the client that the machine will be; None for a new one.
        read_only: whether the machine's key only reads.
        replaces: whether registering revokes the client's other keys.

    Raises:
        UsageError: there is no such client.
    """
    number = find_client(database, client) if client is not None else None
    text = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))
    database.execute("DELETE FROM invitation WHERE expires < ? AND used IS NULL", (now,))
    database.execute(
        "INSERT INTO invitation (digest, client, read_only, replaces, made, expires) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (_invitation_digest(text), number, read_only, replaces, now, expires),
    )
    return text


def register(
    database: sqlite3.Connection, invitation: str, host: str, path: str, now: float
) -> AdmittedClient:
    """Use up an invitation, and return the client with its new key.

    Raises:
        BackupRefused: the invitation is wrong, used or expired, which no answer tells apart.
    """
    digest = _invitation_digest(invitation)
    used = database.execute(
        "UPDATE invitation SET used = ? WHERE digest = ? AND used IS NULL AND expires > ?", (now, digest, now)
    )
    if used.rowcount != 1:
        raise BackupRefused(
            "this server does not know the invitation, or it was used, or has expired", status=403
        )
    client, read_only, replaces = database.execute(
        "SELECT client, read_only, replaces FROM invitation WHERE digest = ?", (digest,)
    ).fetchone()
    if client is None:
        client = _add_client(database, host, path, now)
    elif replaces:
        _revoke_keys(database, client, now)
    name, id_key = database.execute("SELECT name, id_key FROM client WHERE number = ?", (client,)).fetchone()
    return AdmittedClient(name, _add_key(database, client, bool(read_only), now), id_key, bool(read_only))


def authenticate(database: sqlite3.Connection, key: str) -> BackupClient | None:
    """Return the client that a key is of; None for a wrong or revoked one."""
    key_id, secret = split_token(key) or ("", "")
    row = database.execute(
        "SELECT digest, client.number, name, read_only FROM credential "
        "JOIN client ON client.number = credential.client WHERE key_id = ? AND revoked IS NULL",
        (key_id,),
    ).fetchone()
    right = hmac.compare_digest(digest_of(secret), row[0] if row else _NO_DIGEST)
    return BackupClient(row[1], row[2], bool(row[3]), key_id) if row and right else None


def revoke(database: sqlite3.Connection, name: str, now: float) -> int:
    """Revoke the keys and open invitations of a client, and return how many keys there were.

    Its snapshots stay. A run under way fails with its next request.

    Raises:
        UsageError: there is no such client.
    """
    client = find_client(database, name)
    database.execute("DELETE FROM invitation WHERE client = ? AND used IS NULL", (client,))
    return _revoke_keys(database, client, now)


def find_client(database: sqlite3.Connection, name: str) -> int:
    """Return the number of a client.

    Raises:
        UsageError: there is none of the name.
    """
    row = database.execute("SELECT number FROM client WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise UsageError(f"there is no client {name!r}; `shardcast backup clients` lists them")
    return int(row[0])


def set_quota(database: sqlite3.Connection, name: str, quota: int | None) -> None:
    """Set the bytes that a client may keep; None for the quota of the running server.

    Raises:
        UsageError: there is no such client.
    """
    database.execute("UPDATE client SET quota = ? WHERE number = ?", (quota, find_client(database, name)))


def _revoke_keys(database: sqlite3.Connection, client: int, now: float) -> int:
    """Revoke the keys of a client, end its runs, and return how many keys there were."""
    database.execute("DELETE FROM run WHERE client = ?", (client,))
    return database.execute(
        "UPDATE credential SET revoked = ? WHERE client = ? AND revoked IS NULL", (now, client)
    ).rowcount


def _add_client(database: sqlite3.Connection, host: str, path: str, now: float) -> int:
    """Add a client, named after its machine and folder, and return its number."""
    folder = path.rstrip("/").rpartition("/")[2]
    stem = re.sub(r"[^A-Za-z0-9.@]+", "-", f"{host}-{folder}")[:_NAME_LENGTH].strip("-.@") or "client"
    taken = {name for (name,) in database.execute("SELECT name FROM client")}
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    added = database.execute(
        "INSERT INTO client (name, id_key, host, path, registered) VALUES (?, ?, ?, ?, ?)",
        (name, secrets.token_bytes(ID_KEY_BYTES), host, path, now),
    )
    assert added.lastrowid
    return added.lastrowid


def _add_key(database: sqlite3.Connection, client: int, read_only: bool, now: float) -> str:
    """Add a key of a client, and return its text, which nothing keeps."""
    while True:
        key_id, secret = make_secret()
        added = database.execute(
            "INSERT OR IGNORE INTO credential (key_id, client, digest, read_only, made) "
            "VALUES (?, ?, ?, ?, ?)",
            (key_id, client, digest_of(secret), read_only, now),
        )
        if added.rowcount:
            return join_token(key_id, secret)


def _invitation_digest(text: str) -> bytes:
    """Return what is kept of an invitation."""
    return hashlib.sha256(text.strip().lower().encode()).digest()
