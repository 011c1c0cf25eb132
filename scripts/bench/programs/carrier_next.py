"""Take pieces that an origin hands out: ``URL CONNECTIONS COUNT PIECES MANIFEST OUTPUT``.

Each connection has one request out for the next piece. A piece that came is called lost, so that the origin
hands it out again. With more than one of PIECES, the same calls ask for the whole shard instead. Prints its
CPU seconds as JSON.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from carrier_work import PIECE, Work

from shardcast.peer.next_range import RangeServer, ReceivedRange
from shardcast.peer.quick_connection import QuickHead
from shardcast.peer.quick_exchange import SmallRequest
from shardcast.peer.session import open_session
from shardcast.protocol.manifest_reader import parse
from shardcast.protocol.next_range import RangeHead
from shardcast.protocol.piece_numbers import PieceNumbers

url, connections, count, pieces, manifest, output = sys.argv[1:]
numbers = PieceNumbers.of(parse(Path(manifest).read_bytes(), "v1"))
TIMEOUT = 30.0
NODE_CONNECTIONS = 2
"""Requests that a server answers for one node at once."""


async def take_pieces(server: RangeServer, work: Work, node: str) -> None:
    """Take piece by piece, as the server hands them out."""
    ranges, buffer = server.ranges("v1", node, numbers), memoryview(bytearray(PIECE))

    def find_buffer(head: RangeHead) -> memoryview:
        return buffer[: head.end - head.start]

    while work.left > 0:
        answer = await ranges.ask(0, find_buffer, offered=True)
        if not isinstance(answer, ReceivedRange):
            await asyncio.sleep(answer.seconds if hasattr(answer, "seconds") else 0.0)
            continue
        number = numbers.number_at(answer.head.shard, answer.head.start)
        if number < work.each:
            work.take(number, buffer)
        ranges.report_lost(1 << number)


async def take_shards(server: RangeServer, work: Work) -> None:
    """Take whole shards by the same calls."""
    buffer = memoryview(bytearray(numbers.shard_size(1)))

    def place(head: QuickHead) -> memoryview:
        return buffer

    while work.left > 0:
        await server.quick.ask(SmallRequest("GET", "/v1/shard_001.bin", b""), place)
        for index in range(min(work.each, work.left)):
            work.take(index, buffer[index * PIECE : (index + 1) * PIECE])


async def main() -> None:
    """Take all pieces."""
    async with open_session() as session:
        server = RangeServer(url, session, TIMEOUT)
        work = Work(manifest, output, int(count))
        if int(pieces) > 1:
            await take_shards(server, work)
        else:
            nodes = (f"{number // NODE_CONNECTIONS:04x}" for number in range(int(connections)))
            await asyncio.gather(*(take_pieces(server, work, node) for node in nodes))
        work.finish()


asyncio.run(main())
