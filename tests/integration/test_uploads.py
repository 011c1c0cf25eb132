"""Publishing from elsewhere: uploads at an origin, over TCP, within one process."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

import shardcast
from shardcast.errors import (
    AccessDenied,
    IntegrityError,
    LocalDiskError,
    PayloadChanged,
    ServerUnreachable,
    UploadRefused,
)
from shardcast.nodes import remote_broadcast
from shardcast.nodes.origin import Origin
from shardcast.nodes.payload_sources import FileSource, StreamSource
from shardcast.nodes.remote_broadcast import RemoteProgress, broadcast_to
from shardcast.nodes.upload_table import UploadBounds
from shardcast.protocol.uploads import UploadRequest
from shardcast.store.completed import CompleteVersions
from tests.integration.test_live import until
from tests.support import processes
from tests.support.published import random_bytes
from tests.support.published import sha256 as sha256_of
from tests.support.small_disks import small_disk

HTTP = "127.0.0.1", 0
SIZE = 3_000_000


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(random_bytes(SIZE))
    return file


@pytest.fixture
async def origin(tmp_path: Path) -> AsyncIterator[Origin]:
    async with running(tmp_path) as origin:
        yield origin


@asynccontextmanager
async def running(tmp_path: Path, port: int = 0, **options: Any) -> AsyncIterator[Origin]:
    data_dir = tmp_path / "data"
    async with Origin.running(
        data_dir, HTTP[0], port, takes_uploads=True, shard_size=1_000_000, **options
    ) as found:
        yield found


async def send(origin: Origin, payload: Path, **options: Any) -> str:
    """Send a file as the command does, and return its version."""
    with FileSource(payload) as source:
        request = UploadRequest(source.name, source.size, key=source.key(**options), **options)
        return await broadcast_to(origin.url, source, request, timeout=5)


def published(origin: Origin) -> dict[str, str]:
    """Return the digests of the complete versions."""
    return {listing.version: listing.digest for listing in origin.folders.listings}


def left(origin: Origin) -> list[str]:
    """Return the uploads on the disk."""
    root = origin.folders.data_dir.uploads
    return [entry.name for entry in root.iterdir()] if root.is_dir() else []


class Api:
    """The requests of an upload, one by one."""

    def __init__(self, http: ClientSession, url: str) -> None:
        self.http, self.url = http, url

    async def ask(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """Return the status and the last JSON line of an answer."""
        async with self.http.request(method, self.url + path, **more) as response:
            text = await response.text()
            return response.status, json.loads(text.splitlines()[-1]) if text.strip() else None

    async def begin(self, **values: Any) -> str:
        status, answer = await self.ask("POST", "/uploads", json={"name": "x.bin", "size": SIZE, **values})
        assert status == 201, answer
        return str(answer["upload"])

    async def append(self, upload: str, offset: int, data: Any) -> tuple[int, Any]:
        if isinstance(data, bytes):
            data = io.BytesIO(data)
        headers = {"Upload-Offset": str(offset)}
        return await self.ask("PATCH", f"/uploads/{upload}", data=data, headers=headers)

    async def finish(self, upload: str, size: int, sha256: str) -> tuple[int, Any]:
        return await self.ask("POST", f"/uploads/{upload}/complete", json={"size": size, "sha256": sha256})


@pytest.fixture
async def api(origin: Origin) -> AsyncIterator[Api]:
    async with ClientSession() as http:
        yield Api(http, origin.url)


async def test_web_page_begins_no_upload(origin: Origin, api: Api) -> None:
    announced = {"json": {"name": "x.bin", "size": 3}, "headers": {"Origin": "http://page.example"}}
    status, answer = await api.ask("POST", "/uploads", **announced)
    assert (status, answer["error"]["message"]) == (403, "web pages can't publish")
    assert left(origin) == []


# As the command sends


@pytest.mark.parametrize("live", [False, True])
async def test_file_becomes_a_version_with_its_name_and_bytes(
    origin: Origin, payload: Path, live: bool
) -> None:
    assert await send(origin, payload, live=live, metadata={"step": 3}) == "v1"
    manifest = origin.folders.manifest_of("v1")
    assert manifest is not None and published(origin) == {"v1": sha256_of(payload)}
    assert (manifest.header.name, manifest.header.metadata) == ("model.bin", {"step": 3})
    spans = [origin.folders.shard("v1", number) for number in (1, 2, 3)]
    data = b"".join(span.path.read_bytes()[span.offset : span.offset + span.length] for span in spans if span)
    assert data == payload.read_bytes()
    assert not left(origin)


@pytest.mark.parametrize("size", [0, 1])
async def test_tiny_files_are_published(origin: Origin, tmp_path: Path, size: int) -> None:
    (tmp_path / "tiny").write_bytes(b"x" * size)
    assert await send(origin, tmp_path / "tiny") == "v1"
    assert published(origin) == {"v1": sha256_of(tmp_path / "tiny")}


async def test_same_command_again_publishes_again(origin: Origin, payload: Path) -> None:
    assert [await send(origin, payload), await send(origin, payload)] == ["v1", "v2"]


async def test_two_uploads_at_once_are_both_published(origin: Origin, payload: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.bin"
    other.write_bytes(random_bytes(SIZE, 2))
    await asyncio.gather(send(origin, payload), send(origin, other))
    assert sorted(published(origin).values()) == sorted([sha256_of(payload), sha256_of(other)])


async def test_stored_payload_is_kept_once(origin: Origin, payload: Path) -> None:
    await send(origin, payload)
    found = [file for file in origin.folders.data_dir.root.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in found) < 1.1 * SIZE


async def test_origin_without_publish_says_what_to_do(tmp_path: Path, payload: Path) -> None:
    async with Origin.running(tmp_path / "data", *HTTP) as origin:
        with pytest.raises(UploadRefused, match=f"{origin.url} takes no uploads; start it with --publish"):
            await send(origin, payload)


async def test_file_that_changes_while_it_is_sent_is_not_published(origin: Origin, payload: Path) -> None:
    with FileSource(payload) as source:

        def change(progress: RemoteProgress) -> None:
            with payload.open("r+b") as file:
                file.write(b"other bytes")

        request = UploadRequest(source.name, source.size, key=source.key())
        with pytest.raises(PayloadChanged, match="changed while it was sent"):
            await broadcast_to(origin.url, source, request, on_progress=change)
    assert not published(origin) and not left(origin)


async def test_stream_of_unknown_size_is_published(origin: Origin) -> None:
    data = random_bytes(SIZE)
    source = StreamSource("pipe", reader(data))
    assert await broadcast_to(origin.url, source, UploadRequest("pipe")) == "v1"
    manifest = origin.folders.manifest_of("v1")
    assert manifest is not None and manifest.size == SIZE


async def test_live_version_grows_before_the_stream_ends(origin: Origin) -> None:
    more = asyncio.Event()
    source = StreamSource("pipe", reader(random_bytes(SIZE), pause_at=2_500_000, resumed=more), 0.05)
    sending = asyncio.ensure_future(broadcast_to(origin.url, source, UploadRequest("pipe", live=True)))
    await until(lambda: origin.folders.shard("v1", 2) is not None)
    assert not published(origin)
    more.set()
    assert await sending == "v1"


async def test_interrupted_live_broadcast_is_aborted_at_once(origin: Origin) -> None:
    source = StreamSource("pipe", reader(random_bytes(SIZE), pause_at=100, resumed=asyncio.Event()), 0.05)
    told = list[RemoteProgress]()
    sending = asyncio.ensure_future(
        broadcast_to(origin.url, source, UploadRequest("pipe", live=True), on_progress=told.append)
    )
    await until(lambda: any(progress.version == "v1" for progress in told))
    sending.cancel()
    await asyncio.wait([sending])
    await source.close()
    await until(lambda: origin.folders.live("v1") is None)
    assert not left(origin)


def reader(
    data: bytes, pause_at: int | None = None, resumed: asyncio.Event | None = None
) -> Callable[[int], Any]:
    """Return a function that reads ``data``, with a pause."""
    at = 0

    async def read(max_bytes: int) -> bytes:
        nonlocal at
        if resumed and pause_at == at:
            await resumed.wait()
        end = min(at + max_bytes, pause_at if pause_at and at < pause_at else len(data))
        chunk, at = data[at:end], end
        return chunk

    return read


# Request by request


async def test_nothing_is_visible_before_the_sender_confirms(origin: Origin, api: Api, payload: Path) -> None:
    data, digest = payload.read_bytes(), sha256_of(payload)
    upload = await api.begin()
    await api.append(upload, 0, data)
    assert origin.folders.data_dir.next == 1
    assert await api.finish(upload, SIZE, digest) == (200, {"ready": True})
    assert not published(origin)
    assert await api.ask("POST", f"/uploads/{upload}/confirm") == (200, {"complete": "v1"})
    assert published(origin) == {"v1": digest}


async def test_lost_answers_are_asked_for_again_and_publish_once(
    origin: Origin, api: Api, payload: Path
) -> None:
    digest, upload = sha256_of(payload), await api.begin()
    await api.append(upload, 0, payload.read_bytes())
    for _ in range(2):
        assert await api.finish(upload, SIZE, digest) == (200, {"ready": True})
    for _ in range(2):
        assert await api.ask("POST", f"/uploads/{upload}/confirm") == (200, {"complete": "v1"})
    assert await api.finish(upload, SIZE, digest) == (200, {"complete": "v1"})
    status, answer = await api.ask("GET", f"/uploads/{upload}")
    assert (status, answer["state"], answer["version"]) == (200, "complete", "v1")
    assert list(published(origin)) == ["v1"]


async def test_bytes_at_a_wrong_offset_are_refused_with_the_right_one(api: Api) -> None:
    upload = await api.begin()
    await api.append(upload, 0, b"12345")
    async with api.http.patch(
        f"{api.url}/uploads/{upload}", data=b"678", headers={"Upload-Offset": "3"}
    ) as response:
        assert (response.status, response.headers["Upload-Offset"]) == (409, "5")


@pytest.mark.parametrize("live", [False, True])
async def test_what_came_of_a_broken_body_is_kept(
    origin: Origin, api: Api, payload: Path, live: bool
) -> None:
    data, upload = payload.read_bytes(), await api.begin(live=live)

    async def offset() -> int:
        return int((await api.ask("GET", f"/uploads/{upload}"))[1]["offset"])

    async def broken() -> AsyncGenerator[bytes, None]:
        yield data[:1_500_000]
        while await offset() < 1_000_000:
            await asyncio.sleep(0.01)
        raise ConnectionResetError

    with pytest.raises(Exception):  # noqa: B017  whatever aiohttp makes of it
        await api.append(upload, 0, broken())
    status, answer = 409, {"offset": await offset()}
    while status == 409:  # the origin may have yet to notice the end, and then a little more is kept
        start = int(answer["offset"]) if "offset" in answer else await offset()
        assert 1_000_000 <= start <= 1_500_000
        status, answer = await api.append(upload, start, data[start:])
    assert (status, answer["offset"]) == (200, SIZE)
    assert await api.finish(upload, SIZE, sha256_of(payload)) == (200, {"ready": True})
    assert (await api.ask("POST", f"/uploads/{upload}/confirm"))[1] == {"complete": "v1"}
    assert published(origin) == {"v1": sha256_of(payload)}


async def test_newer_request_ends_an_older_one(api: Api) -> None:
    upload = await api.begin()
    never = asyncio.Event()

    async def stalled() -> AsyncGenerator[bytes, None]:
        yield b"12345"
        await never.wait()

    older = asyncio.ensure_future(api.append(upload, 0, stalled()))
    while (await api.ask("GET", f"/uploads/{upload}"))[1]["offset"] < 5:
        await asyncio.sleep(0.01)
    assert (await api.append(upload, 5, b"678"))[1]["offset"] == 8
    never.set()
    await asyncio.wait([older])
    assert older.exception() is not None or older.result()[0] != 200
    assert (await api.ask("GET", f"/uploads/{upload}"))[1]["offset"] == 8


@pytest.mark.parametrize("live", [False, True])
async def test_wrong_digest_publishes_nothing(origin: Origin, api: Api, payload: Path, live: bool) -> None:
    upload = await api.begin(live=live)
    await api.append(upload, 0, payload.read_bytes())
    status, answer = await api.finish(upload, SIZE, "0" * 64)
    assert (status, answer["error"]["kind"]) == (200, "IntegrityError")
    assert not published(origin) and not left(origin)
    assert origin.folders.data_dir.next == (2 if live else 1)
    assert (await api.ask("GET", f"/uploads/{upload}"))[0] == 404


async def test_more_bytes_than_announced_are_refused(api: Api) -> None:
    upload = await api.begin(size=10)
    status, answer = await api.append(upload, 0, b"x" * 11)
    assert (status, "more bytes than the 10" in answer["error"]["message"]) == (400, True)


async def test_whole_size_that_is_not_what_came_is_refused(api: Api) -> None:
    upload = await api.begin(size=None)
    await api.append(upload, 0, b"12345")
    assert (await api.finish(upload, 6, "0" * 64))[0] == 409


async def test_confirmation_before_the_payload_is_ready_publishes_nothing(origin: Origin, api: Api) -> None:
    upload = await api.begin()
    assert (await api.ask("POST", f"/uploads/{upload}/confirm"))[0] == 409
    assert not published(origin)


@pytest.mark.parametrize("upload", ["0" * 32, "../../etc", "A" * 32, "%2e%2e"])
async def test_unknown_upload_is_404(api: Api, upload: str) -> None:
    assert (await api.http.get(f"{api.url}/uploads/{upload}")).status == 404


async def test_announcement_that_is_nonsense_is_400(api: Api) -> None:
    for body in (
        b"",
        b"[]",
        b'{"name": 1}',
        b"{" * 1000,
        b'{"name": "x", "shard_size": 1000000000000000000}',
    ):
        status, _ = await api.ask("POST", "/uploads", data=body)
        assert status in (201, 400), body


# Bounds


async def test_sender_that_does_not_confirm_in_time_publishes_nothing(tmp_path: Path, payload: Path) -> None:
    async with (
        running(tmp_path, upload_bounds=UploadBounds(confirm_seconds=0.05)) as origin,
        ClientSession() as http,
    ):
        api = Api(http, origin.url)
        upload = await api.begin()
        await api.append(upload, 0, payload.read_bytes())
        await api.finish(upload, SIZE, sha256_of(payload))
        await until(lambda: origin.folders.live("v1") is None)
        status, answer = await api.ask("POST", f"/uploads/{upload}/confirm")
        assert (status, "did not confirm" in answer["error"]["message"]) == (410, True)
        assert not published(origin)
        origin.folders.data_dir.check_held()
        assert (await api.ask("GET", f"/uploads/{upload}"))[1]["offset"] == SIZE


async def test_idle_uploads_expire_and_active_ones_do_not(tmp_path: Path) -> None:
    bounds = UploadBounds(idle_seconds=0.2, live_seconds=0.2, tidy_seconds=0.02)
    async with running(tmp_path, upload_bounds=bounds) as origin, ClientSession() as http:
        api = Api(http, origin.url)
        idle, live, active = await api.begin(), await api.begin(live=True), await api.begin(name="active")
        gone = asyncio.Event()

        async def slow() -> AsyncGenerator[bytes, None]:
            yield b"12345"
            await gone.wait()

        sending = asyncio.ensure_future(api.append(active, 0, slow()))
        await until(lambda: left(origin) == [active])
        assert [(await api.ask("GET", f"/uploads/{one}"))[0] for one in (idle, live)] == [404, 404]
        assert origin.folders.live("v1") is None
        gone.set()
        assert (await sending)[1]["offset"] == 5


async def test_uploads_that_were_left_expire_without_publish(tmp_path: Path) -> None:
    async with running(tmp_path) as origin, ClientSession() as http:
        await Api(http, origin.url).begin()
    bounds = UploadBounds(idle_seconds=0.0, tidy_seconds=0.02)
    async with Origin.running(tmp_path / "data", *HTTP, upload_bounds=bounds) as origin:
        await until(lambda: not left(origin))


async def test_uploads_are_bounded_in_number(tmp_path: Path) -> None:
    async with running(tmp_path, upload_bounds=UploadBounds(uploads=1)) as origin, ClientSession() as http:
        api = Api(http, origin.url)
        upload = await api.begin()
        status, _ = await api.ask("POST", "/uploads", json={"name": "y"})
        assert status == 503
        await api.ask("DELETE", f"/uploads/{upload}")
        await api.begin()


async def test_payload_larger_than_the_bounds_is_refused_before_its_bytes(tmp_path: Path) -> None:
    async with running(tmp_path, max_bytes=1_000_000) as origin, ClientSession() as http:
        api = Api(http, origin.url)
        for size in (1_000_001, 1 << 60):
            status, answer = await api.ask("POST", "/uploads", json={"name": "y", "size": size})
            assert (status, answer["error"]["kind"]) == (507, "NoRoom")
        await api.begin(size=600_000)
        assert (await api.ask("POST", "/uploads", json={"name": "y", "size": 600_000}))[0] == 507


# Restarts


async def test_upload_goes_on_after_a_restart_of_the_origin(tmp_path: Path, payload: Path) -> None:
    data = payload.read_bytes()
    async with running(tmp_path) as origin, ClientSession() as http:
        upload = await Api(http, origin.url).begin()
        await Api(http, origin.url).append(upload, 0, data[:1_000_000])
    async with running(tmp_path) as origin, ClientSession() as http:
        api = Api(http, origin.url)
        assert (await api.append(upload, 1_000_000, data[1_000_000:]))[0] == 200
        await api.finish(upload, SIZE, sha256_of(payload))
        assert (await api.ask("POST", f"/uploads/{upload}/confirm"))[1] == {"complete": "v1"}
    async with running(tmp_path) as origin, ClientSession() as http:
        _, answer = await Api(http, origin.url).ask("GET", f"/uploads/{upload}")
        assert (answer["state"], answer["version"]) == ("complete", "v1")


async def test_version_that_did_not_come_onto_the_list_is_published_again(
    tmp_path: Path, payload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: CompleteVersions, complete: object) -> None:
        raise LocalDiskError("no list")

    digest = sha256_of(payload)
    async with running(tmp_path) as origin, ClientSession() as http:
        api = Api(http, origin.url)
        upload = await api.begin()
        await api.append(upload, 0, payload.read_bytes())
        await api.finish(upload, SIZE, digest)
        with monkeypatch.context() as broken:
            broken.setattr(CompleteVersions, "add", fail)
            assert (await api.ask("POST", f"/uploads/{upload}/confirm"))[0] == 500
    async with running(tmp_path) as origin, ClientSession() as http:
        api = Api(http, origin.url)
        assert (await api.ask("GET", f"/uploads/{upload}"))[1]["state"] == "receiving"
        await api.finish(upload, SIZE, digest)
        assert await api.ask("POST", f"/uploads/{upload}/confirm") == (200, {"complete": "v2"})
        assert published(origin) == {"v2": digest}


async def test_bytes_that_were_not_durable_are_asked_for_again(tmp_path: Path, payload: Path) -> None:
    async with running(tmp_path) as origin, ClientSession() as http:
        upload = await Api(http, origin.url).begin()
        await Api(http, origin.url).append(upload, 0, payload.read_bytes()[:1000])
        file = origin.folders.data_dir.uploads / upload / "payload"
    with file.open("ab") as more:
        more.write(b"torn")
    async with running(tmp_path) as origin, ClientSession() as http:
        assert (await Api(http, origin.url).ask("GET", f"/uploads/{upload}"))[1]["offset"] == 1000
        assert file.stat().st_size == 1000


@pytest.mark.parametrize("record", [b"", b"{}", b'{"durable": 10, "request": {"name": "x"}}', b"[1]"])
async def test_damaged_uploads_are_removed_at_the_start(tmp_path: Path, record: bytes) -> None:
    folder = tmp_path / "data" / ".shardcast" / "uploads" / ("a" * 32)
    folder.mkdir(parents=True)
    (folder / "record").write_bytes(record)
    (folder / "payload").write_bytes(b"short")
    async with running(tmp_path) as origin:
        assert not left(origin)


async def test_sender_goes_on_after_the_origin_came_back(tmp_path: Path, payload: Path) -> None:
    stopped, offsets = asyncio.Event(), list[int]()
    with FileSource(payload) as source:

        def watch(progress: RemoteProgress) -> None:
            offsets.append(progress.done)
            if progress.done >= 1_000_000:
                stopped.set()

        request = UploadRequest(source.name, source.size, key=source.key())
        async with running(tmp_path) as origin:
            port = int(origin.url.rsplit(":", 1)[1])
            sending = asyncio.ensure_future(broadcast_to(origin.url, source, request, on_progress=watch))
            await stopped.wait()
        async with running(tmp_path, port) as origin:
            assert await sending == "v1"
            assert published(origin) == {"v1": sha256_of(payload)}


async def test_sender_gives_up_an_origin_that_stays_away(
    tmp_path: Path, payload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_broadcast, "UNREACHABLE_AT_START", 0.1)
    async with running(tmp_path) as origin:
        pass
    with pytest.raises(ServerUnreachable, match=origin.url):
        await send(origin, payload)


async def test_sender_is_told_of_wrong_bytes(
    origin: Origin, payload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FileSource, "sha256", lambda self: "0" * 64)
    with pytest.raises(IntegrityError, match="nothing was published"):
        await send(origin, payload)
    assert not published(origin)


# The command and the library


def test_library_and_command_publish_at_an_origin_elsewhere(tmp_path: Path, payload: Path) -> None:
    origin = shardcast.OriginServer(tmp_path / "data", 0, publish=True)
    try:
        assert shardcast.broadcast(payload, to=origin.url) == "v1"
        handle = shardcast.broadcast(payload, to=origin.url, wait=False, live=True, metadata={"step": 1})
        assert (handle.result(60), handle.version, handle.done()) == ("v2", "v2", True)
        assert handle.progress == shardcast.BroadcastProgress(SIZE, SIZE)
        done = processes.run("broadcast", str(payload), "--to", origin.url, "--json")
        assert (done.returncode, json.loads(done.stdout)["version"]) == (0, "v3")
    finally:
        origin.shutdown(0)
    listed = (tmp_path / "data" / "distribution.txt").read_text()
    assert listed.count(sha256_of(payload)) == 3


def test_arguments_that_do_not_go_with_another_origin_are_refused(payload: Path) -> None:
    for extra in ({"copies": 1}, {"timeout": 1.0}, {"copy": False}):
        with pytest.raises(shardcast.UsageError, match="do not go with to="):
            shardcast.broadcast(payload, to="origin:8000", **extra)  # type: ignore[call-overload]
    with pytest.raises(shardcast.UsageError, match="live=True and token= go with to="):
        shardcast.broadcast(payload, live=True)
    for words in (("--link",), ("--copies", "1"), ("--data-dir", "x")):
        done = processes.run("broadcast", str(payload), "--to", "origin:8000", *words)
        assert (done.returncode, "does not go with --to" in done.stderr) == (2, True)
    assert processes.run("broadcast", str(payload), "--live").returncode == 2


def test_origin_with_tokens_takes_uploads_only_with_scope_publish(tmp_path: Path, payload: Path) -> None:
    tokens = {}
    for scope in ("publish", "read"):
        made = processes.run("token", "new", "--scope", scope, "--append", str(tmp_path / "tokens"))
        tokens[scope] = made.stdout.strip()
    with processes.origin(tmp_path / "data", "--publish", "--tokens", str(tmp_path / "tokens")) as origin:
        words = ("broadcast", str(payload), "--to", origin.url)
        for env in ({}, {"SHARDCAST_TOKEN": tokens["read"]}):
            denied = processes.run(*words, env=env)
            assert (denied.returncode, "publish" in denied.stderr) == (8, True), denied.stderr
            assert tokens["read"] not in denied.stderr
        with pytest.raises(AccessDenied, match="publish"):
            shardcast.broadcast(payload, to=origin.url, token=tokens["read"])
        assert processes.run(*words, env={"SHARDCAST_TOKEN": tokens["publish"]}).stdout == "v1\n"
        assert shardcast.broadcast(payload, to=origin.url, token=tokens["publish"], live=True) == "v2"


@pytest.mark.root
async def test_full_disk_of_the_origin_is_no_error_of_this_one(tmp_path: Path, payload: Path) -> None:
    with small_disk(tmp_path / "data", "8m") as disk:
        async with running(tmp_path) as origin:
            disk.fill(leaving=1_500_000)
            with pytest.raises(UploadRefused, match=r"no room for an upload of 3\.0 MB"):
                await send(origin, payload)
            upload = StreamSource("pipe", reader(payload.read_bytes()))
            with pytest.raises(UploadRefused, match="No space left"):
                await broadcast_to(origin.url, upload, UploadRequest("pipe"))
            await until(lambda: not left(origin))
            assert not published(origin)
