"""The announcements of a node: its membership of a version's swarm at all of its servers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlsplit

from shardcast.access.key_ring import KeyRing, VouchingKey
from shardcast.access.nonces import Nonces
from shardcast.access.proofs import prove_asking, prove_to_server
from shardcast.access.signing import SigningKey
from shardcast.access.tickets import TICKET_SECONDS, TicketVersion, signer_of
from shardcast.concurrency import Notifier, cancel
from shardcast.errors import AccessDenied, PeerError, ServerLacks, UsageError
from shardcast.log_fields import about
from shardcast.peer.announcing import SwarmClient
from shardcast.policy.backoff import Backoff
from shardcast.policy.swarm.addresses import is_loopback
from shardcast.protocol.announcement_answers import AnnouncementAnswer
from shardcast.protocol.announcements import Announcement, Relay
from shardcast.protocol.swarm_members import NamedMember, Place, SwarmError, optional, read_site
from shardcast.protocol.wire import MAX_SITE, version_name

log = logging.getLogger(__name__)

_LOST = Backoff(0.2, 10.0)
"""Pauses after failures of a server."""
_ABSENT = Backoff(0.5, 10.0)
"""Pauses after answers without the version, or the route: a middle may get the version soon."""
_NOT_ASKED = 0.5
"""Seconds between two looks whether a server is to be asked."""
_DENIED = 60.0
"""Seconds until a refusing server is asked again."""
_NAMES_COUNT = 30.0
"""Seconds of validity of a server's named members after its last answer."""
_LEAVING = 1.0
"""Maximum seconds for leaving all servers."""
_LOOK = 0.25
"""Seconds between two checks for a server's news for its upstreams."""


@dataclass(frozen=True)
class MemberIdentity:
    """The identity of a node in all its swarms: made once in each run.

    Attributes:
        node: generation id; nobody else can take the one made from the key, its ``id``.
        key: key of the node.
        nonces: nonces of its announcements, for the answers to checks at ``/swarm/check``.
        port: listening port; None for a node without a listener.
        advertise: the address for others, where it differs from the one seen by servers.
        site: site; None to have the servers guess one.
        certificate: returns the SHA-256 of its certificate in hex; None for plain HTTP.
        rate: returns its possible upload rate in bytes a second; 0 while unknown.
        sharing: whether others are sent here, to open streams.

    Raises:
        UsageError: the site's name is malformed.
    """

    node: str
    key: SigningKey
    nonces: Nonces = field(default_factory=Nonces)
    port: int | None = None
    advertise: Place | None = None
    site: str | None = None
    certificate: Callable[[], str | None] = lambda: None
    rate: Callable[[], int] = lambda: 0
    sharing: bool = True

    def __post_init__(self) -> None:
        """Check the site, since servers would refuse a wrong one with each announcement."""
        try:
            optional(read_site, self.site)
        except SwarmError:
            raise UsageError(
                f"{self.site!r} is no name of a site; write at most {MAX_SITE} letters, digits and ._:/-"
            ) from None

    @classmethod
    def new(
        cls,
        *,
        port: int | None = None,
        advertise: Place | None = None,
        site: str | None = None,
        certificate: Callable[[], str | None] = lambda: None,
        nonces: Nonces | None = None,
        sharing: bool = True,
    ) -> Self:
        """Return the identity of a new run; the attributes are those of the class.

        Raises:
            UsageError: the library for keys is missing.
        """
        key = SigningKey.generate()
        return cls(
            key.id,
            key,
            nonces or Nonces(),
            port=port,
            advertise=advertise,
            site=site,
            certificate=certificate,
            sharing=sharing,
        )


class RelaysMembers(Protocol):
    """A server's own swarm, for the exchange of members with its upstreams."""

    @property
    def changes(self) -> int:
        """Count of changes of interest to an upstream."""

    def relay_for(self, version: TicketVersion, upstream: str, *, on_loopback: bool) -> Relay:
        """Return the news for an upstream."""

    def hear_from_above(
        self, version: TicketVersion, upstream: str, answer: AnnouncementAnswer, *, on_loopback: bool
    ) -> None:
        """Take the answer of an upstream."""


@dataclass
class _AtServer:
    """A membership at one server.

    Attributes:
        answer: the last answer; None while there is none.
        heard_at: time of the last answer.
        failure: failure of the last announcement; None after a success.
        keys_id: the name of the keys told last by the server.
    """

    answer: AnnouncementAnswer | None = None
    heard_at: float = 0.0
    failure: PeerError | None = None
    keys_id: str | None = None


class Membership:
    """A node's membership of a version's swarm, at all its servers, while the context is entered.

    A server without swarms, or without the version, is done without, and asked again now and then.

    Attributes:
        version: the version.
        me: this node.
        keys: the keys behind neighbours' tickets.
        asking_proof: proof of the identity of this node in requests for ranges.
        changed: notified after each answer.
    """

    def __init__(
        self,
        version: TicketVersion,
        me: MemberIdentity,
        servers: Sequence[SwarmClient],
        *,
        relay: RelaysMembers | None = None,
        is_asked: Callable[[str], bool] = lambda url: True,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Prepare to announce.

        Args:
            version: the version.
            me: this node.
            servers: the servers for the announcements.
            relay: own swarm of a server.
            is_asked: returns whether to announce this node now at the server of a URL.
            clock: gives seconds.
            random: spreads pauses.
            sleep: pauses.
        """
        self.version = version
        self._name = version_name(version.number)
        self._fields = about(version=self._name)
        self.keys = KeyRing(clock, len(servers))
        self.changed = Notifier()
        self.me = me
        self._servers = {server.server: server for server in servers}
        self._at = {url: _AtServer() for url in self._servers}
        self._relay = relay
        self._is_asked = is_asked
        self._clock = clock
        self._random = random or Random()
        self._sleep = sleep
        self._secret = secrets.token_hex(16)
        self._proof = prove_to_server(me.key, me.node, self._secret)
        self.asking_proof = prove_asking(me.node, self._secret)
        self._tasks: list[asyncio.Task[None]] = []
        self._poked = Notifier()
        self._pokes = 0

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.ensure_future(self._keep(server)) for server in self._servers.values()]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await cancel(self._tasks)
        known = [url for url, at in self._at.items() if at.answer]
        try:
            async with asyncio.timeout(_LEAVING):
                await asyncio.gather(*(self._leave(self._servers[url]) for url in known))
        except TimeoutError:
            log.debug("%s: not all servers were told that this node leaves", self._name, extra=self._fields)

    # Knowledge

    @property
    def neighbours(self) -> list[NamedMember]:
        """The members named by servers, each once, the first server's first; not this node."""
        found: dict[bytes, NamedMember] = {}
        for answer in self._answers(_NAMES_COUNT):
            for member in answer.neighbours:
                found.setdefault(member.key, member)
        found.pop(self.me.key.public, None)
        return list(found.values())

    @property
    def tickets(self) -> list[str]:
        """The tickets of this node, one from each server with a recent signature."""
        return [answer.ticket for answer in self._answers(0.9 * TICKET_SECONDS)]

    def ticket_for(self, neighbour: bytes, signer: str | None = None) -> str | None:
        """Return the ticket to show to a neighbour; None while there is none.

        The neighbour knows the server behind its own ticket, and soon those that name it. Servers of one line
        need not know each other: two origins of the same data, or middles below an older origin.

        Args:
            neighbour: key of the neighbour.
            signer: id of the key behind its ticket; None while it has shown none.
        """
        answers = list(self._answers(0.9 * TICKET_SECONDS))
        signed = (one for one in answers if signer and signer_of(one.ticket) == signer)
        naming = (one for one in answers if any(member.key == neighbour for member in one.neighbours))
        chosen = next(signed, None) or next(naming, answers[0] if answers else None)
        return chosen.ticket if chosen else None

    @property
    def members(self) -> int:
        """Maximum number of members of the version known to a server."""
        return max((answer.members for answer in self._answers(_NAMES_COUNT)), default=0)

    @property
    def reachable(self) -> bool | None:
        """Whether a server reached this node; None while none knows."""
        told = [answer.reachable for answer in self._answers(_NAMES_COUNT)]
        return True if True in told else None if None in told or not told else False

    @property
    def site(self) -> str | None:
        """The site of this node, in the view of its first server; None while unknown."""
        sites = (answer.site for answer in self._answers(TICKET_SECONDS) if answer.site)
        return self.me.site or next(sites, None)

    @property
    def failures(self) -> dict[str, PeerError]:
        """Why the last announcements failed, by the URLs of the servers where they did."""
        return {url: at.failure for url, at in self._at.items() if at.failure}

    def know_digest(self, digest: str) -> None:
        """Announce the payload's digest from now on, and at once."""
        self.version = TicketVersion(self.version.number, self.version.origin, digest)
        self.poke()

    def poke(self) -> None:
        """Announce at once."""
        self._pokes += 1
        self._poked.notify()

    def _answers(self, seconds: float) -> Iterable[AnnouncementAnswer]:
        """Yield the answers of the last seconds, the first server's first."""
        now = self._clock()
        for at in self._at.values():
            if at.answer and now - at.heard_at < seconds:
                yield at.answer

    # Announcing

    async def _keep(self, server: SwarmClient) -> None:
        """Announce at one server, again and again; for ever."""
        at, failures, denied = self._at[server.server], 0, ""
        while True:
            pokes = self._pokes
            if not self._is_asked(server.server):
                await self._sleep(_NOT_ASKED)
                continue
            try:
                pause = await self._announce(server, at)
                failures, at.failure = 0, None
            except AccessDenied as error:
                at.failure, pause = error, _DENIED
                if str(error) != denied:
                    denied = str(error)
                    text = "%s is not shared with nodes of a server, which refuses: %s"
                    log.warning(text, self._name, error, extra=self._fields)
            except PeerError as error:
                backoff = _ABSENT if isinstance(error, ServerLacks) else _LOST
                at.failure, pause = error, backoff.spread(failures, self._random)
                failures += 1
                log.debug("%s is not announced: %s", self._name, error, extra=self._fields)
            self.changed.notify()
            await self._wait(pause, pokes if at.failure is None else None)

    async def _announce(self, server: SwarmClient, at: _AtServer) -> float:
        """Announce once at a server, and return the seconds until the next time.

        Raises:
            PeerError: the server does not take the announcement.
        """
        url, on_loopback = server.server, _is_on_loopback(server.server)
        relay = self._relay.relay_for(self.version, url, on_loopback=on_loopback) if self._relay else None
        known = self.keys.count(lambda source: source == url) > 0
        answer = await server.announce(
            self._name, self._announcement(relay=relay, keys=at.keys_id if known else None)
        )
        if answer.keys is None:
            self.keys.still_told(url)
        else:
            at.keys_id = answer.keys_id
            self.keys.tell(url, (VouchingKey(key.key, key.now, key.age) for key in answer.keys))
        if self._relay:
            self._relay.hear_from_above(self.version, url, answer, on_loopback=on_loopback)
        at.answer, at.heard_at = answer, self._clock()
        return answer.announce_again * self._random.uniform(0.8, 1.0)

    async def _leave(self, server: SwarmClient) -> None:
        """Tell a server of this node's departure; a failure is only logged, since silence tells it too."""
        try:
            await server.leave(self._name, self._announcement(leaving=True))
        except PeerError as error:
            log.debug("%s is not left: %s", self._name, error, extra=self._fields)

    def _announcement(
        self, *, relay: Relay | None = None, keys: str | None = None, leaving: bool = False
    ) -> Announcement:
        """Return an announcement with a fresh nonce."""
        me = self.me
        return Announcement(
            node=me.node,
            secret=self._secret,
            key=me.key.public,
            proof=self._proof,
            nonce=me.nonces.new(),
            origin=self.version.origin,
            digest=self.version.digest,
            port=me.port,
            advertise=me.advertise,
            site=me.site,
            certificate=me.certificate(),
            rate=me.rate(),
            sharing=me.sharing,
            keys=keys,
            leaving=leaving,
            relay=relay,
        )

    async def _wait(self, seconds: float, pokes: int | None) -> None:
        """Wait for some seconds, or until this node is poked or has news to relay.

        Args:
            seconds: the longest wait.
            pokes: how often the node had been poked before the announcement; None to wait in any case.
        """
        if pokes is None:
            await self._sleep(seconds)
            return
        until, changes = self._clock() + seconds, self._relay.changes if self._relay else 0
        while (left := until - self._clock()) > 0:
            try:
                async with asyncio.timeout(min(left, _LOOK) if self._relay else left):
                    await self._poked.wait_for(lambda: self._pokes != pokes)
                return
            except TimeoutError:
                if self._relay and self._relay.changes != changes:
                    return


def _is_on_loopback(url: str) -> bool:
    """Return whether a server's URL names this machine's own address."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or is_loopback(host)
