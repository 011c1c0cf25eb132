"""The addresses that a server listens on, and what it says of them."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from shardcast.errors import AddressTaken, NodeFailed
from shardcast.server import binding
from shardcast.server.binding import EVERY_ADDRESS, Bound, bind
from tests.support import processes
from tests.support.legacy import get


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            return True
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 here")


@contextlib.contextmanager
def bound(host: str, port: int = 0) -> Iterator[Bound]:
    with contextlib.closing(bind(host, port)) as found:
        for one in found.sockets:
            one.listen()
        yield found


def connects(family: socket.AddressFamily, host: str, port: int) -> bool:
    with socket.socket(family) as plug:
        return plug.connect_ex((host, port)) == 0


@needs_ipv6
@pytest.mark.parametrize("role", ["origin", "middle", "archive"])
def test_node_listens_on_both_families_and_prints_reachable_url(role: str, tmp_path: Path) -> None:
    words = {
        "origin": ["origin", "--data-dir", str(tmp_path)],
        "middle": ["middle", "--data-dir", str(tmp_path), "--upstream", "127.0.0.1:1"],
        "archive": ["archive", "serve", str(tmp_path)],
    }
    with processes.node(*words[role], "--port", "0") as node:
        for host in ("127.0.0.1", "[::1]", urlsplit(node.url).netloc.rpartition(":")[0]):
            assert get(f"http://{host}:{node.port}", "/healthcheck")[0] == 200
        assert urlsplit(node.url).hostname not in ("", "::", "0.0.0.0")


@needs_ipv6
@pytest.mark.parametrize(
    ("host", "ipv4", "ipv6"),
    [
        (EVERY_ADDRESS, True, True),
        ("", True, True),
        ("0.0.0.0", True, False),
        ("127.0.0.1", True, False),
        ("::1", False, True),
    ],
)
def test_host_is_bound_in_all_its_families_at_one_port(host: str, ipv4: bool, ipv6: bool) -> None:
    with bound(host) as found:
        assert connects(socket.AF_INET, "127.0.0.1", found.port) is ipv4
        assert connects(socket.AF_INET6, "::1", found.port) is ipv6


@needs_ipv6
def test_ipv4_client_has_ipv4_address() -> None:
    with bound(EVERY_ADDRESS) as found, socket.create_connection(("127.0.0.1", found.port)):
        connection, address = found.sockets[0].accept()
        connection.close()
        assert address[0] == "127.0.0.1"


@pytest.mark.parametrize(("host", "url"), [("127.0.0.1", "http://127.0.0.1"), ("::1", "http://[::1]")])
def test_named_host_is_printed_verbatim(host: str, url: str) -> None:
    with contextlib.closing(Bound(host, (socket.socket(),))) as found:
        assert found.url() == f"{url}:0"


@pytest.mark.parametrize("host", [EVERY_ADDRESS, ""])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_loopback_is_printed_without_a_route(
    family: socket.AddressFamily, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding, "_own_address", lambda _: None)
    with contextlib.closing(Bound(host, (socket.socket(family),))) as found:
        assert found.url() == f"http://{'127.0.0.1' if family == socket.AF_INET else '[::1]'}:0"


@pytest.mark.parametrize("host", [EVERY_ADDRESS, "", "0.0.0.0"])
def test_routable_address_is_printed(host: str) -> None:
    """Which one it is the system says, which sends nothing for that (a connection of UDP)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no way to others")
        known = probe.getsockname()[0]
    with contextlib.closing(Bound(host, (socket.socket(socket.AF_INET),))) as found:
        assert found.url() == f"http://{known}:0"


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EAFNOSUPPORT, "no IPv6 here"), (errno.EADDRNOTAVAIL, "no such address; choose another --host")],
)
def test_node_listens_on_ipv4_without_ipv6(number: int, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = binding._bind_address

    def without(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(number, "no IPv6 here")
        return whole(family, address)

    monkeypatch.setattr(binding, "_bind_address", without)
    with bound(EVERY_ADDRESS) as found:
        assert [one.family for one in found.sockets] == [socket.AF_INET]
        assert connects(socket.AF_INET, "127.0.0.1", found.port)
    with pytest.raises(NodeFailed, match=words):
        bind("::1", 0)


@needs_ipv6
@pytest.mark.parametrize("taken", ["127.0.0.1", "::1"])
def test_port_taken_in_one_family_is_refused(taken: str) -> None:
    with bound(taken) as other, pytest.raises(AddressTaken, match=f"port {other.port} on :: is taken"):
        bind(EVERY_ADDRESS, other.port)


@needs_ipv6
def test_free_port_is_free_in_both_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system picks it in one; where it is taken in the other, another is picked."""
    whole, failures = binding._bind_address, [errno.EADDRINUSE] * 3

    def taken_at_first(family: socket.AddressFamily, address: tuple[Any, ...]) -> socket.socket:
        if family == socket.AF_INET6 and failures:
            raise OSError(failures.pop(), "taken")
        return whole(family, address)

    monkeypatch.setattr(binding, "_bind_address", taken_at_first)
    with bound(EVERY_ADDRESS) as found:
        assert {one.getsockname()[1] for one in found.sockets} == {found.port}
        assert len(found.sockets) == 2
