"""The tables of a backup server's database, as the steps from each version of them to the next."""

from __future__ import annotations

MIGRATIONS = (
    """
    CREATE TABLE client (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        id_key BLOB NOT NULL,
        host TEXT NOT NULL,
        path TEXT NOT NULL,
        quota INTEGER,                    -- bytes; NULL for the quota of the running server
        registered REAL NOT NULL,
        next_chunk INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE credential (
        key_id TEXT PRIMARY KEY,
        client INTEGER NOT NULL REFERENCES client,
        digest BLOB NOT NULL,             -- SHA-256 of the secret, which nothing keeps
        read_only INTEGER NOT NULL,
        made REAL NOT NULL,
        revoked REAL
    );
    CREATE INDEX credential_client ON credential (client);
    CREATE TABLE invitation (
        digest BLOB PRIMARY KEY,          -- SHA-256 of the invitation, which nothing keeps
        client INTEGER REFERENCES client, -- NULL for a new one
        read_only INTEGER NOT NULL,
        replaces INTEGER NOT NULL,        -- whether the client's other keys are revoked
        made REAL NOT NULL,
        expires REAL NOT NULL,
        used REAL
    );
    CREATE TABLE run (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        client INTEGER NOT NULL REFERENCES client,
        host TEXT NOT NULL,
        path TEXT NOT NULL,
        began REAL NOT NULL,
        expires REAL NOT NULL
    );
    CREATE TABLE pack (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        client INTEGER NOT NULL REFERENCES client,
        digest BLOB NOT NULL,
        size INTEGER NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('arriving', 'whole', 'damaged', 'lost', 'condemned')),
        run INTEGER,                      -- that brings it; NULL for what prune writes
        condemned_at REAL,
        condemned_run INTEGER             -- runs with lower numbers may count on its chunks
    );
    CREATE UNIQUE INDEX pack_of_client ON pack (client, digest) WHERE state <> 'arriving';
    CREATE INDEX pack_digest ON pack (digest);
    CREATE TABLE chunk (
        number INTEGER PRIMARY KEY,       -- the client's number above the number among its chunks
        client INTEGER NOT NULL REFERENCES client,
        id BLOB NOT NULL,
        pack INTEGER NOT NULL REFERENCES pack,
        offset INTEGER NOT NULL,
        length INTEGER NOT NULL
    );
    CREATE UNIQUE INDEX chunk_id ON chunk (client, id);
    CREATE INDEX chunk_pack ON chunk (pack);
    CREATE TABLE snapshot (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        client INTEGER NOT NULL REFERENCES client,
        arrived REAL NOT NULL,
        head TEXT NOT NULL,               -- JSON: host, path, tags, files, bytes, new_bytes
        record BLOB NOT NULL,
        needs BLOB NOT NULL               -- the numbers of its chunks: a compressed bitmap
    );
    CREATE INDEX snapshot_client ON snapshot (client, number);
    CREATE TABLE discard (digest BLOB PRIMARY KEY);  -- packs whose files are to be removed
    CREATE TABLE log (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        at REAL NOT NULL,
        client TEXT NOT NULL,
        address TEXT NOT NULL,
        action TEXT NOT NULL,
        detail TEXT NOT NULL
    );
    """,
    "ALTER TABLE client ADD COLUMN shares INTEGER NOT NULL DEFAULT 0;",  # chunks, with those of its id_key
)
"""Step n leads from version n to version n + 1 (``PRAGMA user_version``). A step is never changed."""
