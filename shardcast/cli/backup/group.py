"""``shardcast backup``: the group of its commands."""

from __future__ import annotations

import click

from shardcast.cli.lazy_group import LazyCommand, LazyGroup

BACKUP = LazyCommand(
    "backup", "shardcast.cli.backup.group", "Keep directories of many machines, and restore them."
)
"""The group, which ``shardcast-backup`` is too."""
_COMMANDS = (
    LazyCommand("start", "shardcast.cli.backup.start", "Keep backups of clients that were invited."),
)
"""The commands in the order of the help text: first of the server, then of clients."""


@click.group(cls=LazyGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def backup() -> None:
    """Keep the directories of many machines in one store, and give them back to the byte."""
