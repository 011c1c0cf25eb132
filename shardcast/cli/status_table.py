"""The state of a network as two tables, of nodes and of versions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from shardcast.cli.tables import format_table
from shardcast.errors import AccessDenied, ServerUnreachable
from shardcast.nodes.network_status import ServerState
from shardcast.protocol.node_status import NodeStatus
from shardcast.protocol.report import Node
from shardcast.protocol.wire import version_name, version_number
from shardcast.sizes import format_count, format_rate, format_size

NODES = ("NODE", "ROLE", "STATE", "HAS", "ON ITS WAY", "SENDING", "WHY")
VERSIONS = ("VERSION", "SIZE", "NAME", "HELD BY")
Moment = tuple[float, Sequence[ServerState]]
"""The states of the servers, and when they were asked, in seconds."""


def status_lines(now: Moment, before: Moment | None = None) -> list[str]:
    """Return the lines of both tables.

    Args:
        now: the states to show.
        before: earlier states, to compute the rates of nodes below; None without any.
    """
    states = now[1]
    rates = _rates_below(now, before) if before else {}
    sizes = _sizes(states)
    nodes = [_server_row(state, sizes) for state in states]
    nodes += [_below_row(node, sizes, rates) for node in nodes_below(states).values()]
    lines = format_table(NODES, nodes)
    versions = list(_version_rows(states))
    lines += ["", *(format_table(VERSIONS, versions) if versions else ["No server lists a version yet."])]
    return lines + list(_notes(states))


def server_word(state: ServerState) -> str:
    """Return the state of a server in a word or two."""
    if isinstance(state.failure, AccessDenied):
        return "refused"
    if state.failure:
        return "unreachable" if isinstance(state.failure, ServerUnreachable) else "failed"
    if state.status is None:
        return "answers"
    return "ready" if state.missing is None else "not ready"


def server_reason(state: ServerState) -> str:
    """Return in words why a server is not ready, or has troubles; empty for neither."""
    troubles = state.status.troubles if state.status else ()
    reasons = [state.failure.what if state.failure else "", state.missing or "", *troubles]
    return "; ".join(dict.fromkeys(filter(None, reasons)))


def nodes_below(states: Sequence[ServerState]) -> dict[str, Node]:
    """Return the nodes reported to the servers, without the servers themselves, by id, as last reported."""
    told = [state.status for state in states if state.status]
    found: dict[str, Node] = {}
    for node in (node for status in told for node in status.below):
        known = found.get(node.node)
        if known is None or node.age < known.age:
            found[node.node] = node
    return {name: node for name, node in found.items() if name not in {status.node for status in told}}


def _server_row(state: ServerState, sizes: dict[str, int]) -> tuple[str, ...]:
    """Return the row of a server."""
    status = state.status
    if status is None:
        role = "-" if state.failure else "list only"
        has = version_ranges(listing.version for listing in state.listings)
        return state.url, role, server_word(state), has, "-", "-", server_reason(state)
    sending = sum(version.sending for version in status.versions)
    return (
        state.url,
        status.role,
        server_word(state),
        version_ranges(version.version for version in status.versions if version.is_complete),
        _on_its_way(status, sizes),
        format_rate(sending) if sending else "-",
        server_reason(state),
    )


def _on_its_way(status: NodeStatus, sizes: dict[str, int]) -> str:
    """Return the incomplete versions of a server, with their rates."""
    rates = {transfer.version: transfer.rate for transfer in status.transfers}
    coming = {version.version: version.bytes_here for version in status.versions if not version.is_complete}
    coming |= {transfer.version: transfer.done for transfer in status.transfers}
    return _coming_words(coming, sizes, rates)


def _below_row(node: Node, sizes: dict[str, int], rates: dict[tuple[str, str], float]) -> tuple[str, ...]:
    """Return the row of a node reported to servers."""
    own = {version: rate for (name, version), rate in rates.items() if name == node.node}
    heard = f"heard {node.age:.0f} s ago"
    coming = _coming_words(node.coming, sizes, own)
    name = f"{'  ' * max(node.hops, 1)}{node.name or node.node}"
    return name, node.role, heard, version_ranges(node.has), coming, "-", ""


def _coming_words(coming: Mapping[str, int], sizes: Mapping[str, int], rates: Mapping[str, float]) -> str:
    """Return versions under way in words: ``v3 45% of 1.2 GB, 53.7 MB/s``."""
    words = []
    for version, done in coming.items():
        size = sizes.get(version)
        part = f"{done / size:.0%} of {format_size(size)}" if size else format_size(done)
        rate = f", {format_rate(rates[version])}" if version in rates else ""
        words.append(f"{version} {part}{rate}")
    return "; ".join(words) or "-"


def _sizes(states: Sequence[ServerState]) -> dict[str, int]:
    """Return the sizes of versions known to any server."""
    versions = [version for state in states if state.status for version in state.status.versions]
    return {version.version: version.size for version in versions if version.size}


def _version_rows(states: Sequence[ServerState]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each listed version, oldest first; the versions of two lines stay apart."""
    nodes = nodes_below(states).values()
    servers: dict[tuple[int, str], int] = {}
    below: dict[tuple[int, str], set[str]] = {}
    facts: dict[tuple[int, str], tuple[int | None, str | None]] = {}
    for state in states:
        for version, digest, size, name in _listed(state):
            key = (version_number(version) or 0, digest)
            servers[key] = servers.get(key, 0) + 1
            known = facts.get(key, (None, None))
            facts[key] = (known[0] if size is None else size, known[1] if name is None else name)
            origin = state.status.origin if state.status else None
            holders = {node.node for node in nodes if version in node.has and node.origin in (origin, None)}
            below.setdefault(key, set()).update(holders if state.status else ())
    for key, count in sorted(servers.items()):
        size, name = facts[key]
        held = f"{count} of {format_count(len(states), 'server')}"
        held += f", {len(below[key])} of {format_count(len(nodes), 'node')} below" if nodes else ""
        yield version_name(key[0]), "-" if size is None else format_size(size), name or "-", held


def _listed(state: ServerState) -> Iterator[tuple[str, str, int | None, str | None]]:
    """Yield the complete versions of a server: name, digest, size, payload's name."""
    for listing in state.listings:
        yield listing.version, listing.digest, None, None
    for version in state.status.versions if state.status else ():
        if version.is_complete:
            yield version.version, version.digest or "", version.size, version.name


def _notes(states: Sequence[ServerState]) -> Iterator[str]:
    """Yield a note where the servers are of several lines of versions."""
    origins = dict.fromkeys(state.status.origin for state in states if state.status and state.status.origin)
    if len(origins) > 1:
        yield f"\nThese are {len(origins)} lines of versions, of the origins {', '.join(map(str, origins))}."


def _rates_below(now: Moment, before: Moment) -> dict[tuple[str, str], float]:
    """Return the bytes a second of versions on their way to nodes below, by node id and version."""
    (ends, states), (starts, earlier) = now, before
    old = nodes_below(earlier)
    rates = {}
    for name, node in nodes_below(states).items():
        if (seen := old.get(name)) is None:
            continue
        seconds = (ends - node.age) - (starts - seen.age)  # between the two reports
        for version, done in node.coming.items():
            if version in seen.coming and seconds > 0 and done >= seen.coming[version]:
                rates[name, version] = (done - seen.coming[version]) / seconds
    return rates


def version_ranges(versions: Iterable[str]) -> str:
    """Return names of versions in short: ``v1-v3, v7``; ``-`` for none."""
    numbers = sorted({version_number(version) or 0 for version in versions})
    runs = [
        [number for _, number in run]
        for _, run in groupby(
            enumerate(numbers), key=lambda place_and_number: place_and_number[1] - place_and_number[0]
        )
    ]
    names = (f"v{run[0]}" if len(run) == 1 else f"v{run[0]}-v{run[-1]}" for run in runs)
    return ", ".join(names) or "-"
