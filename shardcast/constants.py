"""The settings and their defaults. Each can be set in the environment as ``SHARDCAST_<NAME>``.

They are read once, at import; the commands' options and the parameters of the library go before them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TypeVar

from shardcast.errors import UsageError
from shardcast.sizes import parse_size

T = TypeVar("T")

ENVIRONMENT_PREFIX = "SHARDCAST_"
HOOK_VARIABLES = (
    "SHARDCAST_NEW_LINE",
    "SHARDCAST_WITHDRAWN",
    "SHARDCAST_WITHDRAWN_REASON",
    "SHARDCAST_VERSION",
    "SHARDCAST_PATH",
    "SHARDCAST_NAME",
    "SHARDCAST_PREVIOUS_PATH",
    "SHARDCAST_METADATA",
)
"""Variables in a hook's environment: the origin id of a new line, or "none"; the withdrawn version, and the
reason; the version, its output, the name at its publication, the previous target of ``latest``, and the
publisher's JSON object."""
IN_HOOK = "SHARDCAST_IN_HOOK"
"""Set for a hook, so commands in the hook do not read those variables as options."""
IP_ADDR_LIST = "IP_ADDR_LIST"
"""The environment variable with the servers, for commands without the option."""
_SERVICE_LINK = re.compile(r"\s*(?:tcp|udp|sctp)://")


def is_service_link(text: str) -> bool:
    """Return whether a variable's text is an address set by Kubernetes for a Service.

    A Service ``shardcast-store`` sets ``SHARDCAST_STORE_PORT=tcp://10.0.0.1:80`` in all containers of its
    namespace; this is not meant as a port to listen on.
    """
    return _SERVICE_LINK.match(text) is not None


def _setting(name: str, default: T, parse: Callable[[str], T]) -> T:
    """Return a setting from the environment; the default if unset, empty or set for a Kubernetes Service.

    Raises:
        UsageError: the variable's text is malformed.
    """
    text = os.environ.get(ENVIRONMENT_PREFIX + name, "").strip()
    if not text or is_service_link(text):
        return default
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{ENVIRONMENT_PREFIX}{name}={text!r} in the environment: {error}") from None


def _whole(minimum: int, maximum: int) -> Callable[[str], int]:
    """Return a parser of whole numbers within bounds, which raises ValueError for any other text."""

    def parse(text: str) -> int:
        """Parse a whole number of ASCII digits within the bounds."""
        number = int(text) if text.isascii() and text.isdigit() else -1
        if not minimum <= number <= maximum:
            raise ValueError(f"must be a whole number from {minimum} to {maximum}")
        return number

    return parse


def _seconds(text: str) -> float:
    """Parse a time-out, of less than a day.

    Raises:
        ValueError: the text is not such a number.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 86_400:
        raise ValueError("must be a number of seconds between 0 and 86400")
    return seconds


SHARD_SIZE: int = _setting("SHARD_SIZE", 50_000_000, parse_size)
"""Bytes of payload in a shard."""
MAX_DISTRIBUTION_FOLDERS: int = _setting("MAX_DISTRIBUTION_FOLDERS", 15, _whole(1, 1_000_000))
"""Versions kept by a node."""
HTTP_PORT: int = _setting("HTTP_PORT", 8000, _whole(0, 65_535))
"""Port for servers to listen on, and port of an address without one."""
RETRY_ATTEMPTS: int = _setting("RETRY_ATTEMPTS", 5, _whole(1, 1000))
"""Failed answers to one shard after which a transfer fails."""
MAX_CONCURRENT_DOWNLOADS: int = _setting("MAX_CONCURRENT_DOWNLOADS", 10, _whole(1, 1000))
"""Requests under way at once in a transfer, over all servers."""
HTTP_TIMEOUT: float = _setting("HTTP_TIMEOUT", 30.0, _seconds)
"""Seconds without progress (a piece) after which an answer counts as stalled."""
TRANSFER_MEMORY: int = _setting("TRANSFER_MEMORY", 512 * 1024 * 1024, parse_size)
"""Maximum bytes of memory of one transfer: its manifest, and the arriving pieces."""
CHECK_INTERVAL: float = _setting("CHECK_INTERVAL", 30.0, _seconds)
"""Seconds between two requests for the list of a server without a feed, and until failed versions are tried
again."""
AUTHORITY_SILENT: float = _setting("AUTHORITY_SILENT", 60.0, _seconds)
"""Seconds without news of the first-named server until the next server takes its place."""
LINE_CONFIRMED: float = _setting("LINE_CONFIRMED", 10.0, _seconds)
"""Seconds during which the first-named server must offer another line of versions before a node changes over.
"""
LISTS_CONFIRMED: float = _setting("LISTS_CONFIRMED", 60.0, _seconds)
"""The same for a server without a feed (0.1.0, static), whose list must say so three times."""
LINE_PAUSE: float = _setting("LINE_PAUSE", 60.0, _seconds)
"""Seconds between two changes of line at least."""
LOCK_WAIT: float = _setting("LOCK_WAIT", 10.0, _seconds)
"""Seconds to wait for another process's lock in a store or an output folder."""
HEAD_TIMEOUT: float = _setting("HEAD_TIMEOUT", 60.0, _seconds)
"""Maximum seconds for the head of a request."""
KEEP_ALIVE: float = _setting("KEEP_ALIVE", 75.0, _seconds)
"""Seconds after which a server closes an idle connection; longer than the keep-alive of proxies."""
BODY_TIMEOUT: float = _setting("BODY_TIMEOUT", 60.0, _seconds)
"""Maximum seconds for a whole body kept in a server's memory; also the period for measuring the pace of
larger bodies."""
BODY_PACE: int = _setting("BODY_PACE", 1024, parse_size)
"""Minimum bytes a second of a request's body."""
STALLED_READER: float = _setting("STALLED_READER", 60.0, _seconds)
"""Seconds without any byte taken after which a server drops a reader."""
BODY_MEMORY: int = _setting("BODY_MEMORY", 16 << 20, parse_size)
"""Maximum bytes of one request's body in a server's memory."""
LISTENER_MEMORY: int = _setting("LISTENER_MEMORY", 64 << 20, parse_size)
"""Bytes of memory for all request bodies and unsent answers of a server together."""
CONNECTIONS_PER_ADDRESS: int = _setting("CONNECTIONS_PER_ADDRESS", 1024, _whole(1, 10_000_000))
"""Maximum open connections of a server from one address."""
TRUSTED_PROXY: str = _setting("TRUSTED_PROXY", "", str)
"""Addresses and networks whose connections are not counted."""
LOG_LEVEL: str = _setting("LOG_LEVEL", "INFO", str).upper()
"""Level of the log: ``DEBUG``, ``INFO``, ``WARNING`` or ``ERROR``."""
MAX_MIDDLE_NODE_LAYERS = 2
"""Layers of middles advised by 0.1.0; more work as well. Kept since programs import the name."""

DISTRIBUTION_FILE = "distribution.txt"
MANIFEST_FILE = "manifest.jsonl"
PAYLOAD_FILE = "payload"
VERSION_PREFIX = "v"

PIECE_SIZE = 256 * 1024
"""Bytes in a piece, the unit of verifying and passing on."""
LOOK_AHEAD = 10
"""Shards opened by a transfer beyond the last one hashed, so the whole digest reads bytes still in memory."""

CONNECT_TIMEOUT = 5.0
"""Seconds for one connection to be made."""
UNREACHABLE_AT_START: float = _setting("UNREACHABLE_AT_START", 10.0, _seconds)
"""Seconds without any reachable server after which a transfer without a first byte fails."""
UNREACHABLE_ONCE_BEGUN: float = _setting("UNREACHABLE_ONCE_BEGUN", 120.0, _seconds)
"""The same for a transfer with some bytes."""
STALL_WHEN_OTHERS_CAN = 2.0
"""Seconds without a byte after which a transfer leaves a server for another one."""

FEED_HEARTBEAT = 5.0
"""Seconds between two lines of a feed at most."""
FEED_DEAD = 15.0
"""Seconds without a line after which a feed counts as dead."""

LANDING_WAIT = 2.0
"""Maximum seconds a request waits for the first piece of a shard."""
ORIGIN_SILENT = 60.0
"""Seconds without news of its origin after which an open version is stalled."""

SHUTDOWN_GRACE = 5.0
"""Seconds for running answers to finish when a server ends."""
RECENTLY_READ = 60.0
"""Seconds after the last read during which a version is not retired."""
LONGEST_HOLD = 600.0
"""Maximum seconds beyond retention for which remote readers can hold a version."""
