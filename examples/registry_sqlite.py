"""Keep arrays, images or pickles out of a database: SQLite has the rows, the registry their content.

    python examples/registry_sqlite.py put FILE…       keep files, each as a row
    python examples/registry_sqlite.py get NAME        write one to stdout
    python examples/registry_sqlite.py remove NAME     remove its row; its content stays
    python examples/registry_sqlite.py collect         collect what no row refers to; --delete to do it

Any database will do: what ``put_hash`` returns is a small dict for a JSON column, and ``gc.collect`` wants
those of all rows back.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path

from shardcast import registry

SCHEMA = "lab"


def connect(folder: Path) -> sqlite3.Connection:
    """Open the database, and make its table."""
    (folder / "store").mkdir(parents=True, exist_ok=True)
    registry.configure({"default": "main", "main": {"protocol": "file", "location": str(folder / "store")}})
    database = sqlite3.connect(folder / "lab.sqlite3")
    database.execute("CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, content TEXT NOT NULL)")
    return database


def put(database: sqlite3.Connection, file: Path) -> None:
    """Keep a file as a row."""
    # First the content and then its row: what is put and has no row yet is too young to be collected.
    metadata = registry.put_hash(file.read_bytes(), SCHEMA)
    with database:
        database.execute("REPLACE INTO files VALUES (?, ?)", (file.name, json.dumps(metadata)))


def get(database: sqlite3.Connection, name: str) -> bytes:
    """Return the content of a row."""
    found = database.execute("SELECT content FROM files WHERE name = ?", (name,)).fetchone()
    if found is None:
        raise SystemExit(f"there is no {name}")
    return registry.get_hash(json.loads(found[0]))


def references(database: sqlite3.Connection) -> Iterator[str]:
    """Yield the content column of every table that has one; an error here deletes nothing."""
    for (content,) in database.execute("SELECT content FROM files"):
        yield content


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Files in a registry, their names in SQLite.")
    parser.add_argument("--folder", type=Path, default=Path("registry-example"), help="where both are kept")
    parser.add_argument("--min-age", type=float, default=registry.gc.MIN_AGE, help="seconds")
    parser.add_argument("--quarantine", type=float, default=registry.gc.QUARANTINE, help="seconds")
    parser.add_argument("--delete", action="store_true", help="collect, and not only say what would be")
    parser.add_argument("command", choices=["put", "get", "remove", "collect"])
    parser.add_argument("names", nargs="*")
    given = parser.parse_args()
    with contextlib.closing(connect(given.folder)) as database:
        for name in given.names:
            if given.command == "put":
                put(database, Path(name))
            elif given.command == "get":
                sys.stdout.buffer.write(get(database, name))
            elif given.command == "remove":
                with database:
                    database.execute("DELETE FROM files WHERE name = ?", (name,))
        if given.command == "collect":
            done = registry.gc.collect(
                SCHEMA,
                references=lambda: references(database),
                dry_run=not given.delete,
                min_age=given.min_age,
                quarantine=given.quarantine,
            )
            print(registry.gc.format_stats(done))


if __name__ == "__main__":
    main()
