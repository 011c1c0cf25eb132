"""Hosts with links of their own, and faults of a link, over the benchmark's network.

Each network is made of network namespaces that carry this process's id, so that several workers may have
one each, and what a killed one left is removed before the next network is made.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from tests.support import processes
from tests.support.processes import Node

BENCH = Path(__file__).resolve().parents[2] / "scripts" / "bench"
PORT = "8000"
DEVICE = "link0"
BLOCKED, FORWARDING = "0", "3"
"""States of a switch's port: it passes nothing, with its link up; it passes everything."""
NO_PROXY = {"no_proxy": "*"}
FEED_HEARTBEAT, FEED_DEAD = 2.0, 6.0
"""Seconds of these for nodes on such a network; outages, which must be longer, are waited for."""
_COMMAND = f"""
import shardcast.constants as constants
constants.FEED_HEARTBEAT, constants.FEED_DEAD = {FEED_HEARTBEAT}, {FEED_DEAD}
from shardcast.cli.main import main
main()
"""

T = TypeVar("T")


class Unavailable(Exception):
    """This machine can't make networks; the text says why."""


class Network:
    """Hosts by name on one switch, until the block ends; see ``network``."""

    def __init__(self, made: Any) -> None:
        self._made = made
        self._ports = {name: f"port{number}" for number, name in enumerate(made.hosts)}

    def address(self, host: str) -> str:
        """Return a host's address."""
        return str(self._made.hosts[host].address)

    def url(self, host: str) -> str:
        """Return the base URL of a host's node."""
        return f"http://{self.address(host)}:{PORT}"

    def inside(self, host: str, act: Callable[[], T]) -> T:
        """Call ``act`` on a host; its own address answers there whatever its link does."""
        found: T = self._made.hosts[host].inside(act)
        return found

    def received(self, host: str) -> int:
        """Return the bytes that a host has received so far, headers included."""
        query = ("-s", "-j", "link", "show", "dev", self._ports[host])
        return int(json.loads(self._ip_at_switch(*query))[0]["stats64"]["tx"]["bytes"])

    def sent(self, host: str) -> int:
        """Return the bytes that a host has sent so far, headers included."""
        return int(self._made.sent()[host])

    # What runs

    def started(
        self, host: str, arguments: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> contextlib.AbstractContextManager[Node]:
        """Start a process on a host."""
        words = self._made.hosts[host].words(*arguments)
        return processes.started(words, env={**NO_PROXY, **(env or {})}, timeout=timeout)

    def node(
        self, host: str, role: str, *words: str, env: Mapping[str, str] | None = None
    ) -> contextlib.AbstractContextManager[Node]:
        """Start an origin or a middle on a host, and wait until it listens."""
        return self._listening(self.started(host, _command(role, "--host", self.address(host), *words), env))

    @contextlib.contextmanager
    def _listening(self, start: contextlib.AbstractContextManager[Node]) -> Iterator[Node]:
        """Check that a node listens."""
        with start as node:
            assert node.url, f"did not listen:\n{node.log}"
            yield node

    def follower(
        self, host: str, servers: str, folder: Path, env: Mapping[str, str] | None = None
    ) -> contextlib.AbstractContextManager[Node]:
        """Start a client on a host that follows."""
        words = ("client", "--follow", "--servers", servers, "--output-dir", str(folder))
        return self.started(host, _command(*words), env, timeout=0)

    @contextlib.contextmanager
    def download(
        self, host: str, servers: str, output: Path, env: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """Start a client on a host that downloads v1, and prints JSON."""
        words = ("client", "--servers", servers, "--version", "v1", "--output-file", str(output), "--json")
        process = subprocess.Popen(
            self._made.hosts[host].words(*_command(*words)),
            env=processes.environment(**NO_PROXY, **(env or {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    # What happens to links

    def take_down(self, *hosts: str) -> None:
        """Take the carrier from the links of hosts."""
        for host in hosts:
            self._ip_at_switch("link", "set", self._ports[host], "down")

    def bring_up(self, *hosts: str) -> None:
        """Give the links of hosts their carrier back."""
        for host in hosts:
            self._ip_at_switch("link", "set", self._ports[host], "up")

    @contextlib.contextmanager
    def down(self, *hosts: str) -> Iterator[None]:
        """Take the carrier from links while the block runs, and check that nothing passed."""
        before = {host: self.received(host) for host in hosts}
        self.take_down(*hosts)
        yield
        passed = {host: self.received(host) - before[host] for host in hosts}
        assert max(passed.values()) < 1_000_000, f"the links were not down: {passed} bytes came"
        self.bring_up(*hosts)

    def drop_packets(self, host: str) -> None:
        """Drop every packet to a host without a sign.

        Its link and all others stay up, and all hosts go on knowing its hardware address.
        """
        hardware = self._hardware_address(host)
        for other in self._ports:
            if other != host:
                at = ("neighbour", "replace", self.address(host), "lladdr", hardware, "dev", DEVICE)
                self._ip_at(other, *at, "nud", "permanent")
        self._set_state(host, BLOCKED)

    def pass_packets(self, host: str) -> None:
        """Pass the packets to a host again."""
        self._set_state(host, FORWARDING)

    def replace(self, host: str, by: str) -> None:
        """Let another host take a host's place and address.

        To the rest that is a machine that lost its power and started again: not one packet says that its
        connections have ended.
        """
        hardware, address = self._hardware_address(host), self.address(host)
        self.take_down(host)
        self._ip_at(by, "link", "set", DEVICE, "down")
        self._ip_at(by, "link", "set", DEVICE, "address", hardware)
        self._ip_at(by, "addr", "flush", "dev", DEVICE)
        self._ip_at(by, "addr", "add", f"{address}/24", "dev", DEVICE)
        self._ip_at(by, "link", "set", DEVICE, "up")
        self._made.hosts[by].address = address

    def _set_state(self, host: str, state: str) -> None:
        """Set the state of a host's port at the switch."""
        switch = self._made.switch.namespace
        _run("bridge", "-n", switch, "link", "set", "dev", self._ports[host], "state", state)

    def _hardware_address(self, host: str) -> str:
        """Return the hardware address of a host."""
        return str(json.loads(self._ip_at(host, "-j", "link", "show", "dev", DEVICE))[0]["address"])

    def _ip_at(self, host: str, *words: str) -> str:
        """Run ``ip`` in a host's namespace."""
        return _run("ip", "-n", self._made.hosts[host].namespace, *words)

    def _ip_at_switch(self, *words: str) -> str:
        """Run ``ip`` in the switch's namespace."""
        return _run("ip", "-n", self._made.switch.namespace, *words)


def _command(*words: str) -> list[str]:
    """Return ``shardcast WORDS…`` with the times of these networks."""
    return [sys.executable, "-c", _COMMAND, *words]


@contextlib.contextmanager
def network(**rates: float | None) -> Iterator[Network]:
    """Make a network of hosts, and kill at its end what runs on them.

    Args:
        rates: for each host the rate of its link in Mbit/s each way; None for as fast as it can be.

    Raises:
        Unavailable: this machine can't make it; says why.
    """
    namespaces = _namespaces()
    with contextlib.ExitStack() as stack:
        try:
            made = stack.enter_context(namespaces.network(rates))
        except namespaces.Skipped as error:
            raise Unavailable(str(error)) from error
        yield Network(made)


def check() -> None:
    """Find out whether networks can be made here, by making one.

    Raises:
        Unavailable: they can't; says why.
    """
    try:
        with network(one=1.0, other=None) as tried:
            tried.drop_packets("one")
            tried.received("one")
    except (AssertionError, OSError) as error:
        raise Unavailable(str(error)) from error


def _namespaces() -> Any:
    """Import the benchmark's module, which finds its neighbours only in its own folder."""
    before = set(sys.modules)
    sys.path.insert(0, str(BENCH))
    try:
        return import_module("namespaces")
    finally:
        sys.path.remove(str(BENCH))
        for name in set(sys.modules) - before:
            if str(BENCH) in (getattr(sys.modules[name], "__file__", None) or ""):
                del sys.modules[name]


def _run(*words: str) -> str:
    """Run a command, and return its output."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
    return done.stdout
