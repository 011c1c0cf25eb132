"""``shardcast store``: the group of store commands."""

from __future__ import annotations

import click

from shardcast.cli.lazy_group import LazyCommand, LazyGroup

SERVE = LazyCommand(
    "serve", "shardcast.cli.blobs.serve", "Serve the blobs in DIRECTORY over HTTP, as hashserver does."
)
"""The group; ``shardcast-store`` runs the same one."""
_COMMANDS = (
    LazyCommand("gc", "shardcast.cli.blobs.gc", "Delete unreferenced blobs in DIRECTORY."),
    LazyCommand("get", "shardcast.cli.blobs.objects", "Get the blob DIGEST, verified."),
    LazyCommand("has", "shardcast.cli.blobs.objects", "Print whether each of DIGESTS is here."),
    LazyCommand("ls", "shardcast.cli.blobs.objects", "List the blobs in DIRECTORY."),
    LazyCommand("pin", "shardcast.cli.blobs.gc", "Keep blobs, referenced or not, until they are unpinned."),
    LazyCommand("pull", "shardcast.cli.blobs.copy", "Get blobs from the server at URL."),
    LazyCommand(
        "push", "shardcast.cli.blobs.copy", "Put blobs into the server at URL, a hash server or an archive."
    ),
    LazyCommand(
        "put", "shardcast.cli.blobs.objects", "Put FILES, and print their digests, one a line; - is stdin."
    ),
    SERVE,
    LazyCommand("stat", "shardcast.cli.blobs.objects", "Describe the blob DIGEST."),
    LazyCommand(
        "unpin", "shardcast.cli.blobs.gc", "End the pins of blobs: unreferenced ones can be deleted."
    ),
    LazyCommand(
        "verify", "shardcast.cli.blobs.verify", "Read every blob in DIRECTORY, and see whether it is right."
    ),
)


@click.group(cls=LazyGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def store() -> None:
    """Keep blobs under their digests."""
