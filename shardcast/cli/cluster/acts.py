"""Acts on one node of a cluster: start, status, stop."""

from __future__ import annotations

import time
from collections.abc import Sequence

from shardcast.cli.cluster.drivers import NodeDriver, NodeError, NodeState, last_line
from shardcast.cli.cluster.network import ClusterNode

LISTENING = "Listening on"
"""The first words of a listening server."""
START_SECONDS = 15.0
"""Seconds for a server to listen."""
KILL_SECONDS = 10.0
"""Seconds for a killed process to end; more than the kernel needs."""
POLL_SECONDS = 0.1

Outcome = tuple[bool, str]
"""Whether a node is in the wanted state, and a word about it."""


def start(driver: NodeDriver, node: ClusterNode, words: Sequence[str]) -> Outcome:
    """Start a node, unless already running, and wait until a server listens, for 15 s at most.

    A server that runs without listening by then counts as started.
    """
    state = driver.state(node)
    if state.kind == "running":
        return True, "already running"
    if state.kind == "ended":
        driver.end(node, "clear")
    driver.launch(node, words)
    state = settled(driver, node)
    if not state.is_up(node):
        return False, f"did not start, {state}: {last_line(heard(driver, node)) or 'it said nothing'}"
    return True, "started" if state.kind == "running" else "done"


def settled(driver: NodeDriver, node: ClusterNode) -> NodeState:
    """Return the state of a node just launched: a client's at once, a server's once it listens or has ended.

    A server that does neither within ``START_SECONDS`` is returned as it is.
    """
    deadline = time.monotonic() + START_SECONDS
    while True:
        listens = node.role == "client" or any(LISTENING in line for line in heard(driver, node))
        state = driver.state(node)
        if listens or state.kind != "running" or time.monotonic() > deadline:
            return state
        time.sleep(POLL_SECONDS)


def heard(driver: NodeDriver, node: ClusterNode) -> list[str]:
    """Return the end of a node's log; nothing of an unreadable one: the node may run all the same."""
    try:
        return driver.log(node, 200)
    except NodeError:
        return []


def status(driver: NodeDriver, node: ClusterNode) -> Outcome:
    """Return a node's state."""
    state = driver.state(node)
    return state.is_up(node), "done" if state.kind == "ended" and state.is_up(node) else str(state)


def stop(driver: NodeDriver, node: ClusterNode, grace: float) -> Outcome:
    """Stop a node; kill a remaining one after ``grace`` seconds."""
    text = "not running"
    if driver.state(node).kind == "running":
        text = "stopped"
        driver.end(node, "stop")
        if not ended(driver, node, grace):
            text = f"killed, as it did not end within {grace:g} s"
            driver.end(node, "kill")
            if not ended(driver, node, KILL_SECONDS):
                return False, "still running, although it was killed"
    if driver.state(node).kind == "ended":
        driver.end(node, "clear")
    return True, text


def ended(driver: NodeDriver, node: ClusterNode, seconds: float) -> bool:
    """Wait for the end of ``node``; return whether it ended in time."""
    deadline = time.monotonic() + seconds
    while driver.state(node).kind == "running":
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True
