"""``shardcast backup``: the group of backup commands."""

from __future__ import annotations

import click

from shardcast.cli.lazy_group import LazyCommand, LazyGroup

BACKUP = LazyCommand(
    "backup", "shardcast.cli.backup.group", "Keep directories of many machines, and restore them."
)
"""The group; ``shardcast-backup`` runs the same one."""
_COMMANDS = (
    LazyCommand("start", "shardcast.cli.backup.start", "Keep backups of invited clients."),
    LazyCommand("stop", "shardcast.cli.backup.stop", "End a running backup server."),
    LazyCommand("invite", "shardcast.cli.backup.invite", "Invite a machine to keep its backups here."),
    LazyCommand("clients", "shardcast.cli.backup.clients", "List the clients, or set the quota of CLIENT."),
    LazyCommand("revoke", "shardcast.cli.backup.revoke", "Make the keys of CLIENT worthless."),
    LazyCommand("prune", "shardcast.cli.backup.prune", "Delete data needed by no snapshot."),
    LazyCommand("check", "shardcast.cli.backup.check", "Check that no data of snapshots is missing."),
    LazyCommand("register", "shardcast.cli.backup.register", "Register a folder, by an invitation."),
    LazyCommand("backup", "shardcast.cli.backup.save", "Save a folder, and print the snapshot's id."),
    LazyCommand("scan", "shardcast.cli.backup.scan", "Show the paths a backup would save."),
    LazyCommand("snapshots", "shardcast.cli.backup.snapshots", "List the snapshots."),
    LazyCommand("ls", "shardcast.cli.backup.ls", "List a folder of snapshot ID."),
    LazyCommand("find", "shardcast.cli.backup.find", "Find NAME in snapshots."),
    LazyCommand("diff", "shardcast.cli.backup.diff", "Show how the snapshots A and B differ."),
    LazyCommand("cat", "shardcast.cli.backup.cat", "Print the file PATH of snapshot ID."),
    LazyCommand("restore", "shardcast.cli.backup.restore", "Restore snapshot ID."),
    LazyCommand("forget", "shardcast.cli.backup.forget", "Delete snapshots kept by no rule."),
)
"""The commands in the order of the help text: first of the server, then of clients."""


@click.group(cls=LazyGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def backup() -> None:
    """Keep the directories of many machines in one store, and give them back to the byte."""
