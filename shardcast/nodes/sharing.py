"""The versions shared by a client, each with the neighbours of its swarm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from random import Random

from shardcast.access.tickets import Ticket, TicketVersion
from shardcast.concurrency import background_task, cancel
from shardcast.constants import HTTP_TIMEOUT
from shardcast.fair_limit import FairLimit
from shardcast.nodes.shared_pieces import SharedPieces
from shardcast.nodes.shared_version import SharedVersion
from shardcast.peer.announcing import SwarmClient
from shardcast.peer.next_range import NextRanges, RangeServer
from shardcast.peer.session import Session
from shardcast.policy.swarm.answers import AnswerSlots
from shardcast.policy.swarm.chooser import RangeChooser
from shardcast.policy.swarm.meeting import Member
from shardcast.policy.swarm.rules import SwarmRules
from shardcast.protocol.piece_numbers import PieceNumbers
from shardcast.protocol.swarm_members import NamedMember
from shardcast.protocol.wire import version_number
from shardcast.store.live_manifest import LiveManifest
from shardcast.swarm.acquaintances import Acquaintances
from shardcast.swarm.exchange import Exchange
from shardcast.swarm.greeting import SwarmPass
from shardcast.swarm.piece_writer import PieceWriter
from shardcast.swarm.streams import Participation, SwarmStreams
from shardcast.transfer.workers import Transfer
from shardcast.upstream.announcer import MemberIdentity, Membership

log = logging.getLogger(__name__)

MAX_SHARED = 4
"""Maximum versions shared by a node at once; the one shared longest ends first."""
_FIRST_ANSWER = 0.25
"""Seconds for a download to wait for the first server's answer about neighbours."""


class Sharing:
    """The shared versions of one node, each with its own neighbours.

    Attributes:
        identity: of this run of the node.
        streams: to the neighbours.
    """

    def __init__(
        self,
        session: Session,
        identity: MemberIdentity,
        *,
        uploads: FairLimit | None,
        timeout: float = HTTP_TIMEOUT,
        seed_for: float | None = None,
        random: Random | None = None,
    ) -> None:
        """Make an object without shared versions.

        Args:
            session: for announcements and ranges.
            identity: of this run of the node.
            uploads: limit of the bytes sent to neighbours; None for no limit.
            timeout: seconds for the head of a server's answer.
            seed_for: seconds of sharing after a download; None for no end.
            random: for all choices among equals.
        """
        self._timeout = timeout
        self._seed_for = seed_for
        self._range_servers = _RangeServers(session, timeout)
        self._session = session
        self.identity = identity
        self._writer = PieceWriter()
        self._random = random or Random()
        self._rules = SwarmRules()
        self._slots = AnswerSlots(self._rules)
        self._tasks: set[asyncio.Task[None]] = set()
        self._parts: dict[SharedVersion, tuple[Membership, Participation]] = {}
        self._given = 0
        self.streams = SwarmStreams(self._find, uploads=uploads, downloads=session.downloads)

    def _find(self, version: TicketVersion) -> Participation | None:
        """Return this node's part in the swarm of a version; None if the node has none."""
        for membership, part in self._parts.values():
            if membership.version.is_same(version):
                return part
        return None

    async def begin(
        self,
        live: LiveManifest,
        pieces: SharedPieces,
        servers: Iterable[str],
        sources: Iterable[str],
        transfer: Transfer | None = None,
    ) -> SharedVersion:
        """Share a version during its download, and until ``over`` of the returned object is set.

        Args:
            live: the version's manifest.
            pieces: place of the pieces; closed at the end.
            servers: the URLs of the servers for the announcement.
            sources: the URLs of those servers with the version.
            transfer: the download; None for a version already complete here.
        """
        begun: asyncio.Future[SharedVersion] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(
            self._be_member(live, pieces, list(servers), list(sources), transfer, begun=begun)
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: begun.cancel())
        try:
            shared = await begun
        except asyncio.CancelledError:
            await cancel([task])
            if not task.cancelled():
                task.result()
            raise
        for oldest in list(self._parts)[:-MAX_SHARED]:
            oldest.over.set()  # its own task takes it out of _parts, once this one waits
        return shared

    @property
    def shared(self) -> list[tuple[SharedVersion, Membership]]:
        """The versions shared now, the one shared longest first, each with its membership."""
        return [(shared, membership) for shared, (membership, _) in self._parts.items()]

    def find_shared(self, live: LiveManifest) -> SharedVersion | None:
        """Return the shared version of a manifest; None for a version not shared now."""
        version = version_of(live)
        return next(
            (
                shared
                for shared, membership in self.shared
                if membership.version.is_same(version) and not shared.over.is_set()
            ),
            None,
        )

    @property
    def given(self) -> int:
        """Bytes sent to neighbours, of all versions until now."""
        return self._given + sum(shared.progress().given for shared in self._parts)

    async def wait_until_over(self) -> None:
        """Wait until nothing is shared any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def end(self) -> None:
        """Share nothing any more."""
        self.streams.close("this node ends")
        for shared in self._parts:
            shared.over.set()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.streams.end()

    async def _be_member(
        self,
        live: LiveManifest,
        pieces: SharedPieces,
        servers: list[str],
        sources: list[str],
        transfer: Transfer | None,
        *,
        begun: asyncio.Future[SharedVersion],
    ) -> None:
        """Share a version to the end; set the result of ``begun`` as soon as neighbours can connect."""
        version = version_of(live)
        clients = [SwarmClient(self._session, url, self._timeout) for url in servers]
        async with (
            Membership(version, self.identity, clients, random=self._random) as membership,
            self.sharing(live, pieces, membership) as shared,
            background_task(_tell_digest(live, membership)),
        ):
            await self.first_answer(membership)
            async with AsyncExitStack() as stack:
                if transfer:
                    helping = shared.help(transfer, sources, membership)
                    await stack.enter_async_context(background_task(helping))
                begun.set_result(shared)
                await shared.over.wait()

    @asynccontextmanager
    async def sharing(
        self, live: LiveManifest, pieces: SharedPieces, membership: Membership
    ) -> AsyncIterator[SharedVersion]:
        """Share a version inside the block.

        Args:
            live: the version's manifest.
            pieces: place of the pieces; closed at the end.
            membership: in the version's swarm.
        """
        key, site = self.identity.key, self.identity.site
        chooser = RangeChooser(self._rules, self._random, key=key.public, site=site)
        exchange = Exchange(live, pieces, chooser=chooser, slots=self._slots, writer=self._writer)
        neighbours = Acquaintances(
            Member(key.public, site),
            exchange,
            lambda member: self.streams.open(member, part),
            random=self._random,
        )

        def find_ranges(url: str, numbers: PieceNumbers) -> NextRanges:
            proof = membership.asking_proof
            return self._range_servers[url].ranges(live.version, self.identity.node, numbers, proof=proof)

        shown = ""

        def show_ticket(neighbour: bytes, signer: str | None) -> str:
            """Return the newest ticket; the last one where no server has answered for long."""
            nonlocal shown
            shown = membership.ticket_for(neighbour, signer) or shown
            return shown

        part = Participation(
            SwarmPass(
                membership.version,
                self.identity.node,
                show_ticket,
                key,
                membership.keys,
                lambda: bytes.fromhex(self.identity.certificate() or ""),
            ),
            exchange,
            live.header.piece_size,
            admits=lambda ticket: (
                bool(membership.tickets) and neighbours.accepts(_member(ticket, neighbours))
            ),
            is_near=lambda ticket: neighbours.site_of(ticket.key, ticket.site) == membership.site,
        )
        shared = SharedVersion(
            live, pieces, exchange, neighbours, find_ranges=find_ranges, seed_for=self._seed_for
        )
        async with AsyncExitStack() as stack:
            stack.push_async_callback(shared.end)
            self._parts[shared] = membership, part
            stack.callback(self._forget, shared)
            shared.begin()
            following = _follow_membership(
                membership, neighbours, chooser, only_tls=self.identity.certificate() is not None
            )
            await stack.enter_async_context(background_task(following))
            yield shared

    def _forget(self, shared: SharedVersion) -> None:
        """End the sharing of a version; its given bytes still count."""
        self._given += shared.progress().given
        del self._parts[shared]

    async def first_answer(self, membership: Membership, seconds: float = _FIRST_ANSWER) -> None:
        """Wait a moment for the first server to say whether there are neighbours."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await membership.changed.wait_for(lambda: bool(membership.tickets))


class _RangeServers(dict[str, RangeServer]):
    """The servers that hand out ranges, by URL, each with connections for all versions."""

    def __init__(self, session: Session, timeout: float) -> None:
        super().__init__()
        self._session = session
        self._timeout = timeout

    def __missing__(self, url: str) -> RangeServer:
        server = self[url] = RangeServer(url, self._session, self._timeout)
        return server


def to_meet(named: Iterable[NamedMember], *, only_tls: bool) -> list[NamedMember]:
    """Return the members that this node may connect to.

    A version from TLS servers must stay unreadable on the way between two neighbours.

    Args:
        named: the members named by the servers.
        only_tls: whether this node's listener speaks TLS.
    """
    return [member for member in named if member.certificate or not only_tls]


async def _follow_membership(
    membership: Membership, neighbours: Acquaintances, chooser: RangeChooser, *, only_tls: bool
) -> None:
    """Pass the members named by the servers, and this node's site, on after each answer; for ever."""
    while True:
        named = membership.neighbours if membership.tickets else []
        neighbours.me = Member(neighbours.me.key, membership.site)
        chooser.site = membership.site
        neighbours.name(to_meet(named, only_tls=only_tls))
        await membership.changed.change()


async def _tell_digest(live: LiveManifest, membership: Membership) -> None:
    """Announce the digest of a version as soon as it is known."""
    if membership.version.digest is None and (manifest := await live.wait_ended()):
        membership.know_digest(manifest.digests["sha256"])


def version_of(live: LiveManifest) -> TicketVersion:
    """Return the identity of a version: number, origin id and digest."""
    digest = live.manifest.digests.get("sha256") if live.manifest else None
    return TicketVersion(version_number(live.version) or 0, live.header.origin, digest)


def _member(ticket: Ticket, neighbours: Acquaintances) -> Member:
    """Return the member named by a ticket."""
    return Member(ticket.key, neighbours.site_of(ticket.key, ticket.site))
