"""The network of a nodes file or IP_ADDR_LIST: the nodes, and the command of each."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from shardcast.constants import HTTP_PORT
from shardcast.errors import UsageError

Role = Literal["origin", "middle", "client"]
ROLES: tuple[Role, ...] = ("origin", "middle", "client")
HOST = re.compile(
    r"(?P<user>\w[\w.-]*@)?(?:(?P<name>\w[\w.-]*)|\[(?P<boxed>[\da-f:.]+)]|(?P<bare>[\da-f.]*:[\da-f:.]*:[\da-f.]*))"
    r"(?::(?P<port>\d{1,5}))?",
    re.ASCII | re.IGNORECASE,
)


@dataclass(frozen=True)
class ClusterNode:
    """A node of the network."""

    role: Role
    target: str  # what ssh connects to; empty on this machine
    address: str  # how the other nodes reach it
    port: int = HTTP_PORT
    data_dir: str = ""
    number: int = 0  # among those of its role

    @property
    def name(self) -> str:
        """Name of the node in tables."""
        return f"{self.role}-{self.number}"

    @property
    def unit(self) -> str:
        """Name of the tmux session or systemd unit; a server's stays the same when lines come and go."""
        return f"shardcast-{self.role}-{self.number if self.role == 'client' else self.port}"

    @property
    def server(self) -> str:
        """Base URL for the nodes below."""
        return f"{self.address}:{self.port}"

    @property
    def host(self) -> str:
        """Address to bind, if the default (every IPv4 address) is unsuitable."""
        return "127.0.0.1" if not self.target else "::" if self.address.startswith("[") else ""


def parse_port(text: str) -> int:
    """Return the number of a port.

    Raises:
        UsageError: the text is no number from 1 to 65535.
    """
    if re.fullmatch(r"[0-9]{1,5}", text) and 0 < int(text) < 65536:
        return int(text)
    raise UsageError(f"{text!r} is not a port; write a number from 1 to 65535")


def parse_host(text: str) -> tuple[str, str, int | None]:
    """Return the target of ssh, the host as in a URL, and the port (or None) of ``[user@]host[:port]``.

    Raises:
        UsageError: the text is no host.
    """
    if found := HOST.fullmatch(text):
        user, name, six = found["user"] or "", found["name"], found["boxed"] or found["bare"]
        port = parse_port(found["port"]) if found["port"] else None
        if name:
            return user + name, name, port
        with contextlib.suppress(ValueError):
            return user + six, f"[{ipaddress.IPv6Address(six)}]", port
    raise UsageError(f"{text!r} is not a host; write host or user@host, without scheme or path")


def parse_line(line: str) -> ClusterNode:
    """Return the node in a line of a nodes file.

    Raises:
        UsageError: the line is malformed.
    """
    target, *rest = (field.strip() for field in line.split("|"))
    role = next((role for role in ROLES if rest and rest[0] == role), None)
    if role is None:
        raise UsageError(f"write user@host|role, the role being one of {', '.join(ROLES)}")
    target, address, port = parse_host(target)
    if port is not None:
        raise UsageError("a node's port is a field, |port=…; ssh's port belongs in ~/.ssh/config")
    fields = dict(parse_field(field) for field in rest[1:])
    if len(fields) < len(rest) - 1:
        raise UsageError("a field stands there twice")
    if role == "client" and fields.keys() & {"port", "address"}:
        raise UsageError("a client does not listen, so it takes neither port nor address")
    if "address" in fields:
        address = parse_host(fields["address"])[1]
    port = parse_port(fields.get("port", str(HTTP_PORT)))
    return ClusterNode(role, target, address, port, fields.get("data_dir", ""))


def parse_field(text: str) -> tuple[str, str]:
    """Return key and value of a ``key=value`` field.

    Raises:
        UsageError: the key is unknown, or the value empty or not printable.
    """
    key, _, value = text.partition("=")
    if key in ("port", "data_dir", "address") and value and value.isprintable():
        return key, value
    raise UsageError(f"{text!r} is not a field; there are port=…, data_dir=… and address=…")


def read_nodes(path: Path) -> list[ClusterNode]:
    """Return the nodes in a file.

    Raises:
        UsageError: the file can't be read, or a line is malformed.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"can't read the nodes file {path}: {reason}") from None
    nodes: list[ClusterNode] = []
    for number, line in enumerate(lines, 1):
        if line := re.sub(r"(^|\s)#.*", "", line).strip():
            try:
                nodes.append(parse_line(line))
            except UsageError as error:
                raise UsageError(f"{path}, line {number}, {line!r}: {error}") from None
    return nodes


def nodes_of_addresses(text: str, middles: int | None) -> list[ClusterNode]:
    """Return the nodes of an IP_ADDR_LIST: the origin, ``middles`` middles (None: all), then clients.

    Raises:
        UsageError: the list is malformed.
    """
    text = text.strip()
    if text.startswith("(") != text.endswith(")"):
        raise UsageError(f'IP_ADDR_LIST has one parenthesis of two: {text!r}; write ("a" "b"), or just a b')
    nodes: list[ClusterNode] = []
    for word in filter(None, re.split(r"[\s,]+", text.removeprefix("(").removesuffix(")"))):
        role: Role = "middle" if middles is None or len(nodes) <= middles else "client"
        try:
            target, address, port = parse_host(re.sub(r"""^(["'])(.*)\1$""", r"\2", word))
        except UsageError as error:
            raise UsageError(f"IP_ADDR_LIST: {error}") from None
        nodes.append(ClusterNode(role if nodes else "origin", target, address, port or HTTP_PORT))
    return nodes


def numbered(nodes: Sequence[ClusterNode]) -> Iterator[ClusterNode]:
    """Yield the nodes with numbers within their roles, and with a data directory where none is named."""
    count: Counter[str] = Counter()
    for node in nodes:
        count[node.role] += 1
        node = replace(node, number=count[node.role])
        # Commands start in the home directory; a quoted ~ would name a subdirectory there.
        own = node.data_dir.removeprefix("~/") or node.unit.replace("-", "/", 1)
        yield replace(node, data_dir=own)


def check(nodes: Sequence[ClusterNode], needs_origin: bool) -> None:
    """Check that the network can work, before any node runs.

    Raises:
        UsageError: there is no origin, no port is left, or two servers have the same host and port.
    """
    if needs_origin and all(node.role != "origin" for node in nodes):
        raise UsageError("no origin; add a line user@host|origin, or name running origins with --upstream")
    listening: dict[tuple[str, int], ClusterNode] = {}
    for node in nodes:
        if node.port > 65535:
            raise UsageError(f"no port is left for {node.name}; choose a lower --base-port")
        place = (node.target.rpartition("@")[2], node.port)
        if node.role != "client" and (other := listening.setdefault(place, node)) is not node:
            both = f"{other.name} and {node.name} are both on port {node.port} of {place[0]}"
            raise UsageError(f"{both}; give one of them another, |port=…")


def server_words(node: ClusterNode) -> list[str]:
    """Return the command of an origin, or of a middle without its upstreams."""
    host = ["--host", node.host] if node.host else []
    return [f"shardcast-{node.role}", "--data-dir", node.data_dir, "--port", str(node.port), *host]


def client_words(template: Sequence[str], node: ClusterNode, servers: Sequence[str]) -> list[str]:
    """Return the command of a client: ``template`` with the servers and the output directory filled in."""
    known = {"{servers}": ",".join(servers), "{data_dir}": node.data_dir}
    return [re.sub("{servers}|{data_dir}", lambda at: known[at[0]], word) for word in template]
