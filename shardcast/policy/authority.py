"""The server that decides which versions exist: the first-named one that does not depend on this node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.protocol.feed import MAX_CHAIN, Hello

JUST_STARTED = 2.0
"""Seconds that a server which never answered since this node started counts as about to answer."""
LONGEST_PAUSE, SHORTEST_PAUSE = 3.0, 1.0
"""Seconds, by chance between these, until a change of authority: of two nodes that have just chosen each
other, the first to leave breaks the circle, and the other one stays."""


@dataclass(frozen=True, slots=True)
class ServerView:
    """One of a node's servers, as the node knows it.

    Attributes:
        url: its base URL.
        list_known: whether its list is known now.
        failed: whether the last attempt to hear from it failed.
        last_news_at: when it was heard last, in seconds of the node's clock; None for never.
        hello: the last hello of its feed; None for a server without a feed.
        reading: which connection to its feed, or which reading of its list, told this; counts up.
        complete: the versions that it serves, by number.
        known: versions that it lists without having them yet.
        opened: versions that are being made there.
        withdrawn: versions that were withdrawn.
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
        """The origin id that it names."""
        return self.hello.origin if self.hello else None

    @property
    def listed(self) -> dict[int, Listing]:
        """The versions that it lists, by number."""
        return {**self.known, **self.complete}

    @property
    def chain(self) -> tuple[str, ...]:
        """The node ids from this server up to its origin, as far as they are known."""
        return (self.hello.node, *(self.hello.chain or ()))[:MAX_CHAIN] if self.hello else ()


class Authority:
    """The choice of the authority among a node's servers.

    Attributes:
        url: the authority; None before the first choice, and while no server can be one.
        silence: seconds without news after which it counts as silent.
    """

    def __init__(self, node_id: str | None, started: float, silence: float, random: Random) -> None:
        """Begin without an authority.

        Args:
            node_id: of this node, where it serves; None for a client, on which no server depends.
            started: when this node started, in seconds of its clock.
            silence: seconds without news after which the authority counts as silent.
            random: for the pause before a change of authority.
        """
        self.url: str | None = None
        self.silence = silence
        self._node_id = node_id
        self._started = started
        self._random = random
        self._change_at: float | None = None

    def choose(self, now: float, servers: Sequence[ServerView], distance: int | None) -> ServerView | None:
        """Return the authority of a node that is ``distance`` hops away from its origin (None: unknown).

        The first choice is made at once. A later one waits a random 1 to 3 s, and is looked at again then.
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
        """Return whether a server does not depend on this node for its own versions."""
        hello = server.hello
        if self._node_id is None or hello is None:
            return True
        if hello.chain is not None:
            return self._node_id not in (hello.node, *hello.chain) and len(hello.chain) < MAX_CHAIN
        # 0.4.0 tells no chain: below this node it would be farther from the origin than this node is.
        return distance is None or (hello.distance is not None and hello.distance < distance)

    def is_silent(self, server: ServerView, now: float) -> bool:
        """Return whether a server has no news: it is gone for long, or says that its own authority is."""
        if server.list_known:
            return server.hello is not None and server.hello.silent
        return now >= self.silent_at(server)

    def silent_at(self, server: ServerView) -> float:
        """Return when a server that tells nothing now counts as silent."""
        if server.last_news_at is None:
            return self._started if server.failed else self._started + JUST_STARTED
        return server.last_news_at + self.silence


def _is_doubtful(server: ServerView) -> bool:
    """Return whether a server of 0.4.0 knows no distance: two such nodes may only echo each other."""
    return server.hello is not None and server.hello.chain is None and server.hello.distance is None
