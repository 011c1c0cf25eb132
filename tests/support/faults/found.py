"""Cells that failed once. Each run has them, whatever its sample is."""

from __future__ import annotations

from tests.support.faults.cells import Cell
from tests.support.faults.control import EVERYWHERE

_LIST = ".distribution.txt*.part"

FOUND = (
    # What could not be removed was forgotten, or failed what was done.
    Cell("origin: publish a copy", "unlink", ".shardcast/retired/v#-@/manifest.jsonl", "EPERM"),
    Cell("origin: publish a copy", "unlink", ".shardcast/verified/v#", "EPERM"),
    Cell("origin: publish a link", "rmdir", ".shardcast/retired/v#-@", "EACCES"),
    Cell("origin: publish without an origin", "unlink", EVERYWHERE, "EIO", 0),
    Cell("origin: publish a copy", "rename", f"{_LIST}>distribution.txt", "EIO", skip=1),
    Cell("client: download", "unlink", ".model.bin.part.manifest", "EROFS"),
    Cell("client: download", "opendir", ".", "EACCES"),
    Cell("client: store get", "readdir", ".", "ESTALE", skip=3),
    Cell("store: start a hash server", "fstat", EVERYWHERE, "ESTALE", 0),
    # A close that failed was tried again, on another file's descriptor.
    Cell("client: download", "close", "model.bin", "EIO"),
    Cell("store: put into a new store", "close", "@/@", "ENOSPC"),
    # Descriptors, and locks with them, stayed open.
    Cell("client: download into a new folder", "read", "a/b/.model.bin.part", "EIO"),
    Cell("middle: relay", "chmod", "v#/shard_#.bin.part", "EOPNOTSUPP"),
    # A pipe that this machine could not write was told of as an origin that went away.
    Cell("origin: publish from a pipe", "write", ".shardcast/stream-@.part", "EIO"),
    Cell("origin: publish from a pipe", "open-write", ".shardcast/stream-@.part", "EMFILE", skip=1),
    # A link was copied as the file that it leads to.
    Cell("client: follow", "rename", ".latest~@.part>latest", "EXDEV", skip=1),
    # A folder that could not be synced was taken for a blob of another user, and the blob acknowledged.
    Cell("store: put", "open", "@", "EACCES"),
    # Versions went for room that was not lacking.
    Cell("middle: relay", "mkdir", EVERYWHERE, "ENOSPC", 0),
    Cell("middle: relay", "truncate", EVERYWHERE, "EDQUOT", 0),
    # Uploads whose senders were told of their bytes were removed; ones that nobody wants stayed.
    Cell("origin: start beside unfinished uploads", "open", ".shardcast/uploads/@/record", "ENFILE"),
    Cell("origin: take an upload", "create", ".shardcast/uploads/@/payload", "EMFILE"),
    Cell("origin: take an upload", "opendir", ".shardcast/uploads/@", "EACCES"),
    Cell("origin: take a live upload", "unlink", "v#/shard_#.bin.part", "EACCES"),
    # What could not be looked at was taken for removed.
    Cell("middle: relay", "stat", ".shardcast/retired/v#-@", "EIO"),
    # An error that had passed stayed with what it had hit.
    Cell("middle: relay", "fsync", "v#/shard_#.bin.part", "EROFS"),
    Cell("middle: relay", "fallocate", EVERYWHERE, "ENOSPC", 0),
    Cell("origin: start", "fstat", ".shardcast/lock", "ESTALE"),
    Cell("origin: withdraw", "create", _LIST, "ENFILE"),
    # It was listed, and then said to have failed.
    Cell("origin: publish a link", "opendir", "v#", "ENFILE", skip=1),
    # What was acknowledged was lost.
    Cell("origin: publish a link", "stat", "v#/payload", "EACCES"),
    Cell("store: verify", "read", "@/@", "EIO", skip=2),
    # A token had a line, and was not printed.
    Cell("origin: append a token", "fsync", ".", "EIO"),
    Cell("origin: append a token", "close", "tokens", "EIO"),
    # Tracebacks, bare errors of the system, a failure of this machine that was another's.
    Cell("middle: relay", "mkdir", EVERYWHERE, "ENAMETOOLONG", 0),
    Cell("middle: serve", "stat", "v#/shard_#.bin", "ENOMEM"),
    Cell("origin: publish a copy", "open", ".shardcast/linked/v#", "EACCES"),
    Cell("origin: publish without an origin", "open", ".shardcast/keep", "ENFILE"),
    Cell("origin: start", "truncate", ".shardcast/lock", "EIO", skip=1),
    Cell("store: put", "readdir", ".", "EIO"),
    Cell("store: start an archive", "stat", ".HASHSERVER_PREFIX", "EIO", skip=1),
    Cell("store: serve from a hash server", "fstat", "@/@", "ESTALE"),
    Cell("registry: get", "stat", ".", "ENOMEM"),
    Cell("origin: start beside unfinished uploads", "stat", ".shardcast/uploads/@/record", "ESTALE", skip=1),
    # Descriptors and temporary files that stayed.
    Cell("client: replace", "read", EVERYWHERE, "EIO", 0),
    Cell("store: verify", "fstat", "@/@", "EIO"),
    Cell("store: put into a new store", "write", ".shardcast-store/digest-@.part", "ENOSPC"),
)
