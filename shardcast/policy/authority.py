"""The authority on the existing versions: the first-named server independent of this node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.protocol.feed import MAX_CHAIN, Hello

JUST_STARTED = 2.0
"""Seconds after the start of this node during which a server without any answer counts as about to answer."""
LONGEST_PAUSE, SHORTEST_PAUSE = 3.0, 1.0
"""Bounds of the random pause, in seconds, before a change of authority: of two nodes that have just chosen
each other, the first to leave breaks the circle, and the other one stays."""


@dataclass(frozen=True, slots=True)
class ServerView:
    """One server of a node, in the node's view.

    Attributes:
        url: base URL.
        list_known: whether the server's list is known now.
        failed: whether the last request failed.
        last_news_at: time of the last news, in seconds of the node's clock; None for never.
        hello: last hello of the feed; None for a server without a feed.
        reading: number of the connection to the feed, or of the reading of the list, behind this view; counts
            up.
        complete: complete versions there, by number.
        known: versions in the list whose bytes the server does not have yet.
        opened: open versions there.
        withdrawn: withdrawn versions.
    """

    url: str
    list_known: bool = False
    failed: bool = False
    last_news_at: float | None = None
    hello: Hello | None = None
    reading: int = 0
    complete: Mapping[int, Listing] = field(default_factory=dict)
    known: Mapping[int, Listing] = field(default_factory=dict)
    opened: frozenset[int] = frozenset()
    withdrawn: Mapping[int, Withdrawal] = field(default_factory=dict)

    @property
    def origin(self) -> str | None:
        """The origin id in the server's hello; None without a hello or an id."""
        return self.hello.origin if self.hello else None

    @property
    def listed(self) -> dict[int, Listing]:
        """The listed versions, by number."""
        return {**self.known, **self.complete}

    @property
    def chain(self) -> tuple[str, ...]:
        """The node ids from this server up to its origin, as far as they are known."""
        return (self.hello.node, *(self.hello.chain or ()))[:MAX_CHAIN] if self.hello else ()


class Authority:
    """The choice of the authority among a node's servers.

    Attributes:
        url: the authority; None before the first choice.
        silence: seconds without news until the authority counts as silent.
    """

    def __init__(self, node_id: str | None, started: float, silence: float, random: Random) -> None:
        """Begin without an authority.

        Args:
            node_id: own node id of a serving node; None for a client, since no server depends on one.
            started: start of this node, in seconds of its clock.
            silence: seconds without news until the authority counts as silent.
            random: source of the pause before a change of authority.
        """
        self.url: str | None = None
        self.silence = silence
        self._node_id = node_id
        self._started = started
        self._random = random
        self._change_at: float | None = None

    def choose(self, now: float, servers: Sequence[ServerView], distance: int | None) -> ServerView | None:
        """Return the authority of a node ``distance`` hops away from its origin (None: unknown).

        The first choice is immediate. A later one waits a random 1 to 3 s and is then checked again. While no
        server is eligible, the former authority stays: None if there is none among ``servers``.
        """
        able = [server for server in servers if self._may_decide(server, distance)]
        best = next((server for server in able if not _is_doubtful(server)), able[0] if able else None)
        current = next((server for server in servers if server.url == self.url), None)
        if best is None or best is current or current is None:
            self._change_at = None
        elif self._change_at is None:
            self._change_at = now + self._random.uniform(SHORTEST_PAUSE, LONGEST_PAUSE)
            return current
        elif now < self._change_at:
            return current
        else:
            self._change_at = None
        if best is None:
            return current
        self.url = best.url
        return best

    @property
    def change_at(self) -> float | None:
        """When a change of authority is decided; None while none is pending."""
        return self._change_at

    def _may_decide(self, server: ServerView, distance: int | None) -> bool:
        """Return whether a server can be the authority: if it is independent of this node, as far as known.

        A chain of ``MAX_CHAIN`` nodes may be cut, and excludes the server. For a client every server can.
        """
        hello = server.hello
        if self._node_id is None or hello is None:
            return True
        if hello.chain is not None:
            return self._node_id not in (hello.node, *hello.chain) and len(hello.chain) < MAX_CHAIN
        # 0.4.0 tells no chain: below this node it would be farther from the origin than this node is.
        return distance is None or (hello.distance is not None and hello.distance < distance)

    def is_silent(self, server: ServerView, now: float) -> bool:
        """Return whether a server has no news: absent for long, or cut off from its own authority."""
        if server.list_known:
            return server.hello is not None and server.hello.silent
        return now >= self.silent_at(server)

    def silent_at(self, server: ServerView) -> float:
        """Return the time at which a server without further news counts as silent."""
        if server.last_news_at is None:
            return self._started if server.failed else self._started + JUST_STARTED
        return server.last_news_at + self.silence


def _is_doubtful(server: ServerView) -> bool:
    """Return whether a server of 0.4.0 knows no distance: two such nodes may only echo each other."""
    return server.hello is not None and server.hello.chain is None and server.hello.distance is None
