"""Sharing clients in this process, beside an origin whose upload is slow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardcast.access.client_access import ClientAccess
from shardcast.fair_limit import FairLimit
from shardcast.nodes.client import Client, Release
from shardcast.nodes.origin import Origin
from shardcast.nodes.sharing_settings import SharingSettings
from shardcast.server.bounds import Bounds
from shardcast.transfer.workers import Transfer


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until a condition that no event tells of is true."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@dataclass
class Sharer:
    """A sharing client.

    Attributes:
        client: the client.
        path: its output.
        transfers: its transfers so far.
    """

    client: Client
    path: Path
    transfers: list[Transfer] = field(default_factory=list)

    async def download(self, version: str = "latest") -> Release:
        """Download a version into the output."""
        return await self.client.download(version, self.path, self.transfers.append)

    async def have(self, payload: bytes) -> None:
        """Download a version of which all bytes are in the output already."""
        await asyncio.to_thread(self.path.write_bytes, payload)
        await self.download()

    @property
    def from_neighbours(self) -> int:
        """Bytes that came from neighbours."""
        return sum(transfer.progress.neighbours.received for transfer in self.transfers)

    @property
    def finished(self) -> list[Transfer]:
        """The transfers of which all is here."""
        return [one for one in self.transfers if one.progress.done == one.progress.size]

    @property
    def neighbours(self) -> int:
        """Neighbours of the last transfer's version now."""
        return self.transfers[-1].progress.neighbours.count if self.transfers else 0


@asynccontextmanager
async def sharer(
    servers: Sequence[str] | str,
    folder: Path,
    *,
    upload: int | None = None,
    access: ClientAccess | None = None,
    **settings: Any,
) -> AsyncIterator[Sharer]:
    """Run a sharing client on 127.0.0.1 that sends ``upload`` bytes a second at most."""
    servers = [servers] if isinstance(servers, str) else servers
    folder.mkdir(parents=True, exist_ok=True)
    sharing = SharingSettings(host="127.0.0.1", uploads=FairLimit.of(upload), **settings)
    async with Client(list(servers), folder, sharing=sharing, access=access) as client:
        yield Sharer(client, folder / "output")


@asynccontextmanager
async def slow_origin(data_dir: Path, rate: int | None, **settings: Any) -> AsyncIterator[Origin]:
    """Run an origin on a free port of 127.0.0.1 that sends ``rate`` bytes a second at most."""
    bounds = Bounds(uploads=FairLimit.of(rate))
    host, port = settings.pop("host", "127.0.0.1"), settings.pop("port", 0)
    async with Origin.running(data_dir, host=host, port=port, bounds=bounds, **settings) as origin:
        yield origin
