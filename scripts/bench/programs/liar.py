"""A client that shares, and gives its neighbours wrong bytes for every piece: ``liar.py WORDS…``.

The words are those of ``shardcast-client``. It receives as an honest client does, and offers what it has.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace

from shardcast.cli.client import client
from shardcast.swarm.links import GivenPiece
from shardcast.swarm.sender import FrameSender

_SIZE = 64 << 20
"""Bytes of the largest piece that there can be."""


def lie() -> None:
    """Have all answers to neighbours sent from a file of zeros."""
    zeros = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  open as long as the process runs
    zeros.truncate(_SIZE)
    honest = FrameSender.give

    async def give(sender: FrameSender, request: int, piece: GivenPiece) -> None:
        await honest(sender, request, replace(piece, file=zeros, offset=0))

    FrameSender.give = give  # type: ignore[method-assign]


if __name__ == "__main__":
    lie()
    client(sys.argv[1:], prog_name="shardcast-client")
