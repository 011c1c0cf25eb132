"""Reads that wake their thread once their bytes are there."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from threading import Timer

import pytest

from shardcast.peer.late_reads import LateReads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system wakes for each byte")
SIZE = 64 << 10


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        near = socket.create_connection(listening.getsockname())
        far, _ = listening.accept()
    near.settimeout(20)
    with near, far:
        yield near, far


def lowat(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


def test_read_ends_once_all_of_its_bytes_are_there(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.sendall(b"a" * 1000)
    later = Timer(0.02, far.sendall, [b"b" * (SIZE - 1000)])
    later.start()
    buffer = memoryview(bytearray(SIZE))
    assert LateReads(near).read_into(buffer) == SIZE
    assert bytes(buffer) == b"a" * 1000 + b"b" * (SIZE - 1000)
    later.join()


def test_bytes_of_a_slow_server_are_read_after_a_moment(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.sendall(b"a" * 1000)
    assert LateReads(near).read_into(memoryview(bytearray(SIZE))) == 1000


def test_silent_server_is_waited_for_as_long_as_the_socket_says(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, _ = pair
    near.settimeout(0.01)
    with pytest.raises(TimeoutError):
        LateReads(near).read_into(memoryview(bytearray(SIZE)))


def test_end_of_the_connection_ends_the_read(pair: tuple[socket.socket, socket.socket]) -> None:
    near, far = pair
    far.sendall(b"a" * 1000)
    far.close()
    reads = LateReads(near)
    assert [reads.read_into(memoryview(bytearray(SIZE))) for _ in range(2)] == [1000, 0]


def test_next_answer_over_the_connection_is_read_as_it_comes(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = pair
    far.sendall(b"a" * SIZE)
    LateReads(near).read_into(memoryview(bytearray(SIZE)))
    assert lowat(near) == SIZE
    monkeypatch.setattr(LateReads, "_fits", lambda self, sock: True)
    LateReads(near).end()
    assert lowat(near) == 1


def test_connections_of_this_machine_and_closed_ones_are_read_as_they_come(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    near, far = pair
    assert not LateReads(near).can_be
    near.shutdown(socket.SHUT_RDWR)
    far.close()
    near.close()
    assert not LateReads(near).can_be
