"""A restorer written from docs/backup-format.md alone: it imports nothing of shardcast.

::

    independent_restorer.py STORE_DIR CLIENT SNAPSHOT DEST      from the folder of a server
    independent_restorer.py URL KEY_FILE SNAPSHOT DEST          through a server
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import stat
import struct
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import zstandard
from blake3 import blake3

MAGIC, MAX_CHUNK, BLOCK = b"SCPACK1\n", 8 << 20, 4096
Fields = dict[str, Any]


def read_index(pack: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the id and the encoded bytes of each chunk of a pack."""
    (length,) = struct.unpack("<I", pack[-12:-8])
    offset = len(MAGIC)
    for chunk, size in struct.iter_unpack("<32sI", pack[len(pack) - 12 - length : -12]):
        yield chunk, pack[offset : offset + size]
        offset += size
    if offset != len(pack) - 12 - length or pack[:8] != MAGIC or pack[-8:] != MAGIC:
        raise ValueError("no pack, or the chunks do not end where its index begins")


def decode(encoded: bytes) -> bytes:
    """Return the plain bytes of an encoded chunk."""
    if encoded[:1] == b"\0" and len(encoded) <= MAX_CHUNK + 1:
        return encoded[1:]
    if encoded[:1] != b"\1" or not 0 <= zstandard.frame_content_size(encoded[1:]) <= MAX_CHUNK:
        raise ValueError("an unknown encoding, or too many bytes")
    return zstandard.ZstdDecompressor().decompress(encoded[1:])


def chunk_id(key: bytes, kind: bytes, plain: bytes) -> bytes:
    """Return the id of a chunk of the kind ``d`` or ``l``."""
    return blake3(kind + plain, key=key).digest()


def text(fields: Fields, name: str) -> bytes:
    """Return the bytes of a text, which are base64 under ``name64`` where they are not UTF-8."""
    return base64.b64decode(fields[name + "64"]) if name + "64" in fields else fields[name].encode()


class StoreFolder:
    """The chunks and records of one client in the folder of a server."""

    def __init__(self, folder: str, client: str) -> None:
        self._folder = os.path.abspath(folder)
        database = f"file:{quote(self._folder)}/backup.sqlite3?mode=ro"
        self._database = sqlite3.connect(database, uri=True)
        find = "SELECT number, id_key FROM client WHERE name = ?"
        self._client, self.key = self._database.execute(find, (client,)).fetchone()

    def record(self, snapshot: str) -> bytes:
        """Return the record of a snapshot."""
        find = "SELECT record FROM snapshot WHERE client = ? AND id = ?"
        return bytes(self._database.execute(find, (self._client, snapshot)).fetchone()[0])

    def encoded(self, chunk: bytes) -> bytes:
        """Return the encoded bytes of a chunk."""
        find = "SELECT pack, offset, length FROM chunk WHERE client = ? AND id = ?"
        pack, offset, length = self._database.execute(find, (self._client, chunk)).fetchone()
        find = "SELECT hex(digest) FROM pack WHERE number = ?"
        digest = self._database.execute(find, (pack,)).fetchone()[0].lower()
        with open(f"{self._folder}/packs/{digest[:2]}/{digest}", "rb") as file:
            return os.pread(file.fileno(), length, offset)


class Server:
    """The chunks and records of one client at a running server."""

    def __init__(self, url: str, key_file: str) -> None:
        self._url, self._bearer = url.rstrip("/"), Path(key_file).read_text().strip()
        self.key = base64.b64decode(json.loads(self._ask("/backup/client"))["id_key"])

    def _ask(self, path: str, body: bytes | None = None, **headers: str) -> bytes:
        headers["Authorization"] = f"Bearer {self._bearer}"
        with urllib.request.urlopen(urllib.request.Request(self._url + path, body, headers)) as answer:
            return bytes(answer.read())

    def record(self, snapshot: str) -> bytes:
        """Return the record of a snapshot."""
        return self._ask(f"/backup/snapshots/{snapshot}")

    def encoded(self, chunk: bytes) -> bytes:
        """Return the encoded bytes of a chunk."""
        pack, offset, length = struct.unpack("<32sQI", self._ask("/backup/locate", chunk))
        span = f"bytes={offset}-{offset + length - 1}"
        return self._ask(f"/backup/packs/{pack.hex()}", None, Range=span)


class Restorer:
    """Restores a snapshot to a folder that is new."""

    def __init__(self, source: StoreFolder | Server) -> None:
        self._source = source
        self._first_names: dict[str, bytes] = {}

    def run(self, snapshot: str, destination: bytes) -> None:
        """Restore a snapshot."""
        record = json.loads(self._source.record(snapshot))
        if record["format"] != 1:
            raise ValueError(f"format {record['format']}")
        self._restore(record["root"], destination)

    def _chunk(self, kind: bytes, chunk: bytes) -> bytes:
        """Return the verified bytes of a chunk."""
        plain = decode(self._source.encoded(chunk))
        if chunk_id(self._source.key, kind, plain) != chunk:
            raise ValueError(f"chunk {chunk.hex()} is damaged")
        return plain

    def _restore(self, entry: Fields, path: bytes) -> None:
        kind, first = entry["kind"], self._first_names.get(entry.get("hard", ""))
        if kind == "folder":
            os.mkdir(path, 0o700)
            for line in self._lines(entry):
                name = text(line, "name")
                if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
                    raise ValueError(f"{name!r} is no name")
                self._restore(line, path + b"/" + name)
        elif kind == "link":
            os.symlink(text(entry, "target"), path)
        elif kind == "fifo":
            os.mkfifo(path)
        elif kind in ("char", "block"):
            types = {"char": stat.S_IFCHR, "block": stat.S_IFBLK}
            os.mknod(path, types[kind], os.makedev(*entry["device"]))
        elif entry["size"] and not entry.get("chunks") and not entry.get("chunk_lists"):
            sys.stderr.write(f"{path!r} was not saved: {'; '.join(entry['problems'])}\n")
            return
        elif first is not None:
            os.link(first, path)
            return
        else:
            self._write(entry, path)
            if "hard" in entry:
                self._first_names[entry["hard"]] = path
        set_attributes(entry, path)

    def _lines(self, folder: Fields) -> Iterator[Fields]:
        """Yield the entries of a folder."""
        for segment in folder.get("segments", ()):
            lines = self._chunk(b"l", bytes.fromhex(segment)).split(b"\n")
            yield from map(json.loads, filter(None, lines))

    def _write(self, entry: Fields, path: bytes) -> None:
        """Write a file, with holes where it had some."""
        with open(path, "xb") as file:
            for chunk in self._chunks(entry):
                plain = self._chunk(b"d", chunk)
                for at in range(0, len(plain), BLOCK):
                    block = plain[at : at + BLOCK]
                    is_hole = entry.get("sparse") and not any(block)
                    file.seek(len(block), 1) if is_hole else file.write(block)
            file.truncate(file.tell())  # a hole may be the last
            if file.tell() != entry["size"]:
                raise ValueError(f"{path!r} has {file.tell()} bytes")

    def _chunks(self, entry: Fields) -> Iterator[bytes]:
        """Yield the ids of a file's chunks."""
        yield from map(bytes.fromhex, entry.get("chunks", ()))
        for piece in entry.get("chunk_lists", ()):
            for chunk, _ in struct.iter_unpack("<32sI", self._chunk(b"l", bytes.fromhex(piece))):
                yield chunk


def set_attributes(entry: Fields, path: bytes) -> None:
    """Set owner, extended attributes, mode and time, in this order; a link's own, not its target's."""
    if os.geteuid() == 0:
        os.chown(path, entry.get("uid", 0), entry.get("gid", 0), follow_symlinks=False)
    for name, value in entry.get("xattrs", {}).items():
        os.setxattr(path, name, base64.b64decode(value), follow_symlinks=False)
    if entry["kind"] != "link":
        os.chmod(path, entry.get("mode", 0))
    os.utime(path, ns=(entry.get("mtime", 0),) * 2, follow_symlinks=False)


if __name__ == "__main__":
    place, who, snapshot, dest = sys.argv[1:]
    source = Server(place, who) if place.startswith("http") else StoreFolder(place, who)
    Restorer(source).run(snapshot, os.fsencode(dest))
