"""The fields of a message in the log, beside the text: the version, the shard and the server in question."""

from __future__ import annotations

import logging

from shardcast.errors import PeerError

_FIELDS = ("version", "shard", "server")


def about(
    *, version: str | None = None, shard: int | None = None, server: str | None = None
) -> dict[str, str | int]:
    """Return the fields of a message, as ``extra`` of a call that logs."""
    values = (("version", version), ("shard", shard), ("server", server))
    return {name: value for name, value in values if value is not None}


def fields_of(record: logging.LogRecord) -> dict[str, str | int]:
    """Return the fields of a logged message; the server of a failure among the arguments counts, too."""
    found = {name: vars(record)[name] for name in _FIELDS if name in vars(record)}
    arguments = record.args if isinstance(record.args, tuple) else ()
    failures = [argument for argument in arguments if isinstance(argument, PeerError)]
    if failures:
        found.setdefault("server", failures[0].server)
    return found
