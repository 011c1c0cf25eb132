"""Recorded work on uploads: payloads that come from elsewhere, and are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aiohttp import ClientSession

from shardcast.nodes.origin import Origin
from shardcast.nodes.payload_sources import FileSource
from shardcast.nodes.remote_broadcast import broadcast_to
from shardcast.protocol.uploads import UploadRequest
from tests.support.payloads import sha256
from tests.support.power.versions import file_of
from tests.support.power.working import SHARD, mark, payload, work

HALF = SHARD + 500
"""Bytes of the first request of an upload."""


class Sender:
    """The requests of one upload, whose answers are marked once they are here."""

    def __init__(self, http: ClientSession, number: int) -> None:
        self._http = http
        self.number = number
        self.upload = ""

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        """Return the last line of an answer."""
        async with self._http.request(method, path, **more) as response:
            text = await response.text()
            assert response.status < 300, (response.status, text)
        return json.loads(text.splitlines()[-1]) if text else None

    async def begin(self, **values: Any) -> None:
        """Announce the payload."""
        more = {"name": "model.bin", "size": len(payload(self.number)), **values}
        self.upload = (await self.ask("POST", "/uploads", json=more))["upload"]
        mark(upload=self.upload, number=self.number, live=bool(values.get("live")), durable=0)

    async def bring(self, start: int, end: int | None = None) -> None:
        """Bring bytes of the payload."""
        headers, data = {"Upload-Offset": str(start)}, payload(self.number)[start:end]
        answer = await self.ask("PATCH", f"/uploads/{self.upload}", data=data, headers=headers)
        mark(upload=self.upload, durable=answer["offset"])

    async def finish(self) -> None:
        """Have the payload checked, and confirm it."""
        data = payload(self.number)
        whole = {"size": len(data), "sha256": sha256(data)}
        answer = await self.ask("POST", f"/uploads/{self.upload}/complete", json=whole)
        assert answer == {"ready": True}, answer
        mark(confirming=self.number)
        answer = await self.ask("POST", f"/uploads/{self.upload}/confirm")
        assert answer == {"complete": f"v{self.number}"}, answer
        mark(published=self.number)

    async def forget(self) -> None:
        """Have the upload forgotten."""
        mark(forgetting=self.upload)
        await self.ask("DELETE", f"/uploads/{self.upload}")


@work
async def upload(base: Path) -> None:
    """Send a payload over a restart of the origin, a live one, one that is not published, and a file."""
    options: dict[str, Any] = {"shard_size": SHARD, "takes_uploads": True}
    async with (
        Origin.running(base / "data", "127.0.0.1", 0, **options) as origin,
        ClientSession(origin.url) as http,
    ):
        sender = Sender(http, 1)
        await sender.begin()
        await sender.bring(0, HALF)
    async with (
        Origin.running(base / "data", "127.0.0.1", 0, **options) as origin,
        ClientSession(origin.url) as http,
    ):
        again = Sender(http, 1)
        again.upload = sender.upload
        await again.bring(HALF)
        await again.finish()
        live = Sender(http, 2)
        await live.begin(live=True)
        mark(numbered=2)
        await live.bring(0, HALF)
        await live.bring(HALF)
        await live.finish()
        await again.forget()
        await live.forget()
        left = Sender(http, 9)
        await left.begin()
        await left.bring(0, HALF)
        mark(confirming=3)
        with FileSource(file_of(base, 3)) as source:
            request = UploadRequest(source.name, source.size, key=source.key())
            await broadcast_to(origin.url, source, request, on_complete=lambda _: mark(published=3))
