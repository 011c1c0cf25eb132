"""``shardcast withdraw``: take a published version back."""

from __future__ import annotations

import json
from pathlib import Path

import click

from shardcast.cli import options
from shardcast.cli.directories import through_node_or_alone
from shardcast.errors import UsageError
from shardcast.protocol.distribution import is_version
from shardcast.protocol.feed import check_reason


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("version")
@options.data_dir_option("./data")
@options.option("--reason", default="", help="The reason, in one line, for followers.")
@options.json_option
@options.logging_options
def withdraw(version: str, data_dir: Path, reason: str, as_json: bool) -> None:
    """Withdraw VERSION, published into a data directory: no node offers it any more.

    Followers go back to their newest good version, and learn the reason. Downloaded files stay. The number is
    never used again. The command works with or without a running origin.
    """
    options.start_logging()
    if not is_version(version):
        raise UsageError(f"{version!r} is not a version; write v1, v2, …")
    reason = check_reason(reason)
    from shardcast.control import client as control
    from shardcast.nodes.offline_withdrawal import withdraw_in
    from shardcast.nodes.runtime import run

    withdrawal = through_node_or_alone(
        data_dir,
        lambda: control.withdraw(data_dir, version, reason),
        lambda: run(withdraw_in(data_dir, version, reason)),
    )
    click.echo(f"{withdrawal.version} is withdrawn from {data_dir}", err=True)
    if as_json:
        result = {"version": withdrawal.version, "digest": withdrawal.digest, "reason": withdrawal.reason}
        click.echo(json.dumps(result))
