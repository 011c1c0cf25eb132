"""The sending half of a connection between neighbours."""

from __future__ import annotations

import socket

from shardcast.swarm.outlets import SocketOutlet


async def test_bytes_that_were_not_read_yet_are_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        far = socket.create_connection(server.getsockname())
        near, _ = server.accept()
    with near, far:
        outlet = SocketOutlet(near)
        assert outlet.waiting() == 0
        far.sendall(bytes(7000))
        near.recv(7000, socket.MSG_PEEK | socket.MSG_WAITALL)
        assert outlet.waiting() == 7000
        near.recv(2000)
        assert outlet.waiting() == 5000
        outlet.close()
