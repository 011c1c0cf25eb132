"""What can go wrong. Everything that shardcast raises on purpose is a ``ShardcastError``.

::

    ShardcastError
    ├── UsageError (ValueError)             what was asked for makes no sense
    ├── NotInitialized (RuntimeError)       broadcast() before initialize()
    ├── VersionNotOffered                   no server offers this version
    │   └── VersionWithdrawn                its publisher took it back
    ├── NoServerReachable                   no server answered in time
    ├── IntegrityError                      bytes are not what their digest says
    │   └── BlobCorrupt                     a blob that is here is not
    ├── BlobMissing                         the blob isn't here
    ├── ReadOnlyStore                       nothing can be put into this store, or removed from it
    ├── WrongStore                          the store is of another digest than was said
    ├── LocalDiskError (OSError)            this machine's disk: full, permission, not a file
    │   ├── LocalLimit                      too few open files, threads or bytes of memory allowed
    │   ├── NoRoom                          more than --max-bytes allows
    │   ├── PayloadMissing (FileNotFoundError)
    │   └── PayloadChanged                  it grew, shrank or was written while it was read
    ├── DataDirInUse                        another node works on this data directory
    ├── NodeFailed                          a node could not start, or ended
    │   ├── AddressTaken                    its address can't be bound
    │   └── NoNode                          no node that could do it runs on this data directory
    ├── CopiesMissing (TimeoutError)        too few nodes have a version in time
    ├── TransferFailed                      the servers answered, but not with the shards
    ├── RegistryError                       the hash registry; what is a DataJointError there
    │   ├── StoreNotConfigured (UsageError)     no such store, or its configuration makes no sense
    │   ├── InvalidName (UsageError)            a hash, a schema's name or a path that can't be one
    │   ├── MissingExternalFile                 there is nothing at the stored path
    │   ├── HashMismatch (IntegrityError)       what is there is not what was put
    │   ├── HashCollision (IntegrityError)      other content of the same MD5 has the path
    │   ├── StoreInaccessible (OSError)         the store doesn't answer, or refuses
    │   │   └── StoreMissing (FileNotFoundError)    its directory does not exist
    │   └── ReferencesUnreadable                gc can't tell what is referenced
    └── PeerError                           one server failed; a transfer turns to another
        ├── ServerUnreachable               no connection, or the gateway before it has none
        │   └── CannotAsk                   this machine can't make one
        ├── ServerStalled                   it stopped sending
        ├── ServerLacks                     it answered that it doesn't have this
        ├── BadAnswer                       the answer is not what was asked for
        └── WrongBytes                      a piece's digest is not right
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from shardcast.plain_text import one_line

_LONGEST_TEXT = 4000
"""Characters of an error's text, which may name many servers."""
_LONGEST_PEER_TEXT = 500
"""Characters of what happened at one server."""


class ShardcastError(Exception):
    """The base of every error that shardcast raises on purpose. Its text is one printable line, whatever a
    server or a file's name put into it."""

    def __str__(self) -> str:
        return one_line(super().__str__(), _LONGEST_TEXT)


class UsageError(ShardcastError, ValueError):
    """What was asked for makes no sense: an address, a size, a version's name."""


class NotInitialized(ShardcastError, RuntimeError):
    """``broadcast`` was called before ``initialize``."""


class VersionNotOffered(ShardcastError):
    """The servers answered, and none of them offers this version."""


class VersionWithdrawn(VersionNotOffered):
    """The publisher of this version took it back."""

    @classmethod
    def of(cls, version: str, reason: str = "", newest: str | None = None) -> VersionWithdrawn:
        """Return the error of a download of ``version``; ``newest``: the newest good version on offer."""
        told = f"{version} was withdrawn by its publisher"
        good = f"newest good version: {newest}" if newest else "no other version is offered yet"
        return cls(f"{told}: {reason}; {good}" if reason else f"{told}; {good}")


class NoServerReachable(ShardcastError):
    """No server could be reached for as long as it was worth trying."""


class IntegrityError(ShardcastError):
    """Bytes are not what their digest says. Nothing was put under a final name."""


class BlobCorrupt(IntegrityError):
    """What a store has of a blob is not what its digest says. It is not given to anybody."""


class BlobMissing(ShardcastError):
    """The blob isn't here."""


class ReadOnlyStore(ShardcastError):
    """Nothing can be put into this store, or removed from it."""


class WrongStore(ShardcastError):
    """The store keeps its blobs under another digest than was said."""


class LocalDiskError(ShardcastError, OSError):
    """This machine can't do it: its disk is full, no permission, not a file.

    It is an ``OSError`` too: code that translates errors of connections lets each ``ShardcastError`` pass.

    Attributes:
        errno: the system's number of the error; None where the system reported none.
    """


class LocalLimit(LocalDiskError):
    """This machine allows the process too few open files, too few threads or too little memory."""

    @classmethod
    def of(cls, error: BaseException) -> LocalLimit | None:
        """Return this error where such a limit was the cause of ``error``; else None."""
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EMFILE:
            limit = cls("too many open files; allow this process more of them (ulimit -n)")
        elif number == errno.ENFILE:
            limit = cls("too many open files on this machine; allow more of them (fs.file-max)")
        elif isinstance(error, RuntimeError) and "start new thread" in str(error):
            limit = cls("no more threads can be started; allow more of them (ulimit -u, or of the container)")
        elif (
            number in (errno.ENOMEM, errno.ENOBUFS)
            or isinstance(error, MemoryError)
            or (isinstance(error, ImportError) and "map segment" in str(error))  # of a module in C
        ):
            limit = cls("too little memory; allow more of it (ulimit -v, or of the container)")
        else:
            return None
        limit.errno = number
        return limit


class NoRoom(LocalDiskError):
    """The version would take more bytes than its data directory may have."""


class PayloadMissing(LocalDiskError, FileNotFoundError):
    """The file to broadcast does not exist."""


class PayloadChanged(LocalDiskError):
    """The file to broadcast changed while it was read."""


class DataDirInUse(ShardcastError):
    """Another process works on this data directory.

    Attributes:
        role: what it is there: ``origin``, ``middle``, ``broadcast``; empty where that isn't known.
    """

    def __init__(self, message: str, role: str = "") -> None:
        super().__init__(message)
        self.role = role


class NodeFailed(ShardcastError):
    """A node could not start, or ended before its work was done."""


class AddressTaken(NodeFailed):
    """The address that a node was to listen on can't be bound."""


class NoNode(NodeFailed):
    """No node that could do it runs on this data directory."""


class CopiesMissing(ShardcastError, TimeoutError):
    """Fewer nodes than were asked for had a version in time. The version stays published.

    Attributes:
        version: its name, ``v7``.
        have: nodes that had it.
        copies: nodes that should.
    """

    def __init__(self, message: str, version: str = "", have: int = 0, copies: int = 0) -> None:
        super().__init__(message)
        self.version = version
        self.have = have
        self.copies = copies


class TransferFailed(ShardcastError):
    """The servers answered, but not with the shards that they offer."""


class VersionAborted(TransferFailed):
    """The publisher gave the version up before it was complete."""


class RegistryError(ShardcastError):
    """The hash registry can't do it. Where DataJoint raises a ``DataJointError``, this is raised."""


class StoreNotConfigured(RegistryError, UsageError):
    """There is no store of this name, no default, or its configuration makes no sense."""


class InvalidName(RegistryError, UsageError):
    """A hash, a schema's name or a path that can't be one, or would lead out of its store."""


class MissingExternalFile(RegistryError):
    """There is nothing at the path that was stored when the content was put."""


class HashMismatch(RegistryError, IntegrityError):
    """What is at a path is not what was put there."""


class HashCollision(RegistryError, IntegrityError):
    """Other content of the same MD5 has the path already. Nothing was put, and what is there is as it was."""


class StoreInaccessible(RegistryError, OSError):
    """A store doesn't answer, or refuses: the network, credentials, permissions, a full disk."""


class StoreMissing(StoreInaccessible, FileNotFoundError):
    """The directory of a store does not exist."""


class ReferencesUnreadable(RegistryError):
    """Garbage collection can't tell what is referenced; nothing was touched."""


class PeerError(ShardcastError):
    """One server failed.

    Attributes:
        server: its URL.
        what: what happened there, without the URL.
    """

    def __init__(self, server: str, what: str) -> None:
        what = one_line(what, _LONGEST_PEER_TEXT)
        super().__init__(f"{server}: {what}")
        self.server = server
        self.what = what


class ServerUnreachable(PeerError):
    """No connection could be made, by this machine or by a gateway before the server (502, 504), or it broke
    before an answer."""


class CannotAsk(ServerUnreachable):
    """No connection could be made, for a limit of this machine (``LocalLimit``). No server is to blame."""


class ServerStalled(PeerError):
    """The server stopped sending."""


class ServerLacks(PeerError):
    """The server answered that it doesn't have this, or not now (404, 412, 416, 503)."""


class ServerBusy(ServerLacks):
    """The server answered that it doesn't have this now (503)."""


class BadAnswer(PeerError):
    """The answer is not what was asked for: a wrong status, too few bytes, a web page."""


class WrongBytes(PeerError):
    """The server sent a piece, or a blob, whose digest is not right.

    Attributes:
        key: the blob's digest; None where it is no blob.
    """

    def __init__(self, server: str, what: str, key: str | None = None) -> None:
        super().__init__(server, what)
        self.key = key


def to_wire(error: ShardcastError) -> dict[str, Any]:
    """An error as another process of this machine is told of it."""
    number = error.errno if isinstance(error, LocalDiskError) else None
    return {"kind": type(error).__name__, "message": str(error)} | ({"errno": number} if number else {})


def from_wire(said: Mapping[str, Any]) -> ShardcastError:
    """The error that another process told of, of the same type where that is one of these."""
    kind, message = globals().get(str(said.get("kind"))), str(said.get("message"))
    if not isinstance(kind, type) or not issubclass(kind, ShardcastError) or issubclass(kind, PeerError):
        return ShardcastError(message)
    error = kind(message)
    if isinstance(error, LocalDiskError) and isinstance(said.get("errno"), int):
        error.errno = said["errno"]
    return error
