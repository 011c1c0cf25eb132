"""Nodes that stay members of a swarm: at one server, at several, and at the middles of one origin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shardcast.access.scopes import Scope
from shardcast.access.tickets import TicketVersion, check_ticket
from shardcast.addresses import parse_networks
from shardcast.errors import AccessDenied, ServerLacks, UsageError
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from shardcast.policy.swarm import member_table
from shardcast.upstream.announcer import MemberIdentity, Membership
from tests.support.access import TokensOnDisk
from tests.support.published import Published, publish, random_bytes
from tests.support.swarm import member, version_of

LOCAL: dict[str, Any] = {"host": "127.0.0.1", "port": 0}


async def until(met: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not met():
            await asyncio.sleep(0.02)


def keys(membership: Membership) -> set[bytes]:
    return {neighbour.key for neighbour in membership.neighbours}


def key(membership: Membership) -> bytes:
    return membership.me.key.public


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return publish(tmp_path / "origin", random_bytes(5000), 1000)


@pytest.fixture
async def origin(published: Published) -> AsyncIterator[Origin]:
    async with Origin.running(published.data_dir, **LOCAL) as origin:
        yield origin


@asynccontextmanager
async def middles(origin: Origin, tmp_path: Path, count: int) -> AsyncIterator[list[Middle]]:
    """Run middles below an origin that have its version."""
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(Middle.running([origin.url], tmp_path / f"middle {n}", **LOCAL))
            for n in range(count)
        ]
        await until(lambda: all(middle.folders.listings for middle in made))
        yield made


async def test_members_learn_of_each_other_and_of_who_leaves(origin: Origin, published: Published) -> None:
    version = version_of(published)
    async with member(version, [origin.url]) as one:
        async with member(version, [origin.url]) as two, member(version, [origin.url], listens=False) as mute:
            await until(lambda: keys(one) == {key(two)} and keys(two) == {key(one)})
            await until(lambda: keys(mute) == {key(one), key(two)} and one.members == 3)
            assert (one.reachable, mute.reachable) == (True, False)
            assert (one.site, len(one.tickets)) == ("127.0.0.0/24", 1)
            ticket = one.ticket_for(key(two))
            assert ticket and check_ticket(ticket, version, two.keys).key == key(one)
        one.poke()
        await until(lambda: keys(one) == set() and one.members == 1)


async def test_member_announces_the_digest_once_it_is_known(origin: Origin, published: Published) -> None:
    version = version_of(published)
    async with member(TicketVersion(1, version.origin), [origin.url]) as open_:
        await until(lambda: open_.members == 1)
        open_.know_digest("0" * 64)
        await until(lambda: bool(open_.failures))
        assert "409" in str(open_.failures[origin.url])


async def test_servers_without_a_swarm_are_done_without(
    origin: Origin, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def absent(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        raise web.HTTPNotFound

    old = web.Application()
    old.router.add_route("*", "/{tail:.*}", absent)
    runner = web.AppRunner(old)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    try:
        url, dead = f"http://127.0.0.1:{port}", "http://127.0.0.1:1"
        async with member(version_of(published), [url, dead, origin.url]) as one:
            await until(lambda: one.members == 1 and len(one.failures) == 2)
            assert isinstance(one.failures[url], ServerLacks)
            await asyncio.sleep(0.3)
            assert asked <= 2
    finally:
        await runner.cleanup()


async def test_member_where_a_token_is_missing_is_one_elsewhere(
    origin: Origin, published: Published, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = TokensOnDisk(tmp_path / "tokens")
    tokens.add([Scope.READ])
    other = publish(tmp_path / "locked", published.payload, 1000)
    async with (
        Origin.running(other.data_dir, **LOCAL, access=tokens.access) as locked,
        member(version_of(published), [locked.url, origin.url]) as one,
    ):
        await until(lambda: one.members == 1 and bool(one.failures))
        assert isinstance(one.failures[locked.url], AccessDenied)
        assert len(one.tickets) == 1
    assert caplog.text.count("is not shared with nodes of a server, which refuses") == 1


async def test_restarted_server_learns_of_its_members_anew(published: Published) -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running := Origin.running(published.data_dir, **LOCAL))
        members = [
            await stack.enter_async_context(member(version_of(published), [first.url])) for _ in range(2)
        ]
        one, two = members
        await until(lambda: keys(one) == {key(two)})
        await running.__aexit__(None, None, None)
        port = int(first.url.rpartition(":")[2])
        async with Origin.running(published.data_dir, host="127.0.0.1", port=port) as again:
            assert again.url == first.url
            for joined in members:
                joined.poke()
            await until(lambda: one.failures == {} and one.members == 2 and keys(two) == {key(one)})


async def test_members_of_different_middles_meet(
    origin: Origin, published: Published, tmp_path: Path
) -> None:
    version = version_of(published)
    async with (
        middles(origin, tmp_path, 2) as (left, right),
        member(version, [left.url]) as one,
        member(version, [right.url]) as two,
    ):
        await until(lambda: key(two) in keys(one) and key(one) in keys(two))
        for mine, theirs in ((one, two), (two, one)):
            ticket = mine.ticket_for(key(theirs))
            assert ticket
            check_ticket(ticket, version, theirs.keys)
        other_middle = right._memberships
        assert other_middle
        await until(lambda: keys(one) == {key(two), other_middle.me.key.public})


async def test_middle_is_named_at_the_place_that_it_advertises(published: Published, tmp_path: Path) -> None:
    networks = parse_networks("127.0.7.0/24")
    async with (
        Origin.running(published.data_dir, **LOCAL, advertise_networks=networks) as origin,
        Middle.running(
            [origin.url], tmp_path / "middle", host="0.0.0.0", port=0, advertise="127.0.7.1", site="rack7"
        ) as middle,
        member(version_of(published), [origin.url]) as one,
    ):
        await until(lambda: bool(one.neighbours))
        named = one.neighbours[0]
        assert (named.place.host, named.site) == ("127.0.7.1", "rack7")
        assert middle.url.endswith(f":{named.place.port}")


async def test_members_below_middles_of_middles_meet(
    origin: Origin, published: Published, tmp_path: Path
) -> None:
    version = version_of(published)
    async with (
        middles(origin, tmp_path, 1) as (near,),
        Middle.running([near.url], tmp_path / "far", **LOCAL) as far,
    ):
        await until(lambda: bool(far.folders.listings))
        async with member(version, [far.url]) as below, member(version, [origin.url]) as above:
            await until(lambda: key(below) in keys(above) and key(above) in keys(below))
            ticket = below.ticket_for(key(above))
            assert ticket
            await until(lambda: bool(check_ticket(ticket, version, above.keys)))


async def test_member_that_leaves_or_falls_silent_is_forgotten_everywhere(
    origin: Origin, published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_table, "ANNOUNCE_SECONDS", 0.4)
    version = version_of(published)
    async with middles(origin, tmp_path, 1) as (middle,), member(version, [origin.url]) as stays:
        async with member(version, [middle.url]) as leaves:
            await until(lambda: key(leaves) in keys(stays))
        left_at = asyncio.get_running_loop().time()
        await until(lambda: key(leaves) not in keys(stays))
        assert asyncio.get_running_loop().time() - left_at < 30
        async with member(version, [middle.url]) as one:
            await until(lambda: key(one) in keys(stays))
            one._leave = _says_nothing  # type: ignore[method-assign]
        silent_at = asyncio.get_running_loop().time()
        await until(lambda: key(one) not in keys(stays))
        assert asyncio.get_running_loop().time() - silent_at > 0.4


async def _says_nothing(server: object) -> None:
    """Leave without a word."""


def test_malformed_site_is_an_error_of_the_user() -> None:
    with pytest.raises(UsageError, match="no name of a site"):
        MemberIdentity.new(site="rack 7")
