"""``shardcast status``: the versions of a network's nodes, and the reasons of their waits."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from shardcast.cli import options
from shardcast.cli.access_options import ClientAccessOptions, client_access_options
from shardcast.cli.exit_codes import DONE, OTHER_FAILURE, exit_code
from shardcast.cli.streams import print_answer

if TYPE_CHECKING:
    from shardcast.access.client_access import ClientAccess
    from shardcast.cli.status_table import Moment
    from shardcast.nodes.network_status import ServerState

_INTERVAL = 2.0
"""Seconds between two tables of ``--watch``."""
_CLEAR = "\x1b[H\x1b[J"
"""Moves a terminal's cursor to the top, and clears everything below."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("urls", nargs=-1, metavar="URL...")
@options.option("--watch", is_flag=True, env="STATUS_WATCH", help="Ask again every 2 s, until Ctrl-C.")
@client_access_options
@options.json_option
@options.logging_options
def status(urls: tuple[str, ...], watch: bool, client_access: ClientAccessOptions, as_json: bool) -> int:
    """Show the nodes and versions at the servers URL... and below them, and why one isn't ready.

    Without URL the servers are those of IP_ADDR_LIST. An unreachable server is shown with the reason; for a
    server without /status (shardcast 0.1.0, static ones) its list is shown.

    Exit code 0: all servers answered and are ready. 1: one is not ready. After a failed request, the code of
    the first failure: 4 unreachable, 8 refused.
    """
    options.start_logging()
    servers = options.servers_or_ip_addr_list(_parse(urls), "URL")
    access = client_access.load()
    from shardcast.nodes.runtime import run

    return run(_show(servers, access, watch, as_json), fast_loop=True)


def _parse(urls: Sequence[str]) -> list[str]:
    """Return the base URLs of the arguments; each argument may be a comma-separated list."""
    from shardcast.addresses import parse_servers

    return list(dict.fromkeys(url for text in urls for url in parse_servers(text)))


async def _show(servers: Sequence[str], access: ClientAccess, watch: bool, as_json: bool) -> int:
    """Print the state of the servers, once or until interrupted, and return the exit code."""
    from shardcast.nodes.network_status import ask_servers

    before: Moment | None = None
    while True:
        states = await ask_servers(servers, access)
        now = (time.monotonic(), states)
        _print(now, before, watch, as_json)
        if not watch:
            return code_of(states)
        before = now
        await asyncio.sleep(_INTERVAL)


def _print(now: Moment, before: Moment | None, watch: bool, as_json: bool) -> None:
    """Print the states as tables, or as JSON: with ``watch`` a line each time."""
    from shardcast.cli.status_table import status_lines

    if as_json:
        rows = [state_as_dict(state) for state in now[1]]
        print_answer(json.dumps(rows, indent=None if watch else 2))
        return
    lines = status_lines(now, before)
    text = "\n".join(lines)
    if watch:
        text = f"{time.strftime('%Y-%m-%d %H:%M:%S')}\n\n{text}"
        text = _CLEAR + text if sys.stdout.isatty() else text + "\n"
    print_answer(text)


def code_of(states: Sequence[ServerState]) -> int:
    """Return the exit code: that of the first failed request, else whether all servers are ready."""
    failure = next((state.failure for state in states if state.failure), None)
    if failure:
        return exit_code(failure)
    return OTHER_FAILURE if any(state.missing is not None for state in states) else DONE


def state_as_dict(state: ServerState) -> dict[str, Any]:
    """Return the state of a server in the form of the JSON output; ``status`` is the server's own answer."""
    from shardcast.cli.status_table import server_reason, server_word

    listed = [{"version": one.version, "digest": one.digest, "shards": one.shards} for one in state.listings]
    return {
        "server": state.url,
        "state": server_word(state),
        "why": server_reason(state) or None,
        "status": state.status.raw if state.status else None,
        "versions": listed if state.status is None and not state.failure else None,
    }
