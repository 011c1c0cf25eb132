"""Payloads broadcast over networks of rate-limited links, beside the least time that their links allow."""

from __future__ import annotations

import hashlib
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import peers
from harness import MIB, Case, Comparison, Failed, Result, Run, Settings, Side, Skipped, interleave
from namespaces import Goodput, Host, Network, network
from places import Payload, Place
from processes import Running, Usage, program_words, run_command
from programs.network_node import PORT

CHECK_INTERVAL = 0.2
"""Seconds between two looks of a middle, ours or an old one, at its upstreams."""
PATIENCE = 900.0
CLOSING = 10.0
COPIES = 3
"""How often a host has the payload at the most: an old client its shards, and two files while it joins them."""


# ── The networks ──────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Plan:
    """A network to measure.

    Attributes:
        key: its letter.
        title: what it is, in words.
        size: bytes of the payload.
        rates: its hosts, and the Mbit/s of each one's link, both ways; None for one that isn't shaped.
        takes: whom the hosts that receive take it from, as the roles of shardcast have it.
    """

    key: str
    title: str
    size: int
    rates: Mapping[str, float | None]
    takes: Mapping[str, tuple[str, ...]]

    @property
    def origins(self) -> list[str]:
        """Those that have it at the start."""
        return [host for host in self.rates if host not in self.takes]

    @property
    def middles(self) -> list[str]:
        """Those that receive it and serve it."""
        serving = {server for servers in self.takes.values() for server in servers}
        return [host for host in self.takes if host in serving]

    @property
    def clients(self) -> list[str]:
        return [host for host in self.takes if host not in self.middles]


def tree() -> Plan:
    middles, clients = ("middle1", "middle2"), [f"client{n}" for n in range(1, 9)]
    takes = {**dict.fromkeys(middles, ("origin",)), **dict.fromkeys(clients, middles)}
    rates = dict.fromkeys(["origin", *takes], 200.0)
    return Plan("a", "origin, 2 middles, 8 clients, 200 Mbit/s each", 128 * MIB, rates, takes)


def chain() -> Plan:
    hosts = ["origin", *(f"middle{n}" for n in range(1, 5)), "client"]
    takes = {lower: (upper,) for upper, lower in zip(hosts, hosts[1:], strict=False)}
    title = "origin, a chain of 4 middles, 1 client, 200 Mbit/s each"
    return Plan("b", title, 128 * MIB, dict.fromkeys(hosts, 200.0), takes)


def uneven_tree() -> Plan:
    middles = {"middle400": 400.0, "middle100": 100.0}
    clients = {f"client{rate}": float(rate) for rate in range(50, 401, 50)}
    takes = {**dict.fromkeys(middles, ("origin",)), **dict.fromkeys(clients, tuple(middles))}
    title = "origin at 400 Mbit/s, middles at 400 and 100, 8 clients at 50 to 400"
    return Plan("c", title, 128 * MIB, {"origin": 400.0, **middles, **clients}, takes)


def unequal_servers() -> Plan:
    servers = {"server400": 400.0, "server100": 100.0, "server10": 10.0}
    title = "one client, three servers at 400, 100 and 10 Mbit/s"
    return Plan("d", title, 512 * MIB, {**servers, "client": None}, {"client": tuple(servers)})


PLANS = (tree(), chain(), uneven_tree(), unequal_servers())


# ── What the links allow ──────────────────────────────────────────────────────────────────────────


def fluid_bound(size: int, origin: float, downloads: Sequence[float], uploads: Sequence[float]) -> float:
    """The least seconds until the last of those that receive has ``size`` bytes, whoever sends to whom.

    Args:
        size: bytes of the payload, F.
        origin: upload of those that have it at the start, bytes a second, U_origin.
        downloads: of each of the N that receive it; the least is d_min.
        uploads: U_i of those of them that serve it on.
    """
    return max(size / origin, size / min(downloads), len(downloads) * size / (origin + sum(uploads)))


def roles_bound(size: int, takes: Mapping[str, tuple[str, ...]], links: Mapping[str, Goodput]) -> float:
    """The same where each takes it only from the servers it is given: they send it to each of those whose
    only servers they are."""
    slowest = max(size / links[host].down for host in takes)
    groups = {servers: sum(mine == servers for mine in takes.values()) for servers in takes.values()}
    return max(slowest, *(n * size / sum(links[one].up for one in group) for group, n in groups.items()))


def bounds(plan: Plan, size: int, links: Mapping[str, Goodput]) -> dict[str, float]:
    """The bounds of a network by name, the least first."""
    origin = sum(links[host].up for host in plan.origins)
    downloads = [links[host].down for host in plan.takes]
    everyone = fluid_bound(size, origin, downloads, [links[host].up for host in plan.takes])
    found = {"bound: all serve": everyone}
    if plan.middles:
        found["bound: only middles serve"] = roles_bound(size, plan.takes, links)
    return found


def measured_links(made: Network) -> dict[str, Goodput]:
    """The goodput of each host's link; that of one rate is measured on one of its links."""
    by_rate: dict[float | None, Goodput] = {}
    for name, host in made.hosts.items():
        if host.rate not in by_rate:
            by_rate[host.rate] = made.goodput(name)
    return {name: by_rate[host.rate] for name, host in made.hosts.items()}


# ── One run ───────────────────────────────────────────────────────────────────────────────────────


class Node(Running):
    """A node's process (programs/network_node.py) on its host."""

    def __init__(self, host: Host, folder: Path, package: Path | str, role: str, *words: str) -> None:
        program = program_words("network_node", str(package), role, *words)
        super().__init__(host.words(*program), cwd=folder, stdin=subprocess.PIPE)

    def wait_until_ready(self) -> None:
        self.wait_for(lambda: "ready\n" in self.output, f"{self.words[-2:]} was ready")

    def begin(self) -> None:
        """Tell it to do its part."""
        assert self.process.stdin
        self.process.stdin.write(b"begin\n")
        self.process.stdin.flush()

    def done(self) -> float:
        """The clock when it had done its part."""
        self.wait_for(lambda: "done " in self.output, "its part was done", PATIENCE)
        return float(self.output.rpartition("done ")[2])

    def end(self) -> None:
        """Let it end by itself."""
        assert self.process.stdin
        self.process.stdin.close()


@dataclass(slots=True)
class Scene:
    """A network in one run: what each host has, and what runs there.

    Attributes:
        folder: has a folder for each host.
        clock: when the clock began.
    """

    plan: Plan
    network: Network
    payload: Payload
    sha256: str
    folder: Path
    clock: float = 0.0
    nodes: list[Running] = field(default_factory=list)
    _sent: dict[str, int] = field(default_factory=dict)
    _used: Usage = field(default_factory=Usage)

    def place(self, host: str) -> Path:
        """A folder of the host's own."""
        place = self.folder / host
        place.mkdir(exist_ok=True)
        return place

    def output(self, host: str) -> Path:
        """Where the host has the payload at the end."""
        return self.place(host) / self.payload.path.name

    def addresses(self, hosts: Sequence[str]) -> list[str]:
        return [self.network.hosts[host].address for host in hosts]

    def urls(self, hosts: Sequence[str]) -> list[str]:
        return [f"http://{address}:{PORT}" for address in self.addresses(hosts)]

    def node(self, host: str, package: Path | str, role: str, *words: str | Path) -> Node:
        """Start a node on a host."""
        node = Node(self.network.hosts[host], self.place(host), package, role, *map(str, words))
        self.nodes.append(node)
        return node

    def wait_until_ready(self) -> None:
        """Wait until all have started up, and begin the clock."""
        for node in self.nodes:
            if isinstance(node, Node):
                node.wait_until_ready()
        self._sent = self.network.sent()
        self._used = self._usage()
        self.clock = time.monotonic()

    def figures(self, verified: Sequence[float], detail: Mapping[str, float]) -> Run:
        """What was measured until the last client had it."""
        sent = {host: bytes_ - self._sent[host] for host, bytes_ in self.network.sent().items()}
        cpu_seconds = self._usage().since(self._used).cpu_seconds
        seconds = [clock - self.clock for clock in verified]
        times = {"first": min(seconds), "median": statistics.median(seconds), **detail}
        groups = {"origin": self.plan.origins, "middles": self.plan.middles, "clients": self.plan.clients}
        sums = {f"{name} sent F": sum(sent[host] for host in hosts) for name, hosts in groups.items() if hosts}
        each = {f"{host} sent F": float(bytes_) for host, bytes_ in sent.items() if host not in groups}
        in_payloads = {name: bytes_ / self.payload.size for name, bytes_ in (sums | each).items()}
        return Run(max(seconds), cpu_seconds, detail=times | in_payloads)

    def check(self) -> None:
        """Let the nodes end, and compare what the clients have with the payload."""
        for node in self.nodes:
            if isinstance(node, Node):
                node.end()
        until = time.monotonic() + CLOSING
        for node in self.nodes:
            if isinstance(node, Node):
                node.wait(until - node.started)
        for host in self.plan.clients:
            self.payload.check(self.output(host))

    def close(self) -> None:
        for node in self.nodes:
            node.kill()
        self.network.clear()

    def _usage(self) -> Usage:
        return sum((node.usage() for node in self.nodes), Usage())


Broadcast = Callable[[Scene], Run]
"""Starts a side's nodes, brings the payload to the clients, and says how that went."""


def measured(broadcast: Broadcast, plan: Plan, made: Network, payload: Payload, place: Place) -> Callable[[], Run]:
    """A side's ``measure``."""
    sha256 = hashlib.sha256(payload.path.read_bytes()).hexdigest()

    def measure() -> Run:
        with place.folder("network") as folder:
            scene = Scene(plan, made, payload, sha256, folder)
            try:
                run = broadcast(scene)
                scene.check()
            finally:
                scene.close()
        return run

    return measure


# ── The sides ─────────────────────────────────────────────────────────────────────────────────────


def ours(scene: Scene) -> Run:
    """This shardcast. Clients that could follow would start with the rest, and have no need of ``begin``."""
    return with_shardcast(scene, lambda _host: "")


def old(scene: Scene) -> Run:
    """shardcast 0.1.0. Each process has a copy of it: it keeps a file of a fixed name beside its package."""
    installed = peers.folder("shardcast-0.1.0")

    def package(host: str) -> Path:
        place = scene.place(host) / "package"
        shutil.copytree(installed / "shardcast", place / "shardcast", dirs_exist_ok=True)
        return place

    return with_shardcast(scene, package)


def with_shardcast(scene: Scene, package: Callable[[str], Path | str]) -> Run:
    """The clock begins when the origin is told to broadcast; or, without middles, when the client is told
    to download what the origins have. Clients behind middles begin when all of these list the version."""
    plan = scene.plan
    first, *others = plan.origins
    data = {host: scene.place(host) / "data" for host in plan.rates}
    if not plan.middles:
        with_payload(scene, package, data)
    origin = scene.node(first, package(first), "origin", data[first], scene.payload.path)
    for host in others:
        scene.node(host, package(host), "origin", data[host])
    middles = [
        scene.node(host, package(host), "middle", data[host], str(CHECK_INTERVAL), *scene.urls(plan.takes[host]))
        for host in plan.middles
    ]
    clients = [
        scene.node(host, package(host), "client", scene.output(host), *scene.urls(plan.takes[host]))
        for host in plan.clients
    ]
    scene.wait_until_ready()
    detail = {}
    if plan.middles:
        origin.begin()
        for host, middle in zip(plan.middles, middles, strict=True):
            middle.wait_for(lambda host=host: lists(data[host]), "it listed the version", PATIENCE)  # type: ignore[misc]
        detail["middles list it"] = time.monotonic() - scene.clock
    for client in clients:
        client.begin()
    return scene.figures([client.done() for client in clients], detail)


def with_payload(scene: Scene, package: Callable[[str], Path | str], data: Mapping[str, Path]) -> None:
    """Broadcast the payload before the clock begins, and give each origin the data directory."""
    first, *others = scene.plan.origins
    publisher = scene.node(first, package(first), "origin", data[first], scene.payload.path)
    publisher.wait_until_ready()
    publisher.begin()
    publisher.done()
    publisher.end()
    publisher.wait()
    scene.nodes.remove(publisher)
    scene.network.clear()
    for host in others:
        shutil.copytree(data[first], data[host])


def lists(data_dir: Path) -> bool:
    """Whether a node lists v1, as it says itself: its list is a file of its data directory."""
    try:
        return "v1:" in (data_dir / "distribution.txt").read_text(encoding="utf-8")
    except OSError:
        return False


def aria2c(scene: Scene) -> Run:
    """aria2c on each client, straight from the origins' nginx, with the digest; its start-up is counted."""
    urls = [f"{url}/{scene.payload.path.name}" for url in scene.urls(scene.plan.origins)]
    for host in scene.plan.origins:
        start_nginx(scene, host)
    words = [peers.tool("aria2c"), "--no-conf", "--quiet", "-x10", f"-s{10 * len(urls)}", "-k1M"]
    words += ["--file-allocation=none", f"--checksum=sha-256={scene.sha256}"]
    clients = []
    for host in scene.plan.clients:
        output = scene.output(host)
        clients.append(scene.node(host, "", "command", *words, f"-d{output.parent}", f"-o{output.name}", *urls))
    scene.wait_until_ready()
    for client in clients:
        client.begin()
    return scene.figures([client.done() for client in clients], {})


def start_nginx(scene: Scene, host: str) -> None:
    on, place = scene.network.hosts[host], scene.place(host)
    settings = place / "nginx.conf"
    temporary = "".join(
        f"{kind}_temp_path {place}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    settings.write_text(
        f"user root; daemon off; worker_processes 1; pid {place}/pid; error_log stderr; events {{}}"
        f"http {{ access_log off; sendfile on; tcp_nopush on; {temporary}"
        f"server {{ listen {PORT}; root {scene.payload.path.parent}; }} }}\n"
    )
    web = Running(on.words(peers.tool("nginx"), "-p", str(place), "-c", str(settings), "-e", "stderr"))
    scene.nodes.append(web)
    web.wait_for(lambda: on.listens(PORT), "listening")


def libtorrent(scene: Scene) -> Run:
    """libtorrent on every host, each connected to all others; the origins seed."""
    package = peers.folder("libtorrent")
    torrent = scene.folder / "payload.torrent"
    run_command([*program_words("network_node", str(package), "make_torrent"), str(scene.payload.path), str(torrent)])
    receiving: dict[str, Node] = {}
    earlier: list[str] = []
    for host, on in scene.network.hosts.items():
        seeds = host in scene.plan.origins
        folder = scene.payload.path.parent if seeds else scene.place(host)
        words = (torrent, folder, "seed" if seeds else "leech", on.address, *scene.addresses(earlier))
        node = scene.node(host, package, "peer", *words)
        if not seeds:
            receiving[host] = node
        earlier.append(host)
    scene.wait_until_ready()
    for node in receiving.values():
        node.begin()
    done = {host: node.done() for host, node in receiving.items()}
    return scene.figures([done[host] for host in scene.plan.clients], {})


SIDES: dict[str, Broadcast] = {
    "ours": ours,
    "shardcast 0.1.0": old,
    "aria2c from the origin": aria2c,
    "libtorrent": libtorrent,
}


# ── The case ──────────────────────────────────────────────────────────────────────────────────────


def compare(plan: Plan, settings: Settings) -> Iterator[Comparison]:
    size = min(plan.size, settings.size)
    with network(plan.rates) as made:
        place = settings.places.roomy(COPIES * size * len(plan.rates))
        place.touch(COPIES * size * len(plan.rates))
        payload = place.payload(size)
        links = measured_links(made)
        sides = [
            Side(name, measured(broadcast, plan, made, payload, place)) for name, broadcast in SIDES.items()
        ]
        results = interleave(sides, settings.runs, warm_ups=0)
        place.drop_payload(size)
    allowed = bounds(plan, size, links)
    rows = [Result(name, [Run(seconds)] * settings.runs) for name, seconds in allowed.items()]
    sent = [f"{who} sent F" for who in ("origin", "middles", "clients")]
    columns = ["first", "median", "middles list it", *sent]
    title = f"Network ({plan.key}): {plan.title}, {size // MIB} MiB"
    yield Comparison(title, rows + results, next(iter(allowed)), size, columns, notes=notes(plan, links))


def notes(plan: Plan, links: Mapping[str, Goodput]) -> list[str]:
    measured_rates = {plan.rates[host]: links[host] for host in plan.rates if plan.rates[host] is not None}
    goodput = ", ".join(
        f"{rate:g}: {link.up * 8e-6:.1f} up, {link.down * 8e-6:.1f} down" for rate, link in measured_rates.items()
    )
    begins = (
        "seconds: from the call of broadcast() until the last client has the verified file; middles look every "
        f"{CHECK_INTERVAL:g} s, and clients begin when all middles list the version, with no start-up in it"
        if plan.middles
        else "seconds: from the call of download_version() until the client has the verified file"
    )
    return [
        f"{begins}; aria2c and libtorrent, whose file and torrent are there before, from when they are told to begin.",
        "first, median: when those clients have it. F: the payload's size; sent with headers, as the links count it.",
        f"Goodput over these links in this run, Mbit/s: {goodput}. It is what the bounds reckon with.",
    ]
