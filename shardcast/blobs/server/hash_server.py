"""The hash server as a node: settings, the application, and its start and end.

Its command is ``shardcast store serve``. Under gunicorn, with its settings in the environment::

    SHARDCAST_STORE_DIRECTORY=blobs gunicorn -k aiohttp.GunicornWebWorker 'shardcast.nodes.store_server:app()'
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import KW_ONLY, dataclass
from functools import partial
from pathlib import Path
from typing import Self

from aiohttp import web

from shardcast.access.server_access import ServerAccess
from shardcast.access.token_file import TokenFile
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.compression import HAS_ZSTD
from shardcast.blobs.directory.layout import LAYOUTS, prepare
from shardcast.blobs.server.hash_routes.routes import add_hash_routes
from shardcast.blobs.server.hash_routes.state import LOCK_SECONDS, HashServerState
from shardcast.blobs.server.status_file import StatusFile
from shardcast.disk_errors import disk_errors
from shardcast.errors import AddressTaken, NodeFailed, UsageError
from shardcast.server.application import application, serve_on
from shardcast.server.binding import Bound, bind
from shardcast.server.bounds import Bounds

log = logging.getLogger(__name__)

ENVIRONMENT = ("SHARDCAST_STORE_", "HASHSERVER_")
"""Prefixes of the variables with settings; the first takes precedence."""
ALGORITHMS = {"sha-256": "sha256", "sha3-256": "sha3-256"}
"""The digests of stores, by hashserver's names."""
DYNAMIC_PORTS = (49152, 65535)
"""The dynamic ports (RFC 6335), with a free one chosen by default."""
_ANOTHER_PORT = (errno.EADDRINUSE, errno.EACCES)
"""Errors of one port: another may be free."""
_POLL = 1.0
"""Seconds between two looks at the time without requests."""
_TOKENS_VARIABLES = ("SHARDCAST_STORE_TOKENS", "SHARDCAST_TOKENS")
"""Variables with the name of the token file; the first takes precedence."""
_TRUE, _FALSE = ("true", "1"), ("false", "0", "")


@dataclass(frozen=True)
class StoreSettings:
    """The settings of a hash server.

    Attributes:
        directory: the directory of blobs; must exist.
        algorithm: the digest of the store, by our name.
        layout: the required layout of the directory; None for its present one, or else the prefix one.
        extra: read-only directories.
        writable: whether blobs can be put.
        lock_seconds: seconds of a lock file's validity after its last touch.
    """

    directory: Path
    algorithm: str = "sha256"
    layout: str | None = None
    extra: tuple[str, ...] = ()
    _: KW_ONLY
    writable: bool = False
    lock_seconds: float = LOCK_SECONDS

    def check(self) -> None:
        """Refuse impossible settings.

        Raises:
            UsageError: the layout is unknown, or the lock time-out isn't positive.
        """
        if self.layout not in (None, *LAYOUTS):
            raise UsageError(f"Layout must be 'flat' or 'prefix', not {self.layout!r}")
        if not self.lock_seconds > 0:
            raise UsageError(f"the lock timeout must be longer than 0 s, not {self.lock_seconds:g} s")

    def open(self) -> HashServerState:
        """Open the directory, and return the state of a hash server over it.

        The directory is shared with its group and its layout marked, as far as permissions allow.

        Raises:
            UsageError: a setting is impossible, or the directory does not exist.
            WrongStore: the directory has another digest, or one of the directories is private.
            LocalDiskError: the directory cannot be used.
        """
        self.check()
        with disk_errors("could not use", self.directory):
            store = BlobDirectory(
                self.directory, self.algorithm, self.layout, extra=self.extra, writable=self.writable
            )
            prepare(store.folder)
        if not HAS_ZSTD:
            log.info("blobs that are kept as zstd are not seen here: install shardcast[store]")
        return HashServerState(store, self.lock_seconds)


def parse_directories(text: str) -> tuple[str, ...]:
    """Return the directories in a list with semicolons; a pair of quotes is an empty list."""
    names = (name.strip() for name in text.split(";"))
    return tuple(name for name in names if name not in ("", "''", '""'))


def read_settings(environ: Mapping[str, str]) -> StoreSettings:
    """Return the settings in environment variables.

    Raises:
        UsageError: no directory is named, or a value is impossible.
    """

    def setting(name: str, default: str = "") -> str:
        found = (environ[first + name] for first in ENVIRONMENT if first + name in environ)
        return next(found, default).strip()

    directory = setting("DIRECTORY")
    if not directory:
        raise UsageError("name the directory of blobs in SHARDCAST_STORE_DIRECTORY or HASHSERVER_DIRECTORY")
    algorithm = setting("HASH_ALGORITHM") or "sha-256"
    if algorithm not in ALGORITHMS:
        raise UsageError(f"HASH_ALGORITHM {algorithm!r} is none of {', '.join(ALGORITHMS)}")
    writable = setting("WRITABLE").lower()
    if writable not in (*_TRUE, *_FALSE):
        raise UsageError(f"WRITABLE must be true or false, not {writable!r}")
    lock = setting("LOCK_TIMEOUT")
    try:
        lock_seconds = float(lock) if lock else LOCK_SECONDS
    except ValueError:
        raise UsageError(f"LOCK_TIMEOUT must be a number of seconds, not {lock!r}") from None
    return StoreSettings(
        Path(directory),
        ALGORITHMS[algorithm],
        setting("LAYOUT") or None,
        parse_directories(setting("EXTRA_DIRS")),
        writable=writable in _TRUE,
        lock_seconds=lock_seconds,
    )


def read_access(environ: Mapping[str, str]) -> ServerAccess:
    """Return the access rules in environment variables.

    Raises:
        UsageError: the file of tokens is broken, or a variable is set, and empty.
        LocalDiskError: the file can't be read.
    """
    paths = [environ.get(name) for name in _TOKENS_VARIABLES]
    if "" in paths:
        name = _TOKENS_VARIABLES[paths.index("")]
        raise UsageError(f"{name} is set, and empty; unset it or name a file")
    path = next(filter(None, paths), None)
    return ServerAccess(tokens=TokenFile(Path(path)) if path else None)


def app() -> web.Application:
    """Return the application for a server run by others, such as gunicorn, from the environment.

    Raises:
        ShardcastError: as in ``read_settings``, ``read_access`` and ``StoreSettings.open``.
    """
    return _application(read_settings(os.environ).open(), access=read_access(os.environ))


def _application(
    state: HashServerState, bounds: Bounds | None = None, access: ServerAccess | None = None
) -> web.Application:
    """Return the application over a state."""
    routes = partial(add_hash_routes, state=state)
    return application(secrets.token_hex(8), routes, as_sent=True, bounds=bounds, access=access)


@dataclass(frozen=True)
class StoreServer:
    """A running hash server.

    Attributes:
        url: address of the listener.
        state: its blobs, uploads and requests.
        timeout: seconds without a request until the end; None for never.
    """

    url: str
    state: HashServerState
    timeout: float | None

    async def wait_until_idle(self) -> None:
        """Return once ``timeout`` seconds have passed without a request; never without a ``timeout``."""
        while self.timeout is None or self.state.activity.idle_seconds() < self.timeout:  # noqa: ASYNC110
            await asyncio.sleep(_POLL)

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        settings: StoreSettings,
        host: str = "127.0.0.1",
        ports: tuple[int, int] = DYNAMIC_PORTS,
        *,
        status_file: Path | None = None,
        timeout: float | None = None,
        bounds: Bounds | None = None,
        access: ServerAccess | None = None,
    ) -> AsyncIterator[Self]:
        """Run a hash server.

        Args:
            settings: its settings.
            host: the address to listen on.
            ports: the first and the last of the ports to choose from.
            status_file: file for the parent program to read the port from; None without one.
            timeout: seconds without a request until ``wait_until_idle`` returns; None for never.
            bounds: bounds of its listener.
            access: rules of its listener; None to allow requests from all.

        Raises:
            UsageError: a setting is impossible, or the directory does not exist.
            WrongStore: the directory has another digest, or one of the directories is private.
            LocalDiskError: the directory can't be used.
            AddressTaken: the only port can't be bound.
            NodeFailed: no port can be bound, or the status file is missing or unusable.
        """
        status = await StatusFile.wait_for_file(status_file) if status_file else None
        async with AsyncExitStack() as stack:
            try:
                if timeout is not None and not timeout > 0:
                    raise UsageError(f"the inactivity timeout must be longer than 0 s, not {timeout:g} s")
                state = settings.open()
                taken = bind_free_port(host, *ports)
                url = await stack.enter_async_context(serve_on(_application(state, bounds, access), taken))
                if status:
                    status.report_running(taken.port)
            except BaseException:  # also when cancelled: the parent waits for either word
                if status:
                    status.report_failed()
                raise
            with state.activity.request():  # the idle time begins now
                pass
            yield cls(url, state, timeout)


def bind_free_port(host: str, first: int, last: int) -> Bound:
    """Bind a host's address with a free port from ``first`` to ``last``, chosen at random.

    Raises:
        UsageError: these are no ports.
        AddressTaken: the only port can't be bound.
        NodeFailed: no port can be bound, or the host is no address of this machine.
    """
    if not 0 <= first <= last <= 65535:
        raise UsageError(f"{first} to {last} is no range of ports: both from 0 to 65535, the lower first")
    if first == last:
        return bind(host, first)
    ports = range(first, last + 1)
    for port in random.sample(ports, len(ports)):
        try:
            return bind(host, port)
        except AddressTaken as error:
            if getattr(error.__cause__, "errno", None) not in _ANOTHER_PORT:
                raise NodeFailed(str(error)) from error  # every port would fail in the same way
    raise NodeFailed(f"no port from {first} to {last} of {host} can be bound; name other ones")
