"""The key behind a server's tickets, kept in its data directory."""

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
    """Return the seed of a server's key from a file (``SigningKey.from_seed``).

    A missing file is made, and one of another length replaced, with a warning. Where the file can't be read
    or written (a full disk, another user's file), the server serves on and signs by a key of this run, with a
    warning. Blocks on the disk.
    """
    seed = secrets.token_bytes(KEY_SIZE)
    try:
        if file.exists():
            with file.open("rb") as stream:
                found = stream.read(KEY_SIZE + 1)
            if len(found) == KEY_SIZE:
                return found
            log.warning(
                "%s is no signing key, and a new one replaces it; members of the swarm get new tickets when "
                "they announce themselves again",
                file,
            )
        replace(file, seed, _OWNER_ONLY)
    except OSError as error:
        log.warning(
            "the swarm's signing key can't be kept in %s (%s); sharing works, with a new key at each start: "
            "let this user read and write the file",
            file,
            error_text(error),
        )
    return seed
