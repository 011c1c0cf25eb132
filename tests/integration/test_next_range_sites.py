"""Ranges that cross into a site: once each, by neighbours where they can, and never back over a border."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from shardcast.nodes.open_data_dir import open_data_dir
from shardcast.nodes.origin import Origin
from shardcast.peer.next_range import RangeServer
from shardcast.peer.session import open_session
from shardcast.policy.swarm.chooser import RangeChooser
from shardcast.policy.swarm.ledger import HandoutKind
from shardcast.policy.swarm.rules import SwarmRules
from shardcast.protocol.piece_numbers import PieceNumbers, parse_runs
from shardcast.server import version_book
from shardcast.store.live_manifest import LiveManifest
from shardcast.swarm.handing_server import HandingServer
from tests.integration.test_next_range import COUNT, DATA, MANIFEST, Asker, Handing, handing
from tests.support import payloads

ALL = (1 << COUNT) - 1


class SiteAsker(Asker):
    """A node in a site.

    Attributes:
        claims: the pieces that it may bring across the border.
    """

    def __init__(self, server: Handing, node: str, site: str | None = None) -> None:
        super().__init__(server, node)
        self.site = site
        self.claims = 0

    async def ask(self, across: int = 0, **more: Any) -> int | None:
        """Ask once, and return the piece that came; claims are kept."""
        runs = [[number, 1] for number in range(COUNT) if across >> number & 1]
        return await super().ask(site=self.site, across=runs, **more)

    async def claim(self, across: int) -> int:
        """Ask once where neighbours beyond the border offer pieces, and return those that are claimed."""
        status, headers, _ = await self.server.post(
            {"node": self.node, "count": 0, "site": self.site, "across": [[0, across.bit_length()]]}
        )
        if "Shardcast-Claims" not in headers:
            return 0
        assert (status, headers["Shardcast-Not-Now"]) == (204, "claims")
        return parse_runs(json.loads(headers["Shardcast-Claims"]))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Handing]:
    """A server in the site a, with a version of 18 pieces."""
    async with open_data_dir(tmp_path / "data", "origin") as folders:
        assert await payloads.publish(folders, DATA) == "v1"
        async with handing(folders, site="a") as running:
            yield running


async def test_nodes_of_one_site_get_each_piece_once_among_them(server: Handing) -> None:
    nodes = [SiteAsker(server, name, "b") for name in ("1", "2")]
    got = []
    for _ in range(3 * COUNT):
        got += [number for node in nodes if (number := await node.ask()) is not None]
        server.clock.now += 0.1
    assert sorted(got) == list(range(COUNT))


async def test_pieces_offered_beyond_the_border_are_claimed_by_one_node(
    server: Handing,
) -> None:
    home, one, two = SiteAsker(server, "0", "a"), SiteAsker(server, "1", "b"), SiteAsker(server, "2", "b")
    for _ in range(6):
        await home.ask()
    assert await one.ask() is None and await two.ask() is None, "what is new is for the server's own site"
    first, second = await one.claim(0b111111), await two.claim(0b111111)
    assert first and second and not first & second
    assert (first | second).bit_count() == 6


async def test_claim_that_is_not_finished_in_two_seconds_is_given_anew(server: Handing) -> None:
    home, one, two = SiteAsker(server, "0", "a"), SiteAsker(server, "1", "b"), SiteAsker(server, "2", "b")
    await home.ask()
    assert await one.claim(0b1) == 0b1
    server.clock.now += 1.9
    assert await two.claim(0b1) == 0
    server.clock.now += 0.2
    assert await two.claim(0b1) == 0b1


async def test_node_of_the_servers_own_site_is_sent_nowhere_else(server: Handing) -> None:
    home = SiteAsker(server, "0", "a")
    assert await home.claim(ALL) == 0
    assert await home.ask(across=ALL) is not None


async def test_new_pieces_go_to_the_servers_own_site_while_its_nodes_ask(server: Handing) -> None:
    home, beyond = SiteAsker(server, "0", "a"), SiteAsker(server, "1", "b")
    assert await home.ask() == 0
    assert await beyond.ask() is None
    server.clock.now += 0.6
    assert await beyond.ask() == 1, "no node of the own site asked for half a second"


async def test_node_that_knows_no_borders_gets_pieces_as_before(server: Handing) -> None:
    home, old = SiteAsker(server, "0", "a"), Asker(server, "1")
    assert [await home.ask(), await old.ask(), await home.ask(), await old.ask()] == [0, 1, 2, 3]


async def ask_from(server: Handing, address: str) -> tuple[int, str]:
    """Ask from an address of this machine without a site's name; return the status and the reason."""
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    values = {"node": address.replace(".", ""), "count": 0, "across": [[0, COUNT]]}
    async with (
        aiohttp.ClientSession(connector=connector) as web,
        web.post(f"{server.url}/v1/next", json=values) as answer,
    ):
        return answer.status, answer.headers.get("Shardcast-Not-Now", "")


async def test_sites_without_names_are_subnets(server: Handing) -> None:
    async with handing(server.folders) as unnamed:
        assert await ask_from(unnamed, "127.0.0.5") == (206, "")
        assert await ask_from(unnamed, "127.0.7.5") == (204, "claims")


async def test_flood_of_sites_takes_bounded_memory(server: Handing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_book, "MAX_SITES", 4)
    await SiteAsker(server, "home", "a").ask()
    for number in range(20):
        assert await SiteAsker(server, f"{number}", f"site{number}").claim(0b1) == 0b1, "all may bring it"
    assert len(server.hand_outs._books["v1"].ledger._sites) <= 4


async def test_claims_reach_the_choice_of_requests(tmp_path: Path) -> None:
    live = LiveManifest.of(MANIFEST)
    async with (
        Origin.running(tmp_path / "origin", "127.0.0.1", 0, site="a") as origin,
        open_session() as session,
    ):
        await payloads.publish(origin.folders, DATA)
        numbers = PieceNumbers.of(MANIFEST)
        chooser = RangeChooser(SwarmRules(server_requests=1), Random(1), site="b")
        chooser.extend(ALL)
        chooser.add_server(origin.url)
        chooser.neighbours.add("beyond", near=False)
        chooser.neighbours.offers("beyond", 0b11)
        ranges = RangeServer(origin.url, session, 20.0).ranges("v1", "81ab", numbers)
        asks = HandingServer(origin.url, ranges, numbers, lambda: chooser.held, live=live)
        request = chooser.next_request(0.0)
        assert request and request.asked and request.asked.across == 0b11
        handed = await asks.next_piece(request.asked)
        assert handed.handout.answer is HandoutKind.CLAIMS and handed.claims == 0b11
        assert not chooser.answered(request, handed.handout, 0.0)
        chooser.next_request(0.0)
        following = chooser.next_request(0.0)
        assert following and following.neighbour and following.number in (0, 1)
