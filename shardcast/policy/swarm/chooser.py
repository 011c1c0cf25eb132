"""The choice of a downloading node: the next range to ask for, and from which server or neighbour."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from random import Random

from shardcast.policy.backoff import Backoff
from shardcast.policy.swarm.ledger import Asked, Handout, HandoutKind
from shardcast.policy.swarm.masks import random_range
from shardcast.policy.swarm.neighbours import Neighbour, Neighbourhood
from shardcast.policy.swarm.requests import Server, SwarmRequest
from shardcast.policy.swarm.rules import SwarmRules

FOREVER = float("inf")
_LATE = 2.0
"""Factor of the mean seconds of a neighbour's range after which a request is late: on slow links this exceeds
the rules' seconds."""
_LATEST = 4.0
"""Seconds after which a request is late in any case, so slow neighbours cannot put off all deadlines."""
_SMOOTHING = 0.2
"""Weight of the latest range in the mean of the seconds of a range."""


class RangeChooser:
    """The requests of one node for one version.

    ``next_request`` returns the request to send; the caller sends it and reports the end: ``received``,
    ``refused``, ``absent``, ``failed``, ``wrong``, or for a request for a server's next range first
    ``answered``. The requests returned by these methods are to be cancelled.

    Attributes:
        held: the local, verified ranges.
        neighbours: the neighbours to ask.
        under_way: the unfinished requests.
        site: the node's own site; None while unknown.
        urgent: ranges to ask for before rarer ones: those of a shard in the way of opening further ones. As
            long as newer ranges come, a range offered by all neighbours would be asked for last.
        wake_at: after ``next_request`` returned None, the time to try again even without an event.
    """

    def __init__(
        self, rules: SwarmRules, random: Random, *, key: Hashable = None, site: str | None = None
    ) -> None:
        """Begin with nothing held, and nobody to ask.

        Args:
            rules: the numbers.
            random: source of every choice among equals.
            key: the node's own name at servers.
            site: the node's own site.
        """
        self.rules = rules
        self.held = 0
        self.neighbours = Neighbourhood(rules, random)
        self.under_way: list[SwarmRequest] = []
        self.urgent = 0
        self.wake_at = FOREVER
        self._random = random
        self._key = key
        self.site = site
        self._servers: list[Server] = []
        self._known = 0  # the ranges that exist
        self._taken = 0  # held, or asked for
        self._usual = 0.0  # seconds that a neighbour's range takes
        self._claims = 0  # ranges that may be asked across the border
        self._claimed: deque[tuple[float, int]] = deque()  # until when

    def extend(self, mask: int) -> None:
        """Add ranges of the version: all at once, or those of an open version as they come."""
        self._known |= mask
        for server in self._servers:
            server.exhausted = False

    def hold(self, mask: int) -> None:
        """Record local ranges without a request, such as those of an earlier run."""
        self.held |= mask
        self._taken |= mask
        for server in self._servers:
            server.unreported |= mask

    def add_server(
        self,
        key: Hashable,
        *,
        first_at: float = 0.0,
        longest_pause: float | None = None,
        requests: int | None = None,
    ) -> None:
        """Add a server with ranges to hand out.

        Args:
            key: the caller's name for the server.
            first_at: time of the earliest request; see ``first_ask``.
            longest_pause: maximum seconds of a pause; None for the rules'.
            requests: maximum of unfinished requests; None for the rules'.
        """
        longest = longest_pause or self.rules.longest_server_pause
        backoff = Backoff(self.rules.first_server_pause, longest)
        limit = requests or self.rules.server_requests
        server = Server(key, backoff, limit=limit, paused_until=first_at, unreported=self.held)
        self._servers.insert(int(self._random.random() * (len(self._servers) + 1)), server)

    def remove_server(self, key: Hashable) -> list[SwarmRequest]:
        """Remove a server; return its unfinished requests."""
        lost = [request for request in self.under_way if request.server and request.server.key == key]
        for request in lost:
            self._close(request)
        self._servers = [server for server in self._servers if server.key != key]
        return lost

    def remove_neighbour(self, key: Hashable) -> list[SwarmRequest]:
        """Remove a neighbour; return its unfinished requests."""
        neighbour = self.neighbours[key]
        lost = [request for request in self.under_way if request.source is neighbour]
        for request in lost:
            self._close(request)
        self.neighbours.remove(key)
        return lost

    @property
    def missing(self) -> int:
        """The ranges neither local nor asked for."""
        return self._known & ~self._taken

    @property
    def done(self) -> bool:
        """Whether every known range is local."""
        return self.held == self._known

    # Asking

    def next_request(self, now: float) -> SwarmRequest | None:
        """Return the next request to send; None when there is none now.

        The servers' share of the requests is filled first: nobody else has the ranges they hand out. Then
        come neighbours, then, for a node without a useful neighbour, a server again, and at the end a second
        neighbour for ranges long under way.
        """
        self.wake_at = FOREVER
        while self._claimed and self._claimed[0][0] <= now:  # others of the site claim them from now on
            self._claims &= ~self._claimed.popleft()[1]
        missing = self._known & ~self._taken
        if missing and (request := self._ask_server(now)):
            return request
        if self._receiving(now) >= self.rules.requests or not self._known & ~self.held:
            return None
        if not missing:
            return self._duplicate(now)
        return self._ask_neighbour(missing, now) or self._ask_for_help(now)

    def _receiving(self, now: float) -> int:
        """Return the number of requests with a use of the link, without those kept by a server.

        The place of an unanswered request to a server stays free for its bytes, since no other node has them;
        a while later the server has none, and neighbours are asked instead.
        """
        receiving = 0
        for request in self.under_way:
            kept_at = request.since + self.rules.kept_after
            if request.number is not None:
                receiving += 1
            elif now < kept_at:
                receiving += 1
                self.wake_at = min(self.wake_at, kept_at)
        return receiving

    def _ask_server(self, now: float, *, help: bool = False) -> SwarmRequest | None:  # noqa: A002
        """Return a request for a server's next range; None while no server can be asked.

        A server can be asked unless it has enough requests or is paused; without ``help``, not after all its
        ranges were handed out, either.
        """
        for server in self._servers:
            if server.under_way >= server.limit or (server.exhausted and not help):
                continue
            if now < server.paused_until:
                self.wake_at = min(self.wake_at, server.paused_until)
                continue
            under_way = self._taken & ~self.held | ~self._known
            asked = Asked(self._key, self.site, server.unreported, under_way, self._across(), help)
            server.unreported = 0
            return self._open(SwarmRequest(now, server, asked=asked))
        return None

    def _ask_neighbour(self, missing: int, now: float) -> SwarmRequest | None:
        """Return a request for the rarest missing range of a random neighbour; None while none can be asked.

        Urgent ranges come before rarer ones. In other sites only claimed ranges are asked for.
        """
        neighbours = self.neighbours.all
        start = int(self._random.random() * len(neighbours))
        limit, wake_at = self._peer_limit, self.wake_at
        claimed = missing & self._claims
        for neighbour in neighbours[start:] + neighbours[:start]:
            if neighbour.under_way >= limit:
                continue
            candidates = neighbour.offered & (missing if neighbour.near else claimed)
            if not candidates:
                continue
            paused_until = neighbour.paused_until
            if now < paused_until:
                if paused_until < wake_at:
                    wake_at = paused_until
                continue
            candidates = candidates & self.urgent or candidates
            if self.rules.rarest_first:
                candidates = self.neighbours.near.rarest(candidates)
            number = random_range(candidates, self._random)
            return self._open(SwarmRequest(now, neighbour, number=number))
        self.wake_at = wake_at
        return None

    def _ask_for_help(self, now: float) -> SwarmRequest | None:
        """Ask a server for ranges handed out before, where no neighbour offers a missing one."""
        if len(self.under_way) > self.rules.help_below:
            return None
        if (self.neighbours.near.counted | self._claims & self.neighbours.far.counted) & self.missing:
            return None
        return self._ask_server(now, help=True)

    def _duplicate(self, now: float) -> SwarmRequest | None:
        """Ask a second neighbour for the range longest under way, when all are under way."""
        numbers = [request.number for request in self.under_way]
        for request in sorted(self.under_way, key=lambda one: one.since):
            due = request.since + self._patience(self.rules.duplicate_after)
            if now < due:
                self.wake_at = min(self.wake_at, due)
                return None
            if request.number is None or numbers.count(request.number) > 1:
                continue
            neighbour = self._second_holder(request, now)
            if neighbour is not None:
                return self._open(SwarmRequest(now, neighbour, number=request.number))
        return None

    @property
    def _peer_limit(self) -> int:
        """The maximum of requests to one neighbour at once: more than one where there are few neighbours."""
        rules, neighbours = self.rules, len(self.neighbours.all)
        if neighbours >= rules.requests:
            return rules.peer_requests
        share = -(-rules.requests // max(1, neighbours))
        return max(rules.peer_requests, min(share, rules.asker_answers))

    def _second_holder(self, request: SwarmRequest, now: float) -> Neighbour | None:
        """Return a second neighbour with the range of an unfinished request."""
        assert request.number is not None
        bit = 1 << request.number
        for neighbour in self._random.sample(self.neighbours.all, len(self.neighbours.all)):
            allowed = neighbour.offered & bit and (neighbour.near or self._claims & bit)
            if not allowed or neighbour is request.source:
                continue
            if neighbour.under_way >= self._peer_limit:
                continue
            if now < neighbour.paused_until:
                self.wake_at = min(self.wake_at, neighbour.paused_until)
                continue
            return neighbour
        return None

    def _across(self) -> int:
        """Return the ranges to be had in other sites alone."""
        return self.neighbours.across & self._known & ~self._taken

    # Ends of requests

    def answered(self, request: SwarmRequest, handout: Handout, now: float) -> bool:
        """Take a server's answer to a request for its next range.

        Returns:
            Whether the following bytes are wanted. Where False, the request is over.
        """
        server = request.server
        assert server is not None
        if handout.answer is HandoutKind.BODY:
            number = handout.number
            if self._taken >> number & 1:
                self._close(request)
                return False
            request.number = number
            request.progress_at = now
            self._taken |= 1 << number
            server.failures = 0
            server.had_range(now - request.since, self.rules)
            server.exhausted = False
            return True
        self._close(request)
        if handout.answer is HandoutKind.CLAIMS:
            self._claims |= handout.ranges
            self._claimed.append((now + self.rules.crossing_seconds, handout.ranges))
            server.failures = 0
            server.claimed |= handout.ranges
        elif handout.answer is HandoutKind.WAIT:
            server.failures = 0  # the server kept the request: ask again at once
            server.had_none()
        elif handout.answer is HandoutKind.PAUSE:
            self._pause(server, now)
        else:
            server.exhausted = handout.answer is HandoutKind.NONE
            self._pause(server, now)
        return False

    def received(self, request: SwarmRequest, now: float) -> list[SwarmRequest]:
        """Record the right range of a request.

        Returns:
            Other requests for the same range, now over: cancel them.
        """
        number = request.number
        assert number is not None
        bit = 1 << number
        self._close(request)
        if request.neighbour is not None:
            self.neighbours.served(request.neighbour)
            seconds = now - request.since
            self._usual += (seconds - self._usual) * (_SMOOTHING if self._usual else 1.0)
        losers = [other for other in self.under_way if other.number == number]
        for loser in losers:
            self._close(loser)
        self.held |= bit
        self._taken |= bit
        self._claims &= ~bit
        for server in self._servers:
            server.unreported |= bit
            if server.claimed & bit:  # its site's window waits for the news
                server.claimed &= ~bit
                server.paused_until = min(server.paused_until, now)
        return losers

    def refused(self, request: SwarmRequest, now: float) -> None:
        """Record a refusal of a neighbour or a server without a free slot, and pause it for a moment."""
        self._close(request)
        if request.server is not None:
            self._pause(request.server, now)
        elif request.neighbour is not None:
            self.neighbours.refused(request.neighbour, now)

    def absent(self, request: SwarmRequest, now: float) -> None:
        """Record that a neighbour lacks a range on offer there: drop this offer, and pause the neighbour."""
        self._close(request)
        if request.neighbour is not None and request.number is not None:
            self.neighbours.withdraws(request.neighbour.key, 1 << request.number)
            self.neighbours.let_down(request.neighbour, now)

    def failed(self, request: SwarmRequest, now: float) -> None:
        """Record a stalled or broken answer, and pause its server or neighbour.

        Ranges reported with a request to a server are reported again with the next one.
        """
        self._close(request)
        if request.server is not None:
            if request.asked is not None:
                request.server.unreported |= request.asked.new
            self._pause(request.server, now)
        elif request.neighbour is not None:
            self.neighbours.let_down(request.neighbour, now)

    def wrong(self, request: SwarmRequest, now: float) -> list[SwarmRequest]:
        """Record wrong bytes of a range: the sender is not asked again for this version.

        Returns:
            The sender's other requests, now over: cancel them.
        """
        self._close(request)
        if request.server is not None:
            return self.remove_server(request.server.key)
        assert request.neighbour is not None
        others = [other for other in self.under_way if other.source is request.neighbour]
        for other in others:
            self._close(other)
        self.neighbours.ban(request.neighbour)
        return others

    def stalled(self, now: float) -> list[SwarmRequest]:
        """Return the requests without bytes for too long: cancel each, and call ``failed``."""
        latest = now - self._patience(self.rules.stalled_after)
        return [request for request in self.under_way if request.progress_at <= latest]

    def _patience(self, seconds: float) -> float:
        """Return the seconds until a request is late: those of a rule, or more on a slow link."""
        return max(seconds, min(_LATE * self._usual, _LATEST))

    def _open(self, request: SwarmRequest) -> SwarmRequest:
        """Record a new request."""
        self.under_way.append(request)
        if request.number is not None:
            self._taken |= 1 << request.number
        request.source.under_way += 1
        return request

    def _close(self, request: SwarmRequest) -> None:
        """Record the end of a request; its range is missing again unless held, or asked for once more.

        After a right answer, the range is marked as held afterwards (``received``).
        """
        self.under_way.remove(request)
        request.source.under_way -= 1
        number = request.number
        if number is None or self.held >> number & 1:
            return
        if all(other.number != number for other in self.under_way):
            self._taken &= ~(1 << number)

    def _pause(self, server: Server, now: float) -> None:
        """Leave a server alone, longer each time, and allow only the first number of requests there again."""
        server.had_none()
        pause = server.backoff.pause(server.failures) * (0.5 + self._random.random())
        server.paused_until = max(server.paused_until, now + pause)
        server.failures += 1
