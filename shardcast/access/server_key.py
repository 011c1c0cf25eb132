"""The key by which a server signs tickets, kept in its data directory."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from shardcast.access.signing import KEY_SIZE
from shardcast.disk_errors import error_text
from shardcast.filesystem import replace

log = logging.getLogger(__name__)

_OWNER_ONLY = 0o600


def load_key_seed(file: Path) -> bytes:
    """Return the bytes in a file that a server's key is made from (``SigningKey.from_seed``).

    Where there is no file, one is made. A server serves on where that can't be read or written (a full disk,
    another user's file): it signs by a key of this run then, and says so. Blocks on the disk.
    """
    seed = secrets.token_bytes(KEY_SIZE)
    try:
        if file.exists():
            with file.open("rb") as stream:
                found = stream.read(KEY_SIZE + 1)
            if len(found) == KEY_SIZE:
                return found
            log.warning("%s is no signing key, and is replaced", file)
        replace(file, seed, _OWNER_ONLY)
    except OSError as error:
        log.warning("tickets of this run have a key of their own: %s", error_text(error))
    return seed
