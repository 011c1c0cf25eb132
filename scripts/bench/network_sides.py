"""One broadcast over a network of namespaces, by each of the programs that are compared."""

from __future__ import annotations

import shutil
import signal
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import peers
from harness import Failed, Run
from namespaces import Host, Network
from network_plans import Plan
from nodes import announced, follow_words, followed, linked_copy
from places import Payload
from processes import Running, Usage, program_words, run_command
from programs.network_node import PORT

from shardcast.constants import CHECK_INTERVAL as OWN_INTERVAL

CHECK_INTERVAL = 0.2
"""Seconds between two looks of an old middle at its upstreams."""
_LOOK = 0.01
"""Seconds between two looks at whether a host has it."""
PATIENCE = 900.0
"""Seconds for a node's part."""
CLOSING = 10.0
"""Seconds for a node to end by itself."""


# ── One run ───────────────────────────────────────────────────────────────────────────────────────


class Node(Running):
    """Process of a node (programs/network_node.py) on its host."""

    def __init__(self, host: Host, folder: Path, package: Path | str, role: str, *words: str) -> None:
        self._is = f"{role} on {host.name}"
        program = host.words(*program_words("network_node", str(package), role, *words))
        super().__init__(program, cwd=folder, death=signal.SIGTERM, told=True)

    @property
    def _name(self) -> str:
        """Name of the node in messages."""
        return self._is

    def wait_until_ready(self) -> None:
        """Wait until it has started up."""
        self.wait_for_output("ready")

    def begin(self) -> None:
        """Order it to do its part."""
        self.tell("begin")

    def done(self) -> float:
        """Return the clock at which it had done its part."""
        self.wait_for_output("done", PATIENCE)
        return float(self.output.rpartition("done ")[2])


@dataclass(slots=True)
class Scene:
    """A network in one run: the files and the processes of each host.

    Attributes:
        folder: has a folder for each host.
        clock: when the clock started.
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
        """Return a folder of the host's own."""
        place = self.folder / host
        place.mkdir(exist_ok=True)
        return place

    def output(self, host: str) -> Path:
        """Return the path of the payload at a host at the end."""
        return self.place(host) / self.payload.path.name

    def addresses(self, hosts: Sequence[str]) -> list[str]:
        """Return the addresses of hosts."""
        return [self.network.hosts[host].address for host in hosts]

    def urls(self, hosts: Sequence[str]) -> list[str]:
        """Return the base URLs of hosts."""
        return [f"http://{address}:{PORT}" for address in self.addresses(hosts)]

    def node(self, host: str, package: Path | str, role: str, *words: str | Path) -> Node:
        """Start a node on a host."""
        node = Node(self.network.hosts[host], self.place(host), package, role, *map(str, words))
        self.nodes.append(node)
        return node

    def follower(self, host: str, servers: Sequence[str], *options: str, program: str = "") -> Running:
        """Start a client that follows servers, by their URLs, on a host.

        Args:
            host: the host.
            servers: the URLs.
            options: further options of the client.
            program: the bench's own program that runs the client; none for the command that users run.
        """
        words = [*follow_words(servers, self.place(host)), *options]
        if program:
            words = program_words(program, *words[1:])
        client = Running(self.network.hosts[host].words(*words))
        self.nodes.append(client)
        return client

    def wait_until_ready(self) -> None:
        """Wait until all have started up, and start the clock."""
        for node in self.nodes:
            if isinstance(node, Node):
                node.wait_until_ready()
        self._sent = self.network.sent()
        self._used = self._usage()
        self.clock = time.monotonic()

    def figures(self, verified: Sequence[float], detail: Mapping[str, float]) -> Run:
        """Return what was measured until the last client had the payload."""
        sent = {host: bytes_ - self._sent[host] for host, bytes_ in self.network.sent().items()}
        cpu_seconds = self._usage().since(self._used).cpu_seconds
        seconds = [clock - self.clock for clock in verified]
        times = {"first": min(seconds), "median": statistics.median(seconds), **detail}
        groups = {"origin": self.plan.origins, "middles": self.plan.middles, "clients": self.plan.clients}
        sums = {name: sum(sent[host] for host in hosts) for name, hosts in groups.items() if hosts}
        in_payloads = {f"{name} sent F": bytes_ / self.payload.size for name, bytes_ in (sent | sums).items()}
        return Run(max(seconds), cpu_seconds, detail=times | in_payloads)

    def check(self) -> None:
        """Let the nodes end, and compare the clients' files with the payload."""
        for node in self.nodes:
            if isinstance(node, Node):
                node.end_input()
        until = time.monotonic() + CLOSING
        for node in self.nodes:
            if isinstance(node, Node):
                node.wait(until - node.started)
        for host in self.plan.clients:
            self.payload.check(self.output(host))

    def close(self) -> None:
        """Kill the nodes."""
        for node in self.nodes:
            node.kill()
        self.network.clear()  # what those had started

    def _usage(self) -> Usage:
        """Return what all processes have taken so far."""
        return sum((node.usage() for node in self.nodes), Usage())


# ── The sides ─────────────────────────────────────────────────────────────────────────────────────


def ours(scene: Scene) -> Run:
    """Measure this shardcast, whose clients follow where there are middles."""
    return following(scene) if scene.plan.middles else with_shardcast(scene, own_package, OWN_INTERVAL)


def following(scene: Scene) -> Run:
    """Measure v2 where all hosts have a small v1, and middles and clients follow.

    The clock starts when the origin is told to broadcast.
    """
    plan = scene.plan
    origin = start_origin(scene, own_package)
    middles = start_middles(scene, own_package, OWN_INTERVAL)
    clients = {host: scene.follower(host, scene.urls(plan.takes[host])) for host in plan.clients}
    for client in clients.values():
        client.wait_for(partial(announced, client, "v1"), "having the first version")
    scene.wait_until_ready()
    origin.begin()
    ready = {host: (node, partial(lists, data_dir(scene, host), "v2")) for host, node in middles.items()}
    ready |= {host: (node, partial(announced, node, "v2")) for host, node in clients.items()}
    had = moments(ready)
    published = origin.done()
    verified = [had[host] for host in clients]
    detail = {
        "published": published - scene.clock,
        "middles list it": max(had[host] for host in middles) - scene.clock,
        "after publishing": max(verified) - published,
    }
    run = scene.figures(verified, detail)
    for host in clients:
        followed(scene.place(host), "v2").rename(scene.output(host))
    return run


def moments(ready: Mapping[str, tuple[Running, Callable[[], bool]]]) -> dict[str, float]:
    """Return the clock at which each of these became true, to ``_LOOK``.

    Raises:
        Failed: a process ended before, or one took too long.
    """
    found: dict[str, float] = {}
    deadline = time.monotonic() + PATIENCE
    while len(found) < len(ready):
        for host in ready.keys() - found:
            node, true = ready[host]
            if true():
                found[host] = time.monotonic()
                continue
            node.expect_alive(f"having it on {host}")
        if time.monotonic() > deadline:
            raise Failed(f"not on {', '.join(sorted(ready.keys() - found))} after {PATIENCE:g} s")
        time.sleep(_LOOK)
    return found


def own_package(_host: str) -> str:
    """Return this environment's own shardcast."""
    return ""


def old(scene: Scene) -> Run:
    """Measure shardcast 0.1.0, a copy for each process: it keeps a file of a fixed name beside itself."""
    installed = peers.folder("shardcast-0.1.0")

    def package(host: str) -> Path:
        place = scene.place(host) / "package"
        shutil.copytree(installed / "shardcast", place / "shardcast", dirs_exist_ok=True)
        return place

    return with_shardcast(scene, package, CHECK_INTERVAL)


def with_shardcast(scene: Scene, package: Callable[[str], Path | str], interval: float) -> Run:
    """Measure v2 where all hosts have a small v1.

    The clock starts when the origin is told to broadcast; or, without middles, when the client is told to
    download from the origins. Clients behind middles start when all of these list v2.
    """
    plan = scene.plan
    first, *others = plan.origins
    origin = start_origin(scene, package)
    middles = start_middles(scene, package, interval)
    if not middles:
        origin.begin()
        origin.done()
        for host in others:
            copy = linked_copy(data_dir(scene, first), data_dir(scene, host))
            scene.node(host, package(host), "origin", copy)
    clients = [
        scene.node(host, package(host), "client", "v2", scene.output(host), *scene.urls(plan.takes[host]))
        for host in plan.clients
    ]
    scene.wait_until_ready()
    detail = {}
    if middles:
        origin.begin()
        for host, middle in middles.items():
            middle.wait_for(partial(lists, data_dir(scene, host), "v2"), "listing the version", PATIENCE)
        detail["middles list it"] = time.monotonic() - scene.clock
    for client in clients:
        client.begin()
    return scene.figures([client.done() for client in clients], detail)


def start_origin(scene: Scene, package: Callable[[str], Path | str]) -> Node:
    """Start the first origin, with a small version, ready to broadcast the payload."""
    host, small = scene.plan.origins[0], scene.folder / "small.bin"
    small.write_bytes(b"a version before the one that is measured")
    words = (data_dir(scene, host), small, scene.payload.path)
    origin = scene.node(host, package(host), "origin", *words)
    origin.wait_until_ready()
    return origin


def start_middles(scene: Scene, package: Callable[[str], Path | str], interval: float) -> dict[str, Node]:
    """Start the middles, and wait until they have the small version."""
    middles: dict[str, Node] = {}
    for host in scene.plan.middles:  # in turn: 0.1.0 waits long for an upstream that isn't there yet
        data, urls = data_dir(scene, host), scene.urls(scene.plan.takes[host])
        middle = scene.node(host, package(host), "middle", data, f"{interval}", *urls)
        middle.wait_for(partial(lists, data, "v1"), "listing the first version")
        middles[host] = middle
    return middles


def data_dir(scene: Scene, host: str) -> Path:
    """Return a host's data directory."""
    return scene.place(host) / "data"


def lists(data: Path, version: str) -> bool:
    """Return whether a node lists a version: its distribution list is a file of its data directory."""
    try:
        return f"{version}:" in (data / "distribution.txt").read_text(encoding="utf-8")
    except OSError:
        return False


def aria2c(scene: Scene) -> Run:
    """Measure aria2c on each client, at the origins' nginx, with the digest and its start-up."""
    urls = [f"{url}/{scene.payload.path.name}" for url in scene.urls(scene.plan.origins)]
    for host in scene.plan.origins:
        start_nginx(scene, host)
    words = [peers.tool("aria2c"), "--no-conf", "--quiet", "-x10", f"-s{10 * len(urls)}", "-k1M"]
    words += ["--file-allocation=none", f"--checksum=sha-256={scene.sha256}"]
    clients = []
    for host in scene.plan.clients:
        output = scene.output(host)
        clients.append(
            scene.node(host, "", "command", *words, f"-d{output.parent}", f"-o{output.name}", *urls)
        )
    scene.wait_until_ready()
    for client in clients:
        client.begin()
    return scene.figures([client.done() for client in clients], {})


def start_nginx(scene: Scene, host: str) -> None:
    """Start nginx on a host, over the payload."""
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
    words = on.words(peers.tool("nginx"), "-p", str(place), "-c", str(settings), "-e", "stderr")
    web = Running(words, death=signal.SIGTERM)  # its workers outlive a killed master
    scene.nodes.append(web)
    web.wait_for(lambda: on.listens(PORT), "listening")


def libtorrent(scene: Scene) -> Run:
    """Measure libtorrent on every host, each connected to all others; the origins seed."""
    package = peers.folder("libtorrent")
    torrent = scene.folder / "payload.torrent"
    payload = scene.payload.path
    run_command(program_words("network_node", str(package), "make_torrent", str(payload), str(torrent)))
    receiving: dict[str, Node] = {}
    earlier: list[str] = []
    for host, on in scene.network.hosts.items():
        seeds = host in scene.plan.origins
        folder = payload.parent if seeds else scene.place(host)
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


Broadcast = Callable[[Scene], Run]
"""Starts nodes, brings the payload to the clients, and says how that went."""

OURS = "ours"
SIDES: dict[str, Broadcast] = {
    OURS: ours,
    "shardcast 0.1.0": old,
    "aria2c from the origin": aria2c,
    "libtorrent": libtorrent,
}
