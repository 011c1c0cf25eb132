"""Command lines and environments of shardcast's commands as the tests run them."""

from __future__ import annotations

import os
import sys


def environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without the settings that would change a node's behaviour.

    The machine's certificates are not read, which is a fifth of the CPU time that a command costs.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SHARDCAST_") and k != "IP_ADDR_LIST"}
    return {**kept, "PYTHONUNBUFFERED": "1", "SSL_CERT_FILE": os.devnull, **extra}


def certified_environment() -> dict[str, str]:
    """Return this process's environment with the machine's certificates, for what fetches from elsewhere."""
    return {k: v for k, v in os.environ.items() if (k, v) != ("SSL_CERT_FILE", os.devnull)}


def command(*words: str) -> list[str]:
    """Return ``shardcast WORDS…`` as this environment's interpreter runs it."""
    return [sys.executable, "-m", "shardcast", *words]
