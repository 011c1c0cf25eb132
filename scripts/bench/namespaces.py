"""Networks of this machine alone: a host is a network namespace, and its link to the switch has a rate.

The switch is a bridge in a namespace of its own, so that nothing here touches the machine's network. A
link is a veth pair with a token bucket at both ends: one shapes what the host sends, one what it gets.
Needs root, ``ip`` and ``tc``.

Everything carries the id of the process that made it in its name, and ends with it: what a killed one
left is removed before the next network is made.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harness import Skipped

PREFIX = "shardcast-bench"
SWITCH = "switch"
NETNS = Path("/run/netns")
TOOLS = ("ip", "tc", "sysctl")
BURST, LATENCY = "128kb", "50ms"
CLONE_NEWNET = 0x40000000
QUIET = ("net.ipv4.tcp_no_metrics_save=1", "net.ipv6.conf.all.disable_ipv6=1")
"""What one run learnt of a path must not help or hinder the next one; and nothing looks for neighbours."""
GOODPUT_SECONDS, SLOW, SLOW_GOODPUT_SECONDS = 1.2, 50.0, 6.0
"""How long a link's goodput is measured, and that of one slower than so many Mbit/s."""

T = TypeVar("T")


def unavailable() -> str | None:
    """Return why networks can't be made here; None where they can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    if os.geteuid():
        return "network namespaces need root"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    return f"not installed: {', '.join(missing)}" if missing else None


@dataclass(frozen=True, slots=True)
class Goodput:
    """Rate that a TCP connection gets over a link, in bytes a second, each way."""

    up: float
    down: float


class Host:
    """A host of a network.

    Attributes:
        name: what the network calls it.
        address: its IPv4 address there.
        rate: its link's in Mbit/s, each way; None for one that isn't shaped.
    """

    def __init__(self, name: str, address: str, rate: float | None) -> None:
        self.name = name
        self.address = address
        self.rate = rate
        self.namespace = f"{_mine()}.{name}"

    def words(self, *words: str) -> list[str]:
        """Return a command as it runs on the host; it is killed at the end of the network."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def inside(self, act: Callable[[], T]) -> T:
        """Call ``act`` on the host. A socket belongs for good to the host that it was made on."""

        def enter() -> T:  # in a thread of its own, which alone changes its namespace
            with (NETNS / self.namespace).open() as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "the namespace can't be entered", self.namespace)
            return act()

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(enter).result()

    def listens(self, port: int) -> bool:
        """Return whether a process on the host accepts connections on this port."""

        def connect() -> bool:
            try:
                socket.create_connection((self.address, port), timeout=1).close()
            except OSError:
                return False
            return True

        return self.inside(connect)


@dataclass(frozen=True, slots=True)
class Border:
    """A link between two parts of a network.

    Attributes:
        beyond: the hosts that have a switch and a subnet of their own, beyond the border.
        rate: the link's in Mbit/s, each way.
    """

    beyond: frozenset[str]
    rate: float


class Network:
    """A network that runs; see ``network``."""

    def __init__(
        self, rates: Mapping[str, float | None], border: Border | None = None, *, apart: bool = False
    ) -> None:
        self.border = border
        beyond = border.beyond if border else frozenset[str]()
        self.hosts = {
            name: Host(name, f"10.77.{number if apart else int(name in beyond)}.{number}", rate)
            for number, (name, rate) in enumerate(rates.items(), 1)
        }
        self.switch = Host(SWITCH, "10.77.0.254", None)

    def sent(self) -> dict[str, int]:
        """Return the bytes that each host has sent so far, headers included, as the switch received them."""
        command = ("ip", "-n", self.switch.namespace, "-s", "-j", "link", "show", "type", "veth")
        by_port = {port["ifname"]: int(port["stats64"]["rx"]["bytes"]) for port in json.loads(_run(*command))}
        return {name: by_port[f"port{number}"] for number, name in enumerate(self.hosts)}

    def crossed(self) -> tuple[int, int]:
        """Return the bytes that went over the border so far, headers included: beyond it, and back."""
        command = ("ip", "-n", self.switch.namespace, "-s", "-j", "link", "show", "dev", "border0")
        counted = json.loads(_run(*command))[0]["stats64"]
        return int(counted["tx"]["bytes"]), int(counted["rx"]["bytes"])

    def goodput(self, name: str) -> Goodput:
        """Measure a host's link, between the host and the switch, one way after the other.

        Returns:
            The better of two figures, since other work of the machine makes one worse.
        """
        host = self.hosts[name]
        return self._goodput(host, self.switch, host.rate)

    def border_goodput(self) -> Goodput:
        """Measure the border's link as ``goodput`` does a host's: out of the part beyond it, and into it."""
        assert self.border is not None
        beyond = next(host for name, host in self.hosts.items() if name in self.border.beyond)
        before = next(host for name, host in self.hosts.items() if name not in self.border.beyond)
        return self._goodput(beyond, before, self.border.rate)

    def _goodput(self, host: Host, other: Host, rate: float | None) -> Goodput:
        """Measure a link of so many Mbit/s from one host to another, one way after the other."""
        seconds = SLOW_GOODPUT_SECONDS if rate is not None and rate < SLOW else GOODPUT_SECONDS
        with other.inside(lambda: socket.create_server((other.address, 0))) as listening:
            address = listening.getsockname()

            def once(upwards: bool) -> float:
                near = host.inside(lambda: socket.create_connection(address, timeout=10))
                far, _ = listening.accept()
                return _rate(near, far, seconds) if upwards else _rate(far, near, seconds)

            return Goodput(up=max(once(True), once(True)), down=max(once(False), once(False)))

    def make(self) -> None:
        """Make its namespaces, links and shapers.

        Raises:
            Skipped: this machine can't; says why.
        """
        switch = self.switch.namespace
        _batch(["ip"], [f"netns add {host.namespace}" for host in (self.switch, *self.hosts.values())])
        inner = ["link set lo up", "link add bridge type bridge", "link set bridge up"]
        _batch(["ip", "-n", switch], [*inner, f"addr add {self.switch.address}/16 dev bridge"])
        if self.border:
            self._make_border(self.border)
        for number, host in enumerate(self.hosts.values()):
            port, on = f"port{number}", host.namespace
            _batch(["ip"], [f"link add link0 netns {on} type veth peer name {port} netns {switch}"])
            bridge = "bridge2" if self.border and host.name in self.border.beyond else "bridge"
            _batch(["ip", "-n", switch], [f"link set {port} master {bridge}", f"link set {port} up"])
            outer = ["link set lo up", f"addr add {host.address}/16 dev link0", "link set link0 up"]
            _batch(["ip", "-n", on], outer)
            _run("ip", "netns", "exec", on, "sysctl", "-qw", *QUIET)
            if host.rate is not None:
                for namespace, device in ((on, "link0"), (switch, port)):
                    _shape(namespace, device, host.rate)

    def _make_border(self, border: Border) -> None:
        """Make a second bridge, and a shaped link to the first."""
        switch = self.switch.namespace
        pair = ["link add bridge2 type bridge", "link set bridge2 up"]
        pair.append("link add border0 type veth peer name border1")
        pair += ["link set border0 master bridge", "link set border1 master bridge2"]
        _batch(["ip", "-n", switch], [*pair, "link set border0 up", "link set border1 up"])
        for device in ("border0", "border1"):
            _shape(switch, device, border.rate)

    def clear(self) -> None:
        """Kill the processes on its hosts."""
        for host in self.hosts.values():
            _kill_all(host.namespace)

    def remove(self) -> None:
        """Kill the processes on its hosts, and remove it."""
        for host in (*self.hosts.values(), self.switch):
            _remove(host.namespace)


@contextlib.contextmanager
def network(
    rates: Mapping[str, float | None], border: Border | None = None, *, apart: bool = False
) -> Iterator[Network]:
    """Make a network of hosts; a process has one at a time. At its end the processes on its hosts are killed.

    Args:
        rates: for each host the rate of its link in Mbit/s each way; None for no limit.
        border: the link to a part of the hosts; None where all are at one switch.
        apart: whether each host has a subnet of its own.

    Raises:
        Skipped: this machine can't make it; says why.
    """
    reason = unavailable()
    if reason:
        raise Skipped(reason)
    remove_leftovers()
    made = Network(rates, border, apart=apart)
    try:
        made.make()
        yield made
    finally:
        made.remove()


def _shape(namespace: str, device: str, rate: float) -> None:
    """Limit what a device of a namespace sends to so many Mbit/s."""
    bucket = f"tbf rate {rate:g}mbit burst {BURST} latency {LATENCY}"
    _run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", *bucket.split())


def remove_leftovers() -> list[str]:
    """Remove namespaces whose maker has ended, and end the processes in them; return their names."""
    names = [path.name for path in NETNS.glob(f"{PREFIX}.*")] if NETNS.is_dir() else []
    dead = [name for name in names if not made_by_the_living(name)]
    for name in dead:
        _remove(name)
    return dead


def made_by_the_living(name: str) -> bool:
    """Return whether the process that ``<prefix>.<its id>.<its start>.…`` names still runs."""
    try:
        process, started = (int(word) for word in name.removeprefix(f"{PREFIX}.").split(".")[:2])
        return _start_of(process) == started
    except (ValueError, OSError):
        return False


def _mine() -> str:
    """Return the prefix of this process's names; its start tells it from a later process with the same id."""
    return f"{PREFIX}.{os.getpid()}.{_start_of(os.getpid())}"


def _start_of(process: int) -> int:
    """Return when a process started, in ticks since boot."""
    stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    return int(stat.rpartition(")")[2].split()[19])


def _remove(namespace: str) -> None:
    """Remove a namespace."""
    if (NETNS / namespace).exists():
        with contextlib.suppress(Skipped):  # what stays goes at the next start; the others go now
            _kill_all(namespace)
            _run("ip", "netns", "delete", namespace)


def _kill_all(namespace: str) -> None:
    """Kill the processes in a namespace."""
    for process in _run("ip", "netns", "pids", namespace).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)


def _run(*words: str, stdin: str | None = None) -> str:
    """Run a command, and return its output."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _batch(words: list[str], commands: Sequence[str]) -> None:
    """Run commands of ``ip`` or ``tc`` in one process."""
    _run(*words, "-batch", "-", stdin="\n".join(commands) + "\n")


def _rate(sender: socket.socket, receiver: socket.socket, seconds: float) -> float:
    """Measure the rate from one socket to the other, and close both.

    Returns:
        Bytes a second after slow start and the bucket's first burst.
    """
    until = time.monotonic() + seconds

    def send() -> None:
        content = bytes(64 * 1024)
        with sender:
            while time.monotonic() < until:
                sender.sendall(content)

    sending = threading.Thread(target=send, daemon=True)
    sending.start()
    buffer, counted, since = bytearray(1024 * 1024), 0, 0.0
    with receiver:
        while (now := time.monotonic()) < until and (size := receiver.recv_into(buffer)):
            if since:
                counted += size
            elif now > until - seconds / 2:
                since = time.monotonic()
        ended = time.monotonic()
        while receiver.recv_into(buffer):  # what is in the bucket's queue
            pass
    sending.join()
    return counted / (ended - since)
