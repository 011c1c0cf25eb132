"""Clients of a backup server, their keys, and the invitations to register.

Of keys and invitations the database has only the SHA-256: both are random, so a digest cannot be guessed.
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
"""Bytes of the key for a client's chunk ids."""
_NAME_LENGTH = 40
"""Characters of a client's name."""
_NO_DIGEST = digest_of("")
"""The digest compared with where no key has the id: an unknown id takes as long as a wrong secret."""


@dataclass(frozen=True)
class BackupClient:
    """A client identified by the key in a request.

    Attributes:
        number: number in the database.
        name: name shown to people.
        read_only: whether the key only reads.
        key_id: names the key in the log.
        shares: whether the client shares chunks with others.
    """

    number: int
    name: str
    read_only: bool
    key_id: str
    shares: bool = False


@dataclass(frozen=True)
class AdmittedClient:
    """A newly registered client.

    Attributes:
        client: the client's name.
        key: the secret key of this machine.
        id_key: the key for chunk ids, the same for all keys of the client.
        shares: whether the client shares chunks with others, which have the same ``id_key``.
        read_only: whether the key only reads.
    """

    client: str
    key: str = field(repr=False)
    id_key: bytes = field(repr=False)
    read_only: bool
    shares: bool = False


def make_invitation(
    database: sqlite3.Connection,
    now: float,
    expires: float,
    *,
    client: str | None = None,
    read_only: bool = False,
    replaces: bool = False,
) -> str:
    """Make an invitation for one machine, store a digest of the text, and return the text.

    Expired, unused invitations are deleted.

    Args:
        database: inside a transaction.
        now: seconds since 1970.
        expires: end of the invitation, in seconds since 1970.
        client: the name of an existing client for the machine; None for a new client.
        read_only: whether the machine's key only reads.
        replaces: whether registering revokes the client's other keys.

    Raises:
        UsageError: no client has this name.
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
    database: sqlite3.Connection, invitation: str, host: str, path: str, now: float, *, shares: bool = False
) -> AdmittedClient:
    """Use up an invitation, and return the client with a new key: the named client, or a new one.

    An invitation with ``replaces`` first revokes the client's other keys, and ends its runs.

    Args:
        database: inside a transaction that writes.
        invitation: the invitation's text.
        host: the machine's name.
        path: the folder there.
        now: seconds since 1970.
        shares: whether a new client shares chunks with others; an existing one stays as it is.

    Raises:
        BackupRefused: the invitation is wrong, used or expired; the answer is the same for all three.
    """
    digest = _invitation_digest(invitation)
    used = database.execute(
        "UPDATE invitation SET used = ? WHERE digest = ? AND used IS NULL AND expires > ?", (now, digest, now)
    )
    if used.rowcount != 1:
        raise BackupRefused(
            "this server does not know the invitation, or it was used, or has expired; "
            "ask for a new one (`shardcast backup invite`)",
            status=403,
        )
    client, read_only, replaces = database.execute(
        "SELECT client, read_only, replaces FROM invitation WHERE digest = ?", (digest,)
    ).fetchone()
    if client is None:
        client = _add_client(database, host, path, now, shares=shares)
    elif replaces:
        _revoke_keys(database, client, now)
    name, id_key, shares = database.execute(
        "SELECT name, id_key, shares FROM client WHERE number = ?", (client,)
    ).fetchone()
    key = _add_key(database, client, bool(read_only), now)
    return AdmittedClient(name, key, id_key, bool(read_only), bool(shares))


def authenticate(database: sqlite3.Connection, key: str) -> BackupClient | None:
    """Return the client of a key; None for a wrong or revoked key."""
    key_id, secret = split_token(key) or ("", "")
    row = database.execute(
        "SELECT digest, client.number, name, read_only, shares FROM credential "
        "JOIN client ON client.number = credential.client WHERE key_id = ? AND revoked IS NULL",
        (key_id,),
    ).fetchone()
    right = hmac.compare_digest(digest_of(secret), row[0] if row else _NO_DIGEST)
    return BackupClient(row[1], row[2], bool(row[3]), key_id, bool(row[4])) if row and right else None


def revoke(database: sqlite3.Connection, name: str, now: float) -> int:
    """Revoke the keys and open invitations of a client, and return the number of keys.

    Snapshots stay. A run under way fails at the next request.

    Raises:
        UsageError: no client has this name.
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


def client_groups(database: sqlite3.Connection) -> list[list[int]]:
    """Return the numbers of all clients: those that share chunks together, each other client by itself."""
    rows = database.execute("SELECT number, shares FROM client ORDER BY number").fetchall()
    sharing = [number for number, shares in rows if shares]
    return [*([number] for number, shares in rows if not shares), *([sharing] if sharing else [])]


def set_quota(database: sqlite3.Connection, name: str, quota: int | None) -> None:
    """Set the maximum bytes of a client; None for the quota of the running server.

    Raises:
        UsageError: no client has this name.
    """
    database.execute("UPDATE client SET quota = ? WHERE number = ?", (quota, find_client(database, name)))


def _revoke_keys(database: sqlite3.Connection, client: int, now: float) -> int:
    """Revoke the keys of a client, end the client's runs, and return the number of keys."""
    database.execute("DELETE FROM run WHERE client = ?", (client,))
    return database.execute(
        "UPDATE credential SET revoked = ? WHERE client = ? AND revoked IS NULL", (now, client)
    ).rowcount


def _add_client(database: sqlite3.Connection, host: str, path: str, now: float, *, shares: bool) -> int:
    """Add a client, named after the machine and folder, and return the client's number."""
    folder = path.rstrip("/").rpartition("/")[2]
    stem = re.sub(r"[^A-Za-z0-9.@]+", "-", f"{host}-{folder}")[:_NAME_LENGTH].strip("-.@") or "client"
    taken = {name for (name,) in database.execute("SELECT name FROM client")}
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}-{number}", number + 1
    added = database.execute(
        "INSERT INTO client (name, id_key, host, path, registered, shares) VALUES (?, ?, ?, ?, ?, ?)",
        (name, _id_key(database, shares=shares), host, path, now, shares),
    )
    assert added.lastrowid
    return added.lastrowid


def _id_key(database: sqlite3.Connection, *, shares: bool) -> bytes:
    """Return the key of ids for a new client: one of its own, or that of all clients that share chunks."""
    if shares and (row := database.execute("SELECT id_key FROM client WHERE shares LIMIT 1").fetchone()):
        return bytes(row[0])
    return secrets.token_bytes(ID_KEY_BYTES)


def _add_key(database: sqlite3.Connection, client: int, read_only: bool, now: float) -> str:
    """Add a key of a client, and return the key's text; the database gets only the digest."""
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
    """Return the stored digest of an invitation."""
    return hashlib.sha256(text.strip().lower().encode()).digest()
