"""``shardcast backup clients``: the clients, their sizes and last backups; quotas; the log."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardcast.ages import age
from shardcast.cli import options
from shardcast.cli.backup.server_options import SETTINGS, store_dir_option
from shardcast.errors import UsageError
from shardcast.plain_text import one_line
from shardcast.sizes import format_count, format_size

if TYPE_CHECKING:
    from shardcast.backup.server.activity_log import LogEntry
    from shardcast.backup.server.management import ClientAccount

_MAX_PATH = 60
"""Characters of a path in a line."""
_DEFAULT = "default"
"""The word for the quota of the running server."""


class _Quota(options.Size):
    """Type of a quota: a size, or ``default``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the bytes; 0 for ``default``."""
        return 0 if value == _DEFAULT else super().convert(value, param, ctx)


@click.command(context_settings=SETTINGS, short_help="List the clients, or set the quota of CLIENT.")
@click.argument("client", required=False)
@store_dir_option
@click.option("--quota", type=_Quota(), help="Set the maximum bytes of CLIENT: 500GB, or default.")
@click.option("--log", "show_log", is_flag=True, help="Show the log of all actions, oldest first.")
@options.json_option
def clients(client: str | None, store_dir: Path, *, quota: int | None, show_log: bool, as_json: bool) -> None:
    """List the clients: bytes kept, quota, snapshots, the time of the last backup, and anything unusual."""
    from shardcast.backup.server.management import StoreManager
    from shardcast.backup.server.store_folder import StoreFolder

    if quota is not None and client is None:
        raise UsageError("--quota needs the name of a CLIENT")
    with StoreManager.opened(StoreFolder(store_dir)) as manager:
        if quota is not None and client is not None:
            manager.set_quota(client, quota or None)
        if show_log:
            for entry in manager.log(client):
                click.echo(json.dumps(entry._asdict()) if as_json else _log_line(entry))
            return
        for facts in manager.clients(client):
            click.echo(json.dumps(facts.to_json()) if as_json else _line(facts))


def _line(facts: ClientAccount) -> str:
    """Return a line about a client."""
    used = format_size(facts.used) + (f" of {format_size(facts.quota)}" if facts.quota else "")
    last = "no backup yet" if facts.last_backup is None else f"last {_ago(facts.last_backup)}"
    where = one_line(f"{facts.host}:{facts.path}", _MAX_PATH)
    words = [facts.name, where, used, format_count(facts.snapshots, "snapshot"), last]
    words += ["shares chunks"] if facts.shares else []
    words += [] if facts.keys else ["no valid key"]
    words += [f"UNUSUAL: {facts.unusual}"] if facts.unusual else []
    return "  ".join(words)


def _log_line(entry: LogEntry) -> str:
    """Return a line of the log."""
    at = datetime.fromtimestamp(entry.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{at}  {entry.client or '-'}  {entry.address}  {entry.action}  {entry.detail}".rstrip()


def _ago(then: float) -> str:
    """Return how long ago a time was."""
    seconds = age(then, time.time())
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}s ago"
    return "just now"
