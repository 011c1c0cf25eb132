"""Acts on a whole cluster: on each node, in parallel, from the origins down."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from shardcast.cli.cluster.acts import Outcome, start, status, stop
from shardcast.cli.cluster.drivers import NodeDriver, NodeError
from shardcast.cli.cluster.local_driver import LocalDriver
from shardcast.cli.cluster.network import (
    ROLES,
    ClusterNode,
    check,
    client_words,
    nodes_of_addresses,
    numbered,
    read_nodes,
    server_words,
)
from shardcast.cli.cluster.ssh_driver import SshDriver
from shardcast.concurrency import ThreadPool
from shardcast.constants import IP_ADDR_LIST
from shardcast.errors import UsageError
from shardcast.file_locks import locked

_AT_ONCE = 32
"""Nodes asked at once."""
_LOCK_SECONDS = 600.0
"""Maximum seconds to wait for another command on the same cluster."""


@dataclass(frozen=True)
class ClusterOptions:
    """The options of ``shardcast cluster``, explained in its help."""

    act: str
    nodes: Path | None
    role: tuple[str, ...]
    middles: int | None
    driver: str
    bin_dir: str
    upstream: Sequence[str]
    origin_options: Sequence[str]
    middle_options: Sequence[str]
    client_command: Sequence[str]
    grace: int
    lines: int
    dry_run: bool
    local: bool
    state_dir: Path
    base_port: int | None


def run_act(options: ClusterOptions) -> int:
    """Run the chosen act, and return the exit code.

    Raises:
        UsageError: the nodes file, or IP_ADDR_LIST, makes no sense.
        NodeError: a record of this machine's nodes is damaged.
    """
    driver = LocalDriver(options.state_dir) if options.local else SshDriver(options.driver)
    with _locked(options):
        nodes = _nodes_of(options, driver)
        if options.act == "start":
            check(nodes, needs_origin=not options.upstream)
        chosen = [node for node in nodes if node.role in (options.role or ROLES)]
        if not chosen:
            where = options.state_dir if options.local else "the network"
            click.echo(f"no {' or '.join(options.role or ['node'])} in {where}", err=True)
            return 0 if options.act == "stop" else 1
        commands = {node: _command(node, nodes, options) if options.act == "start" else [] for node in chosen}
        return _carry_out(options, driver, commands)


def _nodes_of(options: ClusterOptions, driver: NodeDriver) -> list[ClusterNode]:
    """Return the nodes of every role, where they run: the command of a node names others."""
    if isinstance(driver, LocalDriver) and not options.nodes and options.act != "start":
        return driver.place(driver.started(), None)
    if options.nodes:
        found = read_nodes(options.nodes)
    else:
        found = nodes_of_addresses(os.environ.get(IP_ADDR_LIST, ""), options.middles)
    if not found:
        raise UsageError(f"no nodes in {options.nodes or IP_ADDR_LIST}; name a nodes file (see --help)")
    nodes = list(numbered(found))
    return driver.place(nodes, options.base_port) if isinstance(driver, LocalDriver) else nodes


def _command(node: ClusterNode, nodes: Sequence[ClusterNode], options: ClusterOptions) -> list[str]:
    """Return the command of a node, word by word."""
    upstream = [*(other.server for other in nodes if other.role == "origin"), *options.upstream]
    middles = [other.server for other in nodes if other.role == "middle"]
    if node.role == "client":
        words = client_words(options.client_command, node, middles or upstream)
    elif node.role == "middle":
        words = [*server_words(node), "--upstream", ",".join(upstream), *options.middle_options]
    else:
        words = [*server_words(node), *options.origin_options]
    if options.bin_dir and words[0].startswith("shardcast"):
        words[0] = str(Path(options.bin_dir, words[0]))
    return words


def _carry_out(
    options: ClusterOptions, driver: NodeDriver, commands: Mapping[ClusterNode, Sequence[str]]
) -> int:
    """Run an act on the nodes, and return the exit code."""
    if options.dry_run:
        for node, words in commands.items():
            click.echo(driver.preview(options.act, node, words, options.lines))
        return 0
    if options.act == "logs":
        return _show_logs(driver, list(commands), options.lines)
    act: Callable[[ClusterNode], Outcome] = {
        "start": lambda node: start(driver, node, commands[node]),
        "status": lambda node: status(driver, node),
        "stop": lambda node: stop(driver, node, options.grace),
    }[options.act]
    # From the origins down: a node then finds listening servers.
    tiers = [[node for node in commands if node.role == role] for role in ROLES]
    width = max(len(node.target or "here") for node in commands)
    return max(_report(tier, act, width) for tier in tiers if tier)


def _report(nodes: Sequence[ClusterNode], act: Callable[[ClusterNode], Outcome], width: int) -> int:
    """Print a line for each node, and return the exit code."""
    code = 0
    for node, (good, text) in _in_parallel(nodes, act):
        where = (node.target or "here").ljust(width)
        server = "" if node.role == "client" else f"http://{node.server}"
        click.echo(f"{node.name:<10} {where}  {server:<28} {text}".rstrip())
        code = code if good else 1
    return code


def _show_logs(driver: NodeDriver, nodes: Sequence[ClusterNode], lines: int) -> int:
    """Print the logs, and return the exit code."""
    code = 0
    for node, (good, text) in _in_parallel(nodes, lambda node: (True, "\n".join(driver.log(node, lines)))):
        for line in text.splitlines():
            click.echo(f"{node.name:<10} {line}", file=sys.stdout if good else sys.stderr)
        code = code if good else 1
    return code


def _in_parallel(
    nodes: Sequence[ClusterNode], act: Callable[[ClusterNode], Outcome]
) -> Iterator[tuple[ClusterNode, Outcome]]:
    """Yield each node with the outcome of ``act``, in order; a failing node does not delay others."""

    def outcome(node: ClusterNode) -> Outcome:
        try:
            return act(node)
        except NodeError as error:
            return False, str(error)
        except OSError as error:
            return False, f"{error.filename or 'this machine'}: {error.strerror}"

    with ThreadPool(_AT_ONCE, "shardcast-cluster") as pool:
        yield from zip(nodes, pool.map(outcome, nodes), strict=True)


@contextlib.contextmanager
def _locked(options: ClusterOptions) -> Iterator[None]:
    """Lock --state-dir for a start or stop on this machine, so that two starts don't start a node twice.

    Raises:
        UsageError: another command keeps the lock for 10 minutes.
    """
    if not options.local or options.dry_run or options.act not in ("start", "stop"):
        yield
        return
    if options.act == "start":
        options.state_dir.mkdir(parents=True, exist_ok=True)
    elif not options.state_dir.is_dir():
        yield
        return
    try:
        with locked(options.state_dir / "lock", _LOCK_SECONDS):
            yield
    except BlockingIOError as error:
        raise UsageError(
            f"another cluster command is at work in {options.state_dir}; try again later"
        ) from error
