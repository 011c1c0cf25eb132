"""Clients that share: what they give each other, over which lines, and what they tell of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator

from shardcast.access.client_access import ClientAccess
from shardcast.access.server_access import ServerAccess
from shardcast.api import ClientNode
from shardcast.concurrency import background_task
from shardcast.control.waiting import wait_for_copies
from shardcast.errors import BadAnswer, TlsFailure, UsageError
from shardcast.fair_limit import FairLimit
from shardcast.nodes.client import Client
from shardcast.nodes.origin import Origin
from shardcast.nodes.release import Release
from shardcast.nodes.sharing import Sharing, to_meet
from shardcast.nodes.sharing_listener import sharing_client
from shardcast.nodes.sharing_settings import SharingSettings
from shardcast.peer.session import open_session
from shardcast.peer.upgrade import open_upgraded
from shardcast.protocol.swarm_members import NamedMember, Place
from shardcast.protocol.wire import SWARM_PATH, SWARM_PROTOCOL, TLS_ONLY_REASON
from shardcast.server.bounds import Bounds
from shardcast.server.check_back import gives_nonce
from shardcast.server.routes import health
from tests.support.certificates import Certificates
from tests.support.loops import on_each_loop, run_on
from tests.support.published import Published, publish, random_bytes

LOCAL: dict[str, Any] = {"host": "127.0.0.1", "port": 0}
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "status.schema.json").read_text())
SIZE = 4_000_000
SLOW = 1_500_000
"""Bytes a second that the origin sends: two clients get most of a version from each other."""


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return publish(tmp_path / "data", random_bytes(SIZE), 2_000_000)


@asynccontextmanager
async def origin_of(published: Published, access: ServerAccess | None = None) -> AsyncIterator[Origin]:
    bounds = Bounds(uploads=FairLimit.of(SLOW))
    async with Origin.running(published.data_dir, **LOCAL, bounds=bounds, access=access) as origin:
        yield origin


async def two_downloads(url: str, folder: Path, access: ClientAccess | None = None) -> list[Release]:
    """Return the releases of two sharing clients that download at the same time."""
    sharing = SharingSettings(host="127.0.0.1")
    async with (
        Client([url], folder / "one", access=access, sharing=sharing) as one,
        Client([url], folder / "two", access=access, sharing=sharing) as two,
    ):
        return list(await asyncio.gather(one.download(), two.download()))


def check(releases: list[Release], published: Published) -> None:
    """Check that two clients have the payload, much of it from each other, and all bytes are counted."""
    for release, other in zip(releases, releases[::-1], strict=True):
        assert release.path.read_bytes() == published.payload
        assert release.neighbours is not None
        assert release.received["neighbours"] == release.neighbours.received > SIZE // 4
        assert SIZE <= sum(release.received.values()) < 1.2 * SIZE
        assert other.neighbours is not None and release.neighbours.received <= other.neighbours.given + SIZE


async def test_two_clients_get_pieces_from_each_other(published: Published, tmp_path: Path) -> None:
    async with origin_of(published) as origin:
        check(await two_downloads(origin.url, tmp_path), published)


@on_each_loop
def test_neighbours_speak_tls_where_their_server_does(
    loop: str, published: Published, tmp_path: Path
) -> None:
    async def share() -> None:
        certificates = Certificates(tmp_path / "tls")
        async with origin_of(published, certificates.server()) as origin:
            assert origin.url.startswith("https:")
            check(await two_downloads(origin.url, tmp_path, certificates.client()), published)

    run_on(loop, share())


@on_each_loop
def test_listener_of_a_client_with_https_servers_refuses_plain_http(loop: str) -> None:
    run_on(loop, _refused_plain_http())


async def _refused_plain_http() -> None:
    settings = SharingSettings(host="127.0.0.1")
    async with open_session() as session, sharing_client(session, settings, ["https://a"], 5) as sharing:
        me = sharing.identity
        own, port = me.certificate(), me.port
        assert own and port
        with pytest.raises(BadAnswer, match=TLS_ONLY_REASON):
            await open_upgraded("127.0.0.1", port, SWARM_PATH, SWARM_PROTOCOL)
        with pytest.raises(TlsFailure, match="another certificate"):
            await open_upgraded("127.0.0.1", port, SWARM_PATH, SWARM_PROTOCOL, certificate=bytes(32))
        nonce = me.nonces.new()
        assert await gives_nonce(Place("127.0.0.1", port), nonce, own)
        assert not await gives_nonce(Place("127.0.0.1", port), nonce, None)


def test_clients_of_https_servers_meet_no_member_without_tls() -> None:
    place = Place("10.0.0.7", 4000)
    plain, tls = (NamedMember("n", bytes(32), place, None, digest) for digest in (None, "ab" * 32))
    assert to_meet([plain, tls], only_tls=True) == [tls]
    assert to_meet([plain, tls], only_tls=False) == [plain, tls]


async def test_sharing_on_every_address_asks_for_no_tokens(caplog: pytest.LogCaptureFixture) -> None:
    async with open_session() as session, sharing_client(session, SharingSettings(), ["http://a"], 5):
        assert "is open to all" not in caplog.text


async def status_of(sharing: Sharing | None) -> dict[str, Any]:
    """Return what the listener of a sharing client says of itself; it fits the schema."""
    assert sharing is not None
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{sharing.identity.port}/status") as answer,
    ):
        status: dict[str, Any] = await answer.json()
    Draft202012Validator(SCHEMA).validate(status)
    return status


async def test_client_that_seeds_counts_as_a_copy_and_shows_its_status(
    published: Published, tmp_path: Path
) -> None:
    async with (
        Origin.running(published.data_dir, **LOCAL) as origin,
        Client([origin.url], tmp_path, sharing=SharingSettings(host="127.0.0.1")) as client,
    ):
        await client.download()
        async with background_task(client.seed(60)):
            await asyncio.to_thread(wait_for_copies, published.data_dir, published.version, 1, timeout=20)
            [shared] = (await status_of(client._downloads.sharing))["sharing"]
        assert (shared["version"], shared["here"], shared["complete"]) == (published.version, SIZE, True)
        assert sum(shared["received"].values()) == SIZE
        async with aiohttp.ClientSession() as session, session.get(f"{origin.url}/status") as answer:
            [version] = (await answer.json())["versions"]
        assert version["members"] == 1


async def test_status_of_a_client_is_shown_to_its_own_machine_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health, "is_loopback", lambda host: False)
    settings = SharingSettings(host="127.0.0.1")
    async with open_session() as session, sharing_client(session, settings, ["http://a"], 5) as sharing:
        url = f"http://127.0.0.1:{sharing.identity.port}/status"
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            assert answer.status == 403


async def test_library_clients_share(published: Published, tmp_path: Path) -> None:
    async with origin_of(published) as origin:
        client = Client([origin.url], tmp_path / "one", sharing=SharingSettings(host="127.0.0.1"))
        other = ClientNode([origin.url], tmp_path / "two", share=True, share_host="127.0.0.1")
        async with client:
            release, path = await asyncio.gather(
                client.download(), asyncio.to_thread(other.download_version, "latest")
            )
            assert path and Path(path).read_bytes() == published.payload
            assert client.given and release.neighbours and release.neighbours.received


@pytest.mark.parametrize("wrong", [{"site": "a"}, {"share": True, "advertise": "no address"}])
def test_library_refuses_arguments_of_sharing_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"share=True|advertise"):
        ClientNode(["127.0.0.1"], **wrong)
