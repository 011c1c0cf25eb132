"""Members of a swarm at a server, over real connections."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from shardcast.access.client_access import ClientAccess
from shardcast.access.credentials import Credentials
from shardcast.access.key_ring import KeyRing, VouchingKey
from shardcast.access.nonces import Nonces, challenge_of
from shardcast.access.proofs import prove_to_server
from shardcast.access.scopes import Scope
from shardcast.access.secret import Secret
from shardcast.access.signing import SigningKey
from shardcast.access.tickets import TicketRefused, TicketVersion, check_ticket
from shardcast.addresses import parse_networks
from shardcast.errors import AccessDenied, PeerError, ServerLacks
from shardcast.nodes.origin import Origin
from shardcast.peer.announcing import SwarmClient
from shardcast.peer.next_range import RangeServer, ReceivedRange
from shardcast.peer.session import Session, open_session
from shardcast.protocol.announcement_answers import AnnouncementAnswer
from shardcast.protocol.announcements import Announcement, Relay
from shardcast.protocol.next_range import RangeHead
from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.protocol.swarm_members import NamedMember, Place, RelayedMember
from shardcast.protocol.wire import CHECK_HEADER, SWARM_CHECK_PATH
from shardcast.server import check_back, checker
from shardcast.server.application import application, serve
from shardcast.server.bounds import Bounds
from shardcast.server.routes.swarm import add_check_route
from tests.support.access import TokensOnDisk
from tests.support.published import Published, publish, random_bytes

LOCAL: dict[str, Any] = {"host": "127.0.0.1", "port": 0}


@dataclass
class Node:
    """A member that listens, or does not, and announces itself as it is told to."""

    port: int | None = None
    key: SigningKey = field(default_factory=SigningKey.generate)
    secret: str = field(default_factory=lambda: secrets.token_hex(16))
    node: str = field(default_factory=lambda: secrets.token_hex(8))
    nonces: Nonces = field(default_factory=Nonces)

    def announcement(self, of: Published, **said: Any) -> Announcement:
        announcement = Announcement(
            self.node,
            self.secret,
            self.key.public,
            prove_to_server(self.key, self.node, self.secret),
            self.nonces.new(),
            digest=of.sha256,
            port=self.port,
        )
        return replace(announcement, **said)


@asynccontextmanager
async def listening() -> AsyncIterator[Node]:
    node = Node()
    app = application(node.node, lambda app: add_check_route(app, node.nonces))
    async with serve(app, "127.0.0.1", 0) as url:
        node.port = int(url.rpartition(":")[2])
        yield node


@pytest.fixture(autouse=True)
def quick_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (check_back, checker):
        monkeypatch.setattr(module, "CHECK_SECONDS", 0.3)


@pytest.fixture
def published(tmp_path: Path) -> Published:
    return publish(tmp_path / "origin", random_bytes(5000), 1000)


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    async with open_session() as session:
        yield session


@pytest.fixture
async def server(published: Published, session: Session) -> AsyncIterator[SwarmClient]:
    async with Origin.running(published.data_dir, **LOCAL) as origin:
        yield SwarmClient(session, origin.url)


async def settled(server: SwarmClient, announce: Callable[[], Announcement]) -> AnnouncementAnswer:
    """Announce until the server knows whether it reaches the member."""
    async with asyncio.timeout(60):
        while (answer := await server.announce("v1", announce())).reachable is None:
            await asyncio.sleep(0.02)
    return answer


def nodes(answer: AnnouncementAnswer) -> set[str]:
    return {member.node for member in answer.neighbours}


async def test_members_that_are_reached_are_named_to_each_other(
    server: SwarmClient, published: Published
) -> None:
    async with listening() as one, listening() as two:
        first = await settled(server, lambda: one.announcement(published, site="rack7"))
        assert (first.reachable, first.place, first.site) == (
            True,
            Place("127.0.0.1", one.port or 0),
            "rack7",
        )
        assert nodes(first) == set()
        second = await server.announce("v1", two.announcement(published))
        assert second.neighbours == (
            NamedMember(one.node, one.key.public, Place("127.0.0.1", one.port or 0), "rack7"),
        )
        assert (second.members, second.site) == (2, "127.0.0.0/24")


async def test_ticket_lets_a_member_in_at_who_got_the_keys(server: SwarmClient, published: Published) -> None:
    node, ring = Node(), KeyRing()
    answer = await server.announce("v1", node.announcement(published))
    assert answer.keys
    ring.tell(server.server, [VouchingKey(key.key, key.now) for key in answer.keys])
    origin = published.manifest.header.origin
    ticket = check_ticket(answer.ticket, TicketVersion(1, origin, published.sha256), ring)
    assert (ticket.node, ticket.key) == (node.node, node.key.public)
    # The expiry is in whole seconds, and the server's time in tenths.
    assert 298.9 <= ticket.expires - ring.now(ticket.signer) <= 300.1
    with pytest.raises(TicketRefused):
        check_ticket(answer.ticket, TicketVersion(2, origin, published.sha256), ring)


async def test_member_that_cannot_be_reached_is_a_member_and_not_named(
    server: SwarmClient, published: Published
) -> None:
    async with listening() as other:
        free = Node(port=other.port)  # another one answers there
        answer = await settled(server, lambda: free.announcement(published))
        assert (answer.reachable, answer.place) == (False, None)
        await settled(server, lambda: other.announcement(published))
        assert nodes(await server.announce("v1", free.announcement(published))) == {other.node}
        assert nodes(await server.announce("v1", other.announcement(published))) == set()


async def test_member_that_leaves_is_forgotten_at_once(server: SwarmClient, published: Published) -> None:
    async with listening() as one:
        two = Node()
        await settled(server, lambda: one.announcement(published))
        assert nodes(await server.announce("v1", two.announcement(published))) == {one.node}
        stranger = one.announcement(published, leaving=True, secret="0" * 32)
        await server.leave("v1", stranger)
        assert nodes(await server.announce("v1", two.announcement(published))) == {one.node}
        await server.leave("v1", one.announcement(published, leaving=True))
        assert nodes(await server.announce("v1", two.announcement(published))) == set()


async def test_pieces_of_a_member_that_leaves_are_handed_out_again(
    server: SwarmClient, session: Session, published: Published
) -> None:
    one, two, other = Node(), Node(), Node()
    numbers = PieceNumbers.of(published.manifest)
    handing = RangeServer(server.server, session, 20.0)

    async def ask(node: Node, held: int = 0) -> int:
        def find_buffer(head: RangeHead) -> memoryview:
            return memoryview(bytearray(head.end - head.start))

        answer = await handing.ranges("v1", node.node, numbers).ask(held, find_buffer, offered=True)
        assert isinstance(answer, ReceivedRange)
        return answer.head.shard

    await server.announce("v1", one.announcement(published))
    assert [await ask(one), await ask(two), await ask(other)] == [1, 2, 3]
    await server.leave("v1", two.announcement(published, leaving=True))
    assert await ask(other, held=0b100) == 4, "nobody announced that one"
    await server.leave("v1", one.announcement(published, leaving=True))
    assert await ask(other, held=0b1100) == 1


async def test_nobody_announces_for_a_key_that_he_has_not(server: SwarmClient, published: Published) -> None:
    async with listening() as one, listening() as liar:
        await settled(server, lambda: one.announcement(published))
        forged = liar.announcement(published, key=one.key.public)
        with pytest.raises(PeerError, match="400"):
            await server.announce("v1", forged)
        answer = await server.announce("v1", Node().announcement(published))
        assert [member.place.port for member in answer.neighbours] == [one.port]


async def test_another_version_under_the_same_number_has_no_members_here(
    server: SwarmClient, published: Published
) -> None:
    for said in ({"digest": "0" * 64}, {"origin": "beef"}, {"digest": None}):
        with pytest.raises(PeerError, match="409"):
            await server.announce("v1", Node().announcement(published, **said))
    with pytest.raises(ServerLacks):
        await server.announce("v2", Node().announcement(published))


async def test_member_without_a_digest_yet_is_told_by_the_origin_id(
    server: SwarmClient, published: Published
) -> None:
    origin = published.manifest.header.origin
    answer = await server.announce("v1", Node().announcement(published, digest=None, origin=origin))
    assert answer.members == 1


async def test_without_a_token_for_reading_nobody_is_a_member(published: Published, tmp_path: Path) -> None:
    tokens = TokensOnDisk(tmp_path / "tokens")
    tokens.add([Scope.REPORT])
    async with (
        Origin.running(published.data_dir, **LOCAL, access=tokens.access) as origin,
        open_session() as session,
    ):
        with pytest.raises(AccessDenied):
            await SwarmClient(session, origin.url).announce("v1", Node().announcement(published))


async def test_ticket_expires_with_the_token(published: Published, tmp_path: Path) -> None:
    tokens, ring = TokensOnDisk(tmp_path / "tokens"), KeyRing()
    soon = time.time() + 60
    text = tokens.add([Scope.READ], expires=soon).text
    async with (
        Origin.running(published.data_dir, **LOCAL, access=tokens.access) as origin,
        open_session(access=ClientAccess(Credentials.for_all(Secret(text)))) as session,
    ):
        server = SwarmClient(session, origin.url)
        answer = await server.announce("v1", Node().announcement(published))
        ring.tell("", [VouchingKey(key.key, key.now) for key in answer.keys or ()])
        ticket = check_ticket(answer.ticket, TicketVersion(1, None, published.sha256), ring)
        assert ticket.expires <= soon


async def test_key_of_the_server_stays_the_same_over_restarts(published: Published, session: Session) -> None:
    keys = set()
    for _ in range(2):
        async with Origin.running(published.data_dir, **LOCAL) as origin:
            answer = await SwarmClient(session, origin.url).announce("v1", Node().announcement(published))
            keys.add(answer.keys and answer.keys[0].key)
    assert len(keys) == 1


# Addresses


class Knocks:
    """A port that counts the connections to it, and answers each with the same bytes."""

    def __init__(self, answer: bytes = b"") -> None:
        self.port = self.count = 0
        self.heads: list[bytes] = []
        self._answer = answer

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Knocks]:
        async def knock(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.count += 1
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self._answer)
            writer.close()

        async with await asyncio.start_server(knock, "127.0.0.1", 0) as listener:
            self.port = listener.sockets[0].getsockname()[1]
            yield self


async def test_check_shows_no_nonce_and_whatever_failed_the_answer_is_the_same(
    server: SwarmClient, published: Published
) -> None:
    echo = b"HTTP/1.1 200 OK\r\n\r\n" + b"0" * 32
    async with Knocks(echo).open() as wrong, Knocks().open() as silent:
        answers = []
        for port in (wrong.port, silent.port, 1024):  # wrong, cut off, closed
            node = Node(port=port)
            started = asyncio.get_running_loop().time()
            answers.append(await settled(server, lambda node=node: node.announcement(published)))
            assert asyncio.get_running_loop().time() - started >= 0.3
        assert {(answer.reachable, answer.place) for answer in answers} == {(False, None)}
        assert wrong.count == silent.count == 1
        assert node.secret.encode() not in wrong.heads[0]


async def test_flood_of_announcements_makes_few_connections(
    server: SwarmClient, published: Published
) -> None:
    async with Knocks().open() as target:
        node, started = Node(port=target.port), time.monotonic()
        for _ in range(40):
            await server.announce("v1", node.announcement(published))
        await settled(server, lambda: node.announcement(published))
        await asyncio.gather(*(server.announce("v1", node.announcement(published)) for _ in range(30)))
        assert 1 <= target.count <= 1 + (time.monotonic() - started) / 6


async def test_low_ports_are_neither_asked_nor_named(server: SwarmClient, published: Published) -> None:
    answer = await server.announce("v1", Node(port=80).announcement(published))
    assert answer.reachable is False


async def test_advertised_addresses_count_only_in_the_networks_of_the_operator(
    published: Published, session: Session
) -> None:
    networks = parse_networks("127.0.7.0/24")
    async with (
        Origin.running(published.data_dir, **LOCAL, advertise_networks=networks) as origin,
        Knocks().open() as elsewhere,
        listening() as node,
    ):
        server = SwarmClient(session, origin.url)
        outside = Place("127.0.8.1", elsewhere.port)
        answer = await settled(server, lambda: node.announcement(published, advertise=outside))
        assert answer.place == Place("127.0.0.1", node.port or 0)  # its own address instead
        assert elsewhere.count == 0


async def test_advertised_address_is_checked_and_named(published: Published, session: Session) -> None:
    node = Node()
    app = application(node.node, lambda app: add_check_route(app, node.nonces))
    networks = parse_networks("127.0.7.0/24")
    async with (
        Origin.running(published.data_dir, **LOCAL, advertise_networks=networks) as origin,
        serve(app, "127.0.7.1", 0) as url,
    ):
        place = Place("127.0.7.1", int(url.rpartition(":")[2]))
        server = SwarmClient(session, origin.url)
        answer = await settled(server, lambda: node.announcement(published, advertise=place))
        assert (answer.reachable, answer.place) == (True, place)


async def announce_by_proxy(
    published: Published, bounds: Bounds, headers: dict[str, str], port: int
) -> dict[str, Any]:
    """Announce over HTTP with headers, and return the answer."""
    async with (
        Origin.running(published.data_dir, **LOCAL, bounds=bounds) as origin,
        aiohttp.ClientSession() as http,
    ):
        raw = Node(port=port).announcement(published).encode()
        async with http.post(f"{origin.url}/v1/swarm", data=raw, headers=headers) as answer:
            found: dict[str, Any] = await answer.json()
            return found


async def test_forwarded_counts_from_a_trusted_proxy_alone(published: Published) -> None:
    forwarded = {"Forwarded": 'for=10.9.9.9, for="[2001:db8::7]:4711";proto=http'}
    trusting = Bounds(trusted=parse_networks("127.0.0.0/8"))
    async with Knocks().open() as here:
        for bounds, headers, site in (
            (Bounds(), forwarded, "127.0.0.0/24"),
            (trusting, forwarded, "2001:db8::/64"),
            (trusting, {}, None),
        ):
            answer = await announce_by_proxy(published, bounds, headers, here.port)
            assert answer["site"] == site
        assert here.count <= 1  # of the announcement that came from here


async def test_member_with_a_certificate_is_reached_with_that_one_alone(
    server: SwarmClient, published: Published, tmp_path: Path
) -> None:
    import hashlib
    import ssl

    import trustme

    from shardcast.access.server_access import ServerAccess
    from shardcast.access.tls import ServerTls

    pem = tmp_path / "member.pem"
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(pem))
    first = certificate.cert_chain_pems[0].bytes().decode()
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest()
    node = Node()
    other = Node(nonces=node.nonces)  # so that only its certificate is wrong
    tls = ServerAccess(tls=ServerTls(pem))
    app = application(node.node, lambda app: add_check_route(app, node.nonces), access=tls)
    async with serve(app, "127.0.0.1", 0) as url:
        node.port = other.port = int(url.rpartition(":")[2])
        reached = await settled(server, lambda: node.announcement(published, certificate=digest))
        wrong = await settled(server, lambda: other.announcement(published, certificate="0" * 64))
        assert (reached.reachable, wrong.reachable) == (True, False)


# Members' side


async def test_member_gives_a_nonce_to_who_has_its_announcement_alone(published: Published) -> None:
    async with listening() as node, aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{node.port}{SWARM_CHECK_PATH}"
        nonce = node.announcement(published).nonce
        async with http.get(url, headers={CHECK_HEADER: challenge_of(nonce)}) as answer:
            assert (answer.status, await answer.text()) == (200, nonce)
        for headers in ({}, {CHECK_HEADER: nonce}, {CHECK_HEADER: challenge_of("0" * 32)}):
            async with http.get(url, headers=headers) as answer:
                assert answer.status == 404


# Servers below


def relayed(node: Node, host: str = "127.0.0.1", nonce: str = "") -> RelayedMember:
    place = Place(host, node.port or 4000)
    member = NamedMember(node.node, node.key.public, place)
    return RelayedMember(member, 0.0, 0, nonce or node.nonces.new())


async def test_relayed_member_is_named_once_this_server_reached_it(
    server: SwarmClient, published: Published
) -> None:
    middle, liar = Node(), Node(port=None)
    async with listening() as member, Knocks().open() as victim:
        liar.port = victim.port
        relay = Relay((), (relayed(member), relayed(liar)))
        await server.announce("v1", middle.announcement(published, relay=relay))
        asker = Node()
        async with asyncio.timeout(60):
            while member.node not in nodes(await server.announce("v1", asker.announcement(published))):
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.4)
        assert nodes(await server.announce("v1", asker.announcement(published))) == {member.node}
        assert victim.count == 1


async def test_server_below_is_told_members_of_others_and_not_its_own(
    server: SwarmClient, published: Published
) -> None:
    first, second = Node(), Node()
    async with listening() as mine, listening() as direct:
        relay = Relay((), (relayed(mine),))
        await settled(server, lambda: direct.announcement(published))
        await server.announce("v1", first.announcement(published, relay=relay))
        async with asyncio.timeout(60):
            while True:
                answer = await server.announce("v1", second.announcement(published, relay=Relay()))
                if len(answer.relayed) == 2:
                    break
                await asyncio.sleep(0.02)
        assert {one.member.node for one in answer.relayed} == {mine.node, direct.node}
        assert all(one.nonce is None for one in answer.relayed)
        own = await server.announce("v1", first.announcement(published, relay=relay))
        assert [one.member.node for one in own.relayed] == [direct.node]


async def test_announcements_are_bounded(server: SwarmClient, published: Published) -> None:
    async with aiohttp.ClientSession() as http:
        url = f"{server.server}/v1/swarm"
        async with http.post(url, data=b"x" * (200 << 10)) as answer:
            assert answer.status == 413
        values = json.loads(Node().announcement(published).encode())
        async with http.post(url, data=json.dumps(values | {"node": "?"})) as answer:
            assert answer.status == 400
            assert "id" in await answer.text()
