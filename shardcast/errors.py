"""The tree of errors. Every error raised on purpose by shardcast is a ``ShardcastError``.

::

    ShardcastError
    ├── UsageError (ValueError)             an argument makes no sense
    ├── NotInitialized (RuntimeError)       broadcast() before initialize()
    ├── VersionNotOffered                   no server offers this version
    │   └── VersionWithdrawn                withdrawn by its publisher
    ├── NoServerReachable                   no server answered in time
    ├── IntegrityError                      bytes do not match their digest
    │   └── BlobCorrupt                     a stored blob does not
    ├── BlobMissing                         the store does not have the blob
    ├── ReadOnlyStore                       the store takes no blobs and removes none
    ├── WrongStore                          the store uses another digest than requested
    ├── LocalDiskError (OSError)            this machine's disk: full, permission, not a file
    │   ├── LocalLimit                      too few open files, threads or bytes of memory allowed
    │   ├── NoRoom                          more than --max-bytes allows
    │   ├── PayloadMissing (FileNotFoundError)
    │   └── PayloadChanged                  written, grown or shrunk while being read
    ├── DataDirInUse                        another node works on this data directory
    ├── NodeFailed                          a node could not start, or ended
    │   ├── AddressTaken                    the address cannot be bound
    │   ├── NodeEnding                      the node is ending, and takes no more work
    │   └── NoNode                          no suitable node runs on this data directory
    ├── CopiesMissing (TimeoutError)        too few nodes have a version in time
    ├── UploadRefused                       an origin accepts no uploads, or not this one
    ├── TransferFailed                      the servers answered, but without the shards
    ├── RegistryError                       the hash registry; in DataJoint a DataJointError
    │   ├── StoreNotConfigured (UsageError)     no such store, or its configuration makes no sense
    │   ├── InvalidName (UsageError)            an impossible hash, schema name or path
    │   ├── MissingExternalFile                 no file at the stored path
    │   ├── HashMismatch (IntegrityError)       the file differs from the content put
    │   ├── HashCollision (IntegrityError)      other content of the same MD5 has the path
    │   ├── StoreInaccessible (OSError)         the store doesn't answer, or refuses
    │   │   └── StoreMissing (FileNotFoundError)    the store's directory does not exist
    │   └── ReferencesUnreadable                gc cannot read the references
    └── PeerError                           one server failed; a transfer turns to another
        ├── ServerUnreachable               no connection, or none from the gateway before the server
        │   └── CannotAsk                   this machine cannot open one
        ├── TlsFailure                      no TLS accepted by both ends: certificate, name, date
        ├── ServerStalled                   the server stopped sending
        ├── ServerLacks                     the server does not have this
        ├── AccessDenied                    the server or a gateway refuses: token missing or wrong
        ├── BadAnswer                       the answer does not fit the request
        └── WrongBytes                      a piece's digest is not right
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from typing import Any, Self

from shardcast.plain_text import one_line

_LONGEST_TEXT = 4000
"""Maximum characters of an error's text; it may name many servers."""
_LONGEST_PEER_TEXT = 500
"""Maximum characters about one server."""


class ShardcastError(Exception):
    """The base of every error raised on purpose by shardcast.

    The text is one printable line, also if a server or a file's name has other characters.
    """

    def __str__(self) -> str:
        """Return the text, made safe to show."""
        return one_line(super().__str__(), _LONGEST_TEXT)


class UsageError(ShardcastError, ValueError):
    """An argument without sense: a malformed address, size or version name."""


class NotInitialized(ShardcastError, RuntimeError):
    """A call of ``broadcast`` before ``initialize``."""


class VersionNotOffered(ShardcastError):
    """A version offered by none of the servers, all of which answered."""


class VersionWithdrawn(VersionNotOffered):
    """A version withdrawn by its publisher."""

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
    """No reachable server during the whole time allowed for a transfer."""


class IntegrityError(ShardcastError):
    """Bytes that do not match their digest. None of them got a final name."""


class BlobCorrupt(IntegrityError):
    """A blob in a store that does not match its digest. The store does not serve the blob."""


class BlobMissing(ShardcastError):
    """A blob missing in the store."""


class ReadOnlyStore(ShardcastError):
    """An attempt to change a store that takes no blobs and removes none."""


class WrongStore(ShardcastError):
    """A store with another digest for its blobs than the caller named."""


class LocalDiskError(ShardcastError, OSError):
    """A failure of this machine's disk: full, permission denied, no such file.

    The class is an ``OSError`` too: code that translates errors of connections lets each ``ShardcastError``
    pass.

    Attributes:
        errno: the system's number of the error; None without one.
    """


class LocalLimit(LocalDiskError):
    """A limit of this machine: too few open files, too few threads or too little memory for the process."""

    @classmethod
    def of(cls, error: BaseException) -> Self | None:
        """Return the error of the limit behind ``error``; None if no limit caused the error."""
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
    """A version that needs more bytes than its data directory may have."""


class PayloadMissing(LocalDiskError, FileNotFoundError):
    """A missing file to broadcast."""


class PayloadChanged(LocalDiskError):
    """A file to broadcast, changed while being read."""


class DataDirInUse(ShardcastError):
    """A data directory used by another process.

    Attributes:
        role: of the other process: ``origin``, ``middle``, ``broadcast``; empty if unknown.
    """

    def __init__(self, message: str, role: str = "") -> None:
        """Keep the role beside the message."""
        super().__init__(message)
        self.role = role


class NodeFailed(ShardcastError):
    """A node that could not start, or ended before finishing the work."""


class AddressTaken(NodeFailed):
    """An address to listen on that cannot be bound."""


class NodeEnding(NodeFailed):
    """A node that is ending, and refused or aborted work."""


class NoNode(NodeFailed):
    """A data directory without a running node for the work."""


class CopiesMissing(ShardcastError, TimeoutError):
    """Fewer copies of a version in time than requested. The version stays published.

    Attributes:
        version: the version's name, ``v7``.
        have: number of nodes with the version.
        copies: number of nodes requested.
    """

    def __init__(self, message: str, version: str = "", have: int = 0, copies: int = 0) -> None:
        """Keep the numbers beside the message."""
        super().__init__(message)
        self.version = version
        self.have = have
        self.copies = copies


class UploadRefused(ShardcastError):
    """A payload refused by an origin elsewhere: it accepts none, has no room, or discarded the upload."""


class TransferFailed(ShardcastError):
    """A transfer whose servers answered, but without the offered shards."""


class VersionAborted(TransferFailed):
    """A version aborted by its publisher before completion."""


class RegistryError(ShardcastError):
    """A failure of the hash registry, raised where DataJoint raises a ``DataJointError``."""


class StoreNotConfigured(RegistryError, UsageError):
    """A missing store or default, or a configuration without sense."""


class InvalidName(RegistryError, UsageError):
    """An impossible hash, schema name or path, or a path out of its store."""


class MissingExternalFile(RegistryError):
    """A stored path with no content any more."""


class HashMismatch(RegistryError, IntegrityError):
    """A file that differs from the content put at its path."""


class HashCollision(RegistryError, IntegrityError):
    """Other content of the same MD5 already at the path. Nothing was put or changed."""


class StoreInaccessible(RegistryError, OSError):
    """A store without an answer, or a refusal: network, credentials, permissions, a full disk."""


class StoreMissing(StoreInaccessible, FileNotFoundError):
    """A store whose directory does not exist."""


class ReferencesUnreadable(RegistryError):
    """References unreadable for garbage collection; nothing was deleted."""


class PeerError(ShardcastError):
    """A failure of one server.

    Attributes:
        server: URL of the server.
        what: the failure, without the URL.
    """

    def __init__(self, server: str, what: str) -> None:
        """Shorten the failure's description to a bounded length."""
        what = one_line(what, _LONGEST_PEER_TEXT)
        super().__init__(f"{server}: {what}")
        self.server = server
        self.what = what


class ServerUnreachable(PeerError):
    """A server without a connection, from this machine or from a gateway before the server (502, 504).

    Includes a connection broken before the answer.
    """


class CannotAsk(ServerUnreachable):
    """A connection prevented by a limit of this machine (``LocalLimit``). No server is to blame."""


class TlsFailure(PeerError):
    """A server without a TLS connection acceptable to both ends: a certificate, a name, a date, a protocol.

    Waiting does not help, so no transfer waits for such a server as for an unreachable one.
    """


class ServerStalled(PeerError):
    """A server that stopped sending."""


class ServerLacks(PeerError):
    """An answer that the server does not have the requested item, or not now (404, 412, 416, 503)."""


class ServerBusy(ServerLacks):
    """An answer that the server does not have the requested item now (503)."""


class BadAnswer(PeerError):
    """An answer to something else than the request: a wrong status, too few bytes, a web page."""


class AccessDenied(PeerError):
    """A request refused by a server or by a gateway before the server (401, 403).

    Attributes:
        scopes: scopes of a token, any of them sufficient; empty if the server names none.
        wants_token: whether the server requested a token; else the refusal may be a gateway's, and may pass.
    """

    def __init__(
        self, server: str, what: str, scopes: Iterable[str] = (), *, wants_token: bool = False
    ) -> None:
        """Keep the scopes beside the server and the text."""
        super().__init__(server, what)
        self.scopes = tuple(scopes)
        self.wants_token = wants_token

    def at(self, where: str, hint: str = "") -> AccessDenied:
        """Return the same error, with the request before its text and a hint after."""
        what = f"{where}: {self.what}{hint}"
        return AccessDenied(self.server, what, self.scopes, wants_token=self.wants_token)

    @classmethod
    def among(cls, failures: Iterable[PeerError]) -> AccessDenied | None:
        """Return one error for several servers with a refusal among them; None without a refusal.

        The first refusal comes first, since the user can mend it; the other failures follow in the text.
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
    """Return the error sent by another process, of the same type if this module has the type.

    Any other is a plain ``ShardcastError`` with the same text, as is a ``PeerError``.
    """
    kind, message = globals().get(str(payload.get("kind"))), str(payload.get("message"))
    if not isinstance(kind, type) or not issubclass(kind, ShardcastError) or issubclass(kind, PeerError):
        return ShardcastError(message)
    error = kind(message)
    if isinstance(error, LocalDiskError) and isinstance(payload.get("errno"), int):
        error.errno = payload["errno"]
    if isinstance(error, DataDirInUse):
        error.role = str(payload.get("role", ""))
    return error
