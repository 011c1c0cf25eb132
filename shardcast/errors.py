"""The tree of errors. Every error that shardcast raises on purpose is a ``ShardcastError``.

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
    │   ├── NodeEnding                      it ends, and takes no more work
    │   └── NoNode                          no node that could do it runs on this data directory
    ├── CopiesMissing (TimeoutError)        too few nodes have a version in time
    ├── UploadRefused                       an origin takes no uploads, or not this one
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
        ├── TlsFailure                      no TLS that both ends accept: certificate, name, date
        ├── ServerStalled                   it stopped sending
        ├── ServerLacks                     it answered that it doesn't have this
        ├── AccessDenied                    it, or a gateway before it, refuses: no token, or a wrong one
        ├── BadAnswer                       the answer is not what was asked for
        └── WrongBytes                      a piece's digest is not right
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from typing import Any, Self

from shardcast.plain_text import one_line

_LONGEST_TEXT = 4000
"""Characters of an error's text, which may name many servers."""
_LONGEST_PEER_TEXT = 500
"""Characters of what happened at one server."""


class ShardcastError(Exception):
    """The base of every error that shardcast raises on purpose.

    Its text is one printable line, whatever a server or a file's name put into it.
    """

    def __str__(self) -> str:
        """Return the text, made safe to show."""
        return one_line(super().__str__(), _LONGEST_TEXT)


class UsageError(ShardcastError, ValueError):
    """An argument that makes no sense: an address, a size, a version's name."""


class NotInitialized(ShardcastError, RuntimeError):
    """A call of ``broadcast`` before ``initialize``."""


class VersionNotOffered(ShardcastError):
    """A version that none of the servers, which answered, offers."""


class VersionWithdrawn(VersionNotOffered):
    """A version that its publisher took back."""

    @classmethod
    def of(cls, version: str, reason: str = "", newest: str | None = None) -> Self:
        """Return the error of a download.

        Args:
            version: the version's name.
            reason: the publisher's; may be empty.
            newest: the newest good version on offer; None where there is none.
        """
        message = f"{version} was withdrawn by its publisher"
        good = f"newest good version: {newest}" if newest else "no other version is offered yet"
        return cls(f"{message}: {reason}; {good}" if reason else f"{message}; {good}")


class NoServerReachable(ShardcastError):
    """No reachable server for the whole time in which a transfer tries."""


class IntegrityError(ShardcastError):
    """Bytes that don't match their digest. None of them got a final name."""


class BlobCorrupt(IntegrityError):
    """A blob in a store whose bytes don't match its digest. The store serves it to no reader."""


class BlobMissing(ShardcastError):
    """A blob that the store doesn't have."""


class ReadOnlyStore(ShardcastError):
    """A change of a store that takes no blobs and removes none."""


class WrongStore(ShardcastError):
    """A store that keeps its blobs under another digest than the caller named."""


class LocalDiskError(ShardcastError, OSError):
    """A failure of this machine's disk: it is full, denies permission, has no such file.

    The class is an ``OSError`` too: code that translates errors of connections lets each ``ShardcastError``
    pass.

    Attributes:
        errno: the system's number of the error; None where the system reported none.
    """


class LocalLimit(LocalDiskError):
    """A limit of this machine: too few open files, too few threads or too little memory for the process."""

    @classmethod
    def of(cls, error: BaseException) -> Self | None:
        """Return the error of the limit that caused ``error``; None where no limit did."""
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
    """A version that would take more bytes than its data directory may have."""


class PayloadMissing(LocalDiskError, FileNotFoundError):
    """A file to broadcast that does not exist."""


class PayloadChanged(LocalDiskError):
    """A file to broadcast that changed while it was read."""


class DataDirInUse(ShardcastError):
    """A data directory that another process works on.

    Attributes:
        role: of that process: ``origin``, ``middle``, ``broadcast``; empty where it isn't known.
    """

    def __init__(self, message: str, role: str = "") -> None:
        """Keep the role beside the message."""
        super().__init__(message)
        self.role = role


class NodeFailed(ShardcastError):
    """A node that could not start, or ended before its work was done."""


class AddressTaken(NodeFailed):
    """An address that a node was to listen on and that can't be bound."""


class NodeEnding(NodeFailed):
    """A node that ends, and refused work or broke it off."""


class NoNode(NodeFailed):
    """A data directory without a running node that could do the work."""


class CopiesMissing(ShardcastError, TimeoutError):
    """Fewer copies of a version in time than were asked for. The version stays published.

    Attributes:
        version: its name, ``v7``.
        have: nodes that had it.
        copies: nodes that were to have it.
    """

    def __init__(self, message: str, version: str = "", have: int = 0, copies: int = 0) -> None:
        """Keep the numbers beside the message."""
        super().__init__(message)
        self.version = version
        self.have = have
        self.copies = copies


class UploadRefused(ShardcastError):
    """A payload that an origin elsewhere does not take: it takes none, has no room, or gave the upload up."""


class TransferFailed(ShardcastError):
    """A transfer whose servers answered, but not with the shards that they offer."""


class VersionAborted(TransferFailed):
    """A version aborted by its publisher before completion."""


class RegistryError(ShardcastError):
    """A failure of the hash registry, raised where DataJoint raises a ``DataJointError``."""


class StoreNotConfigured(RegistryError, UsageError):
    """A store that is not configured, has no default, or whose configuration makes no sense."""


class InvalidName(RegistryError, UsageError):
    """An impossible hash, schema name or path, or a path that leads out of its store."""


class MissingExternalFile(RegistryError):
    """A stored path with no content any more."""


class HashMismatch(RegistryError, IntegrityError):
    """Content at a path that is not the content that was put there."""


class HashCollision(RegistryError, IntegrityError):
    """Other content of the same MD5 has the path already. Nothing was put, and what is there is as it was."""


class StoreInaccessible(RegistryError, OSError):
    """A store that doesn't answer, or refuses: the network, credentials, permissions, a full disk."""


class StoreMissing(StoreInaccessible, FileNotFoundError):
    """A store whose directory does not exist."""


class ReferencesUnreadable(RegistryError):
    """References that garbage collection can't read; nothing was touched."""


class PeerError(ShardcastError):
    """A failure of one server.

    Attributes:
        server: its URL.
        what: what happened there, without the URL.
    """

    def __init__(self, server: str, what: str) -> None:
        """Cut what happened to a bounded length."""
        what = one_line(what, _LONGEST_PEER_TEXT)
        super().__init__(f"{server}: {what}")
        self.server = server
        self.what = what


class ServerUnreachable(PeerError):
    """A server without a connection, from this machine or from a gateway before the server (502, 504).

    A connection that broke before an answer counts too.
    """


class CannotAsk(ServerUnreachable):
    """A connection that a limit of this machine prevented (``LocalLimit``). No server is to blame."""


class TlsFailure(PeerError):
    """A server without a TLS connection that both ends accept: a certificate, a name, a date, a protocol.

    Time does not mend that, so nothing waits for such a server as for one that is down.
    """


class ServerStalled(PeerError):
    """A server that stopped sending."""


class ServerLacks(PeerError):
    """An answer that the server doesn't have this, or not now (404, 412, 416, 503)."""


class ServerBusy(ServerLacks):
    """An answer that the server doesn't have this now (503)."""


class BadAnswer(PeerError):
    """An answer to something else than the request: a wrong status, too few bytes, a web page."""


class AccessDenied(PeerError):
    """A request that a server, or a gateway before it, refuses (401, 403).

    Attributes:
        scopes: what a token needs there; empty where the server doesn't tell.
        wants_token: whether the server asked for a token; else the refusal may be a gateway's, and may pass.
    """

    def __init__(
        self, server: str, what: str, scopes: Iterable[str] = (), *, wants_token: bool = False
    ) -> None:
        """Keep the scopes beside the server and the text."""
        super().__init__(server, what)
        self.scopes = tuple(scopes)
        self.wants_token = wants_token

    def at(self, where: str, hint: str = "") -> AccessDenied:
        """Return the same error, with what was asked for before its text, and a hint behind it."""
        what = f"{where}: {self.what}{hint}"
        return AccessDenied(self.server, what, self.scopes, wants_token=self.wants_token)

    @classmethod
    def among(cls, failures: Iterable[PeerError]) -> AccessDenied | None:
        """Return the error of several servers of which one refused; None where none did.

        The first refusal counts, since it can be mended; the other failures stand behind it.
        """
        failed = list(failures)
        denied = next((failure for failure in failed if isinstance(failure, cls)), None)
        if denied is None:
            return None
        others = [str(failure) for failure in failed if failure is not denied]
        what = "; ".join([denied.what, *others])
        return cls(denied.server, what, denied.scopes, wants_token=denied.wants_token)


class WrongBytes(PeerError):
    """A piece or a blob with a wrong digest, from a server.

    Attributes:
        key: the blob's digest; None for a piece.
    """

    def __init__(self, server: str, what: str, key: str | None = None) -> None:
        """Keep the blob's digest beside the server and the text."""
        super().__init__(server, what)
        self.key = key


def to_wire(error: ShardcastError) -> dict[str, Any]:
    """Return an error as JSON for another process of this machine."""
    number = error.errno if isinstance(error, LocalDiskError) else None
    role = error.role if isinstance(error, DataDirInUse) else ""
    named = {"kind": type(error).__name__, "message": str(error)}
    return named | ({"errno": number} if number else {}) | ({"role": role} if role else {})


def from_wire(payload: Mapping[str, Any]) -> ShardcastError:
    """Return the error that another process sent, of the same type where that is in this module."""
    kind, message = globals().get(str(payload.get("kind"))), str(payload.get("message"))
    if not isinstance(kind, type) or not issubclass(kind, ShardcastError) or issubclass(kind, PeerError):
        return ShardcastError(message)
    error = kind(message)
    if isinstance(error, LocalDiskError) and isinstance(payload.get("errno"), int):
        error.errno = payload["errno"]
    if isinstance(error, DataDirInUse):
        error.role = str(payload.get("role", ""))
    return error
