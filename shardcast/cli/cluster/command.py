"""``shardcast cluster``: start, look after and stop a whole network."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click

from shardcast.cli.cluster.network import ROLES

_DRIVERS = ("tmux", "systemd-run")
_CLIENT = "shardcast-client --servers {servers} --version latest --wait --output-dir {data_dir}"
_HELP = """\b
examples:
  cluster start nodes.txt                      everything, over ssh, in tmux
  cluster start nodes.txt --role client        the clients alone
  cluster status nodes.txt
  cluster stop nodes.txt
  IP_ADDR_LIST="10.0.0.1 10.0.0.2 10.0.0.3" shardcast cluster start --middles 1
  cluster start nodes.txt --local              the same network as processes of this machine
  cluster status --local                       no NODES: what was started in --state-dir

\b
NODES has a node a line; # begins a comment:
  user@trainer|origin
  user@site-a|middle|port=8001|data_dir=/fast/shardcast|address=10.0.0.2
  user@gpu-1|client|data_dir=/models
port is where an origin or a middle listens (8000), address how the other nodes reach it (the host),
data_dir its data directory, or a client's output directory (shardcast/… in the home directory).

Middles take all origins as --upstream; clients take all middles, or the origins where there are none, as
--servers. A client waits for a version, fetches it, and counts as up when it ended well. What ssh needs
(port, key, jump host) stands in ~/.ssh/config; it never asks for a password. On a node, `tmux -L shardcast
attach` shows it live; with systemd-run nodes outlive your login after `loginctl enable-linger` there. With
--local the fields of NODES don't count: each node has a port of 127.0.0.1, and its data and log in
--state-dir/<node>.

exit codes: 0 done, all up · 1 a node is down, or could not be asked, started or stopped · 2 usage"""


class Words(click.ParamType[list[str]]):
    """Type of several words of a command line in one."""

    name = "words"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Return the words, as a shell would split them."""
        if isinstance(value, list):
            return value
        try:
            return shlex.split(str(value))
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def _addresses(_ctx: click.Context, _param: click.Parameter, value: str) -> list[str]:
    """Return the addresses of a comma-separated list."""
    return [word.strip() for word in value.split(",") if word.strip()]


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}, epilog=_HELP
)
@click.argument("act", type=click.Choice(["start", "status", "logs", "stop"]))
@click.argument("nodes", required=False, type=click.Path(path_type=Path, readable=False))
@click.option(
    "--role", multiple=True, type=click.Choice(ROLES), help="Only the nodes of this role; repeatable."
)
@click.option(
    "--middles",
    type=click.IntRange(0),
    help="IP_ADDR_LIST is the origin, then so many middles (all if missing), then clients.",
)
@click.option(
    "--driver",
    type=click.Choice(_DRIVERS),
    default=_DRIVERS[0],
    show_default=True,
    help="The program that runs the nodes.",
)
@click.option(
    "--bin-dir",
    envvar="SHARDCAST_BIN",
    show_envvar=True,
    default="",
    help="The folder of the shardcast commands on the nodes, if not on their PATH.",
)
@click.option(
    "--upstream",
    callback=_addresses,
    default="",
    help="Running origins, for example in a training loop, comma-separated.",
)
@click.option(
    "--origin-options",
    type=Words(),
    default="",
    help="More for each shardcast-origin: --origin-options='--keep 3'.",
)
@click.option(
    "--middle-options",
    type=Words(),
    default="",
    help="More for each shardcast-middle: --middle-options='--check-interval 5'.",
)
@click.option(
    "--client-command",
    type=Words(),
    default=_CLIENT,
    show_default=True,
    help="The command of a client; {servers} and {data_dir} are replaced.",
)
@click.option(
    "--grace",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    help="Seconds from SIGTERM to SIGKILL, when a node does not end.",
)
@click.option(
    "--lines", type=click.IntRange(0), default=40, show_default=True, help="Lines of each node's log."
)
@click.option("--dry-run", is_flag=True, help="Print the commands, and run nothing.")
@click.option("--local", is_flag=True, help="Run the network as processes of this machine.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, readable=False),
    default=".shardcast-cluster",
    show_default=True,
    help="With --local: the folder for records, data and logs of the nodes.",
)
@click.option(
    "--base-port",
    type=click.IntRange(1, 65535),
    help="With --local: the first port for nodes without one; by default free ports.",
)
def cluster(client_command: list[str], **options: Any) -> int:
    """Start, watch and stop a whole network, from a file NODES or from IP_ADDR_LIST.

    Each ACT can be repeated: running nodes are left alone.
    """
    if not client_command:
        raise click.UsageError("--client-command is empty")
    from shardcast.cli.cluster.whole import ClusterOptions, run_act

    return run_act(ClusterOptions(client_command=client_command, **options))
