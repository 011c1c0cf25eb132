"""``/status``: what nodes say of themselves and of who is below them; docs/status.schema.json holds."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator

from shardcast.nodes import middle as middles
from shardcast.nodes import origin as origins
from shardcast.nodes.client import Client
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from shardcast.protocol.feed import UpTo
from shardcast.protocol.report import MAX_NODES, MAX_REPORT, Node, encode
from shardcast.server import turns
from shardcast.server.downstream import Downstream
from shardcast.upstream import report as reporting
from tests.integration.test_following import complete, hello, tells, v
from tests.integration.test_live import Pipe
from tests.support import bad_answers as bad
from tests.support.bad_answers import throttled
from tests.support.bad_servers import BadServer, dead_address
from tests.support.payloads import publish, random_bytes
from tests.support.published import publish as publish_here

HTTP = "127.0.0.1", 0
SHARD = 25 * 4096  # whole blocks
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "status.schema.json").read_text())


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """By which nodes forget who is below them."""
    clock = Clock()
    for module in (origins, middles):
        monkeypatch.setattr(module, "Downstream", lambda node: Downstream(node, clock))
    return clock


@pytest.fixture
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports come often."""
    for name, seconds in (("_LOOK", 0.05), ("_PROGRESS", 0.1), ("_STILL_HERE", 0.3)):
        monkeypatch.setattr(reporting, name, seconds)


async def status(url: str) -> Any:
    """What a node says, which is as the schema says."""
    async with aiohttp.ClientSession() as web, web.get(f"{url}/status") as answer:
        assert answer.status == 200
        assert answer.content_type == "application/json"
        told = await answer.json()
    errors = list(
        Draft202012Validator(SCHEMA["$defs"][told["role"]] | {"$defs": SCHEMA["$defs"]}).iter_errors(told)
    )
    assert not errors, [f"{error.json_path}: {error.message}" for error in errors]
    assert Draft202012Validator(SCHEMA).is_valid(told)
    return told


async def until(url: str, so: Callable[[Any], object], what: str = "the status", seconds: float = 30) -> Any:
    """Ask until it is so."""
    deadline = time.monotonic() + seconds
    while not so(told := await status(url)):
        assert time.monotonic() < deadline, f"waited in vain for {what}: {told}"
        await asyncio.sleep(0.02)
    return told


@contextlib.asynccontextmanager
async def follower(folder: Path, *urls: str, first: str = "latest") -> AsyncIterator[None]:
    async def follow() -> None:
        async with Client(list(urls), folder) as client:
            async for _ in client.follow(first):
                pass

    following = asyncio.ensure_future(follow())
    try:
        yield
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following


@contextlib.contextmanager
def ended(pipe: Pipe) -> Iterator[Pipe]:
    try:
        yield pipe
    finally:
        pipe.end()


# The schema ------------------------------------------------------------------------------------------


def parts(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a schema that describes a value, with its path."""
    for name, one in [*schema.get("$defs", {}).items(), *schema.get("properties", {}).items()]:
        yield f"{path}/{name}", one
        yield from parts(one, f"{path}/{name}")


def test_schema_is_valid_complete_and_strict() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for path, part in parts(SCHEMA):
        assert part.get("description"), path
        if part.get("type") == "object" and "properties" in part:
            assert part["additionalProperties"] is False, path
            assert set(part["required"]) == set(part["properties"]), path
        kind = part.get("type")
        if "integer" in (kind, *(kind or ())) or "number" in (kind, *(kind or ())):
            said = part["description"].lower()
            units = ("byte", "second", "hops", "how many", "shards")
            assert any(unit in said for unit in units), f"{path} has no unit"


# An origin -------------------------------------------------------------------------------------------


async def test_origin_status_during_and_after_publishing(tmp_path: Path) -> None:
    async with (
        Origin.running(tmp_path / "data", *HTTP, keep=7, max_bytes=10_000_000) as origin,
        contextlib.AsyncExitStack() as stack,
    ):
        told = await status(origin.url)
        assert (told["role"], told["distance"]) == ("origin", 0)
        assert told["origin"] == origin.folders.data_dir.origin_id
        assert (told["versions"], told["below"]) == ([], [])
        assert told["disk"]["used"] == 0
        assert (told["disk"]["max_bytes"], told["disk"]["keep"]) == (10_000_000, 7)
        pipe = stack.enter_context(ended(Pipe()))
        made = await origin.publish_stream(pipe.source, "model.bin", SHARD)
        told = await until(origin.url, lambda told: told["versions"], "the open version")
        (version,) = told["versions"]
        assert (version["version"], version["state"]) == ("v1", "open")
        assert (version["digest"], version["size"], version["shards"]) == (None, None, None)
        await pipe.write(random_bytes(2 * SHARD + 1))
        told = await until(
            origin.url, lambda told: told["versions"][0]["bytes_here"] == 2 * SHARD, "two shards"
        )
        assert told["versions"][0]["shards_here"] == 2
        assert told["versions"][0]["name"] == "model.bin"
        pipe.end()
        await made.result()
        (version,) = (await status(origin.url))["versions"]
        assert version["state"] == "complete"
        assert version["digest"] == origin.folders.listings[0].digest
        assert (version["size"], version["bytes_here"]) == (2 * SHARD + 1, 2 * SHARD + 1)
        assert (version["shards"], version["shards_here"]) == (3, 3)
        assert (version["sent"], version["rate"]) == (0, 0)
        assert abs(version["created"] - time.time()) < 60
        async with Client([origin.url], tmp_path / "out") as client, client.lease("v1"):
            await client.download("v1")
            await origin.folders.pin("v1")
            (version,) = (await status(origin.url))["versions"]
        assert version["sent"] == 2 * SHARD + 1
        assert [hold["kind"] for hold in version["held"]] == ["pin", "lease"]


async def test_status_lists_other_lines(tmp_path: Path) -> None:
    one = publish_here(tmp_path / "data", random_bytes(2 * SHARD), SHARD)
    async with Origin.running(tmp_path / "data", *HTTP, max_bytes=10_000_000) as origin:
        before = origin.folders.line.origin
        await origin.folders.pin("v1")
        await origin.folders.change_line("0b" * 16, {}, 0)
        told = await status(origin.url)
        (aside,) = told["aside"]
        assert 0 <= aside.pop("seconds") < 60
        expected = {
            "origin": before,
            "version": "v1",
            "digest": one.sha256,
            "size": 2 * SHARD,
            "pinned": True,
        }
        assert aside == expected
        assert (told["versions"], told["disk"]["used"]) == ([], 2 * SHARD)


# A middle --------------------------------------------------------------------------------------------


async def test_middle_status_has_sources_and_rates(tmp_path: Path) -> None:
    one = publish_here(tmp_path / "origin", random_bytes(6 * SHARD), SHARD)
    with BadServer(one.data_dir).set("/v1/shard_*", throttled(3 * SHARD)) as server, dead_address() as dead:
        urls = [server.url, f"http://{dead}"]
        async with Middle.running(urls, tmp_path / "m", *HTTP, check_interval=0.5) as middle:
            told = await until(
                middle.url, lambda told: told["transfers"] and told["transfers"][0]["rate"], "a rate"
            )
            (transfer,) = told["transfers"]
            assert (transfer["version"], transfer["size"]) == ("v1", 6 * SHARD)
            assert transfer["done"] < 6 * SHARD
            assert transfer["servers"].keys() == {server.url}
            assert transfer["rate"] == transfer["servers"][server.url]
            assert (told["versions"][0]["state"], told["versions"][0]["size"]) == ("open", 6 * SHARD)
            assert told["disk"]["used"] == 6 * SHARD
            asked, lost = told["upstreams"]
            assert (asked["url"], asked["state"], asked["failure"]) == (server.url, "asked", None)
            assert (lost["state"], lost["seconds_since_news"]) == ("lost", None)
            assert dead in lost["failure"]
            told = await until(middle.url, lambda told: not told["transfers"], "its end")
            assert told["versions"][0]["state"] == "complete"


async def test_middle_status_has_age_of_news(tmp_path: Path) -> None:
    async with Middle.running(["http://127.0.0.1:9"], tmp_path / "lost", *HTTP) as middle:
        told = await until(middle.url, lambda told: told["upstreams"][0]["state"] == "lost")
        assert (told["origin"], told["distance"], told["seconds_since_contact"]) == (None, None, None)
    async with contextlib.AsyncExitStack() as stack:
        origin = await stack.enter_async_context(Origin.running(tmp_path / "origin", *HTTP))
        await publish(origin.folders, b"one")
        async with Middle.running([origin.url], tmp_path / "m", *HTTP) as middle:
            told = await until(middle.url, lambda told: told["versions"], "v1")
            (upstream,) = told["upstreams"]
            assert (upstream["state"], upstream["distance"]) == ("followed", 0)
            assert upstream["node"] == (await status(origin.url))["node"]
            assert (told["origin"], told["distance"]) == (origin.folders.data_dir.origin_id, 1)
            await stack.aclose()
            told = await until(
                middle.url, lambda told: told["upstreams"][0]["state"] == "lost", "it to be lost"
            )
            before = told["seconds_since_contact"]
            told = await until(middle.url, lambda told: told["seconds_since_contact"] > before, "older news")
            assert told["upstreams"][0]["failure"]


# Who is below ----------------------------------------------------------------------------------------


def named(told: Any) -> dict[str, Any]:
    """Who is below, by role, with hops."""
    return {f"{one['role']} {one['hops']}": one for one in told["below"]}


@pytest.mark.usefixtures("brisk")
async def test_origin_status_lists_nodes_below_and_their_versions(tmp_path: Path, clock: Clock) -> None:
    async with (
        Origin.running(tmp_path / "o", *HTTP) as origin,
        Middle.running([origin.url], tmp_path / "m1", *HTTP) as first,
        contextlib.AsyncExitStack() as below,
    ):
        second = await below.enter_async_context(Middle.running([first.url], tmp_path / "m2", *HTTP))
        await below.enter_async_context(follower(tmp_path / "near", origin.url))
        await below.enter_async_context(follower(tmp_path / "far", second.url))
        await publish(origin.folders, b"one")
        everybody = {"middle 1", "client 1", "middle 2", "client 3"}
        told = await until(
            origin.url,
            lambda told: (
                named(told).keys() == everybody and all(one["has"] == ["v1"] for one in told["below"])
            ),
            "everybody to have v1",
        )
        ids = {node.url: (await status(node.url))["node"] for node in (origin, first, second)}
        found = named(told)
        assert [one["hops"] for one in told["below"]] == [1, 1, 2, 3]
        assert (found["middle 1"]["node"], found["middle 1"]["via"]) == (ids[first.url], None)
        assert (found["middle 2"]["node"], found["middle 2"]["via"]) == (ids[second.url], ids[first.url])
        assert found["client 3"]["via"] == ids[second.url]
        assert found["client 1"]["via"] is None
        assert set(named(await status(second.url))) == {"client 1"}
        await below.aclose()
        for _ in range(3):
            clock.now += 30
            await until(
                origin.url,
                lambda told: named(told).get("middle 1", {}).get("age", 99) < 30,
                "the one that is left",
            )
        # A busy node gives the status of a moment ago.
        await until(origin.url, lambda told: set(named(told)) == {"middle 1"}, "the others to be forgotten")


@pytest.mark.usefixtures("brisk")
async def test_client_reports_versions_in_its_folder(tmp_path: Path) -> None:
    """Also what an earlier run left there, and not what was removed."""

    def has(*versions: str) -> Callable[[Any], bool]:
        return lambda told: [one["has"] for one in told["below"]] == [list(versions)]

    async with Origin.running(tmp_path / "o", *HTTP) as origin:
        await publish(origin.folders, b"one")
        async with follower(tmp_path / "out", origin.url):
            await until(origin.url, has("v1"), "v1")
            await publish(origin.folders, b"two")
            await until(origin.url, has("v1", "v2"), "v1 and v2")
            (tmp_path / "out" / "download_v1.bin").unlink()
            await until(origin.url, has("v2"), "v2 alone")
    async with (
        Origin.running(tmp_path / "o", *HTTP) as again,
        follower(tmp_path / "out", again.url, first="v3"),
    ):
        await until(again.url, has("v2"), "v2 after a restart")


@pytest.mark.usefixtures("brisk")
async def test_report_names_origin_and_no_file_of_earlier_run(tmp_path: Path) -> None:
    """A file of an earlier run may be another origin's v9."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "download_v9.bin").write_bytes(b"another line's")
    async with (
        Origin.running(tmp_path / "o", *HTTP) as origin,
        Middle.running([origin.url], tmp_path / "m", *HTTP) as middle,
        follower(tmp_path / "out", middle.url),
    ):

        def said(told: Any) -> list[tuple[str | None, list[str]]]:
            return [(one["origin"], one["has"]) for one in told["below"]]

        ours = origin.folders.data_dir.origin_id
        await until(origin.url, lambda told: said(told) == [(ours, []), (ours, [])], "both")
        (tmp_path / "model.bin").write_bytes(b"one")
        await origin.publish(tmp_path / "model.bin")
        await until(origin.url, lambda told: said(told) == [(ours, ["v1"]), (ours, ["v1"])], "v1 at both")


@pytest.mark.usefixtures("brisk")
async def test_reports_have_bytes_of_running_downloads(tmp_path: Path) -> None:
    async with (
        Origin.running(tmp_path / "o", *HTTP) as origin,
        Middle.running([origin.url], tmp_path / "m", *HTTP),
        follower(tmp_path / "out", origin.url),
        contextlib.AsyncExitStack() as stack,
    ):
        pipe = stack.enter_context(ended(Pipe()))
        made = await origin.publish_stream(pipe.source, "model.bin", SHARD)
        await pipe.write(random_bytes(2 * SHARD + 10))
        await until(
            origin.url,
            lambda told: (
                [one["coming"].get("v1") for one in told["below"]] == [2 * SHARD, 2 * SHARD]
                and not any(one["has"] for one in told["below"])
            ),
            "two shards at both",
        )
        pipe.end()
        await made.result()
        await until(
            origin.url,
            lambda told: [(one["has"], one["coming"]) for one in told["below"]] == [(["v1"], {})] * 2,
            "v1 at both",
        )


@pytest.mark.usefixtures("brisk")
async def test_silent_upstream_does_not_delay_reports_to_others(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with BadServer(tmp_path / "empty") as silent:
        silent.set("/feed*", tells(hello(), complete(1, v(1)), UpTo(1))).set("/report", bad.silent())
        async with (
            Origin.running(tmp_path / "o", *HTTP) as origin,
            Middle.running([silent.url, origin.url], tmp_path / "m", *HTTP),
        ):
            await until(origin.url, lambda told: told["below"] and silent.requested("/report"), "both", 15)


# What anybody can say ----------------------------------------------------------------------------------


async def test_malformed_report_is_refused(tmp_path: Path) -> None:
    async with (
        Origin.running(tmp_path / "o", *HTTP) as origin,
        Middle.running([origin.url], tmp_path / "m", *HTTP) as middle,
        aiohttp.ClientSession() as web,
    ):
        for node in (origin, middle):
            for junk in (b"", b"{", b"null", b"\xff" * 100, b"[" * 100_000, b'{"node": "x"}'):
                async with web.post(f"{node.url}/report", data=junk) as answer:
                    assert answer.status == 400
            async with web.post(f"{node.url}/report", data=io.BytesIO(b" " * (MAX_REPORT + 1))) as answer:
                assert answer.status == 413
            async with web.get(f"{node.url}/report") as answer:
                assert answer.status == 405
        assert (await status(middle.url))["below"] == []


async def test_lying_report_cannot_name_this_node(tmp_path: Path) -> None:
    async with Origin.running(tmp_path / "o", *HTTP) as origin, aiohttp.ClientSession() as web:
        me = (await status(origin.url))["node"]
        liar = Node("a" * 64, "client", "\x1b[31m" + "x" * 1000, ["v9"], {"v1": 2**61}, age=0)
        raw = encode(liar, [Node(me, "middle", hops=15), Node("b", "client", hops=1, via=me, age=59)])
        async with web.post(f"{origin.url}/report", data=raw) as answer:
            assert answer.status == 204
        told = await status(origin.url)
        assert [one["node"] for one in told["below"]] == ["a" * 64, "b"]


async def test_compressed_report_is_refused_undecoded(tmp_path: Path) -> None:
    """A megabyte of it would be a gigabyte, and keep the node from everything else for seconds."""
    raw = encode(Node("a", "client"), [])
    packed = {"deflate": zlib.compress(raw), "gzip": gzip.compress(raw)}
    async with (
        Origin.running(tmp_path / "o", *HTTP) as origin,
        Middle.running([origin.url], tmp_path / "m", *HTTP) as middle,
        aiohttp.ClientSession() as web,
    ):
        for url, (coding, body) in product((origin.url, middle.url), packed.items()):
            async with web.post(f"{url}/report", data=body, headers={"Content-Encoding": coding}) as answer:
                assert answer.status == 400


async def test_flood_of_invented_nodes_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_REST", 0)
    async with Origin.running(tmp_path / "o", *HTTP) as origin, aiohttp.ClientSession() as web:
        for begin in range(0, 100_000, 4000):
            invented = [Node(f"a{begin + number}", "client", hops=1) for number in range(4000)]
            async with web.post(f"{origin.url}/report", data=encode(invented[0], invented[1:])) as answer:
                assert answer.status == 204
        async with web.get(f"{origin.url}/status") as answer:
            assert len((await answer.json())["below"]) == MAX_NODES
