"""Requests for a next range, kept by the server until there is one to hand out, or for as long as they allow.

Nodes with repeated requests instead took a fifth of a middle's processor, and were late for new pieces.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from shardcast.protocol.next_range import AT_ONCE_SECONDS, NextRequest, NotNow
from shardcast.server.bounds import Address
from shardcast.server.hand_outs import HandOuts, NothingNow
from shardcast.server.version_book import GrantedRange

Chosen = GrantedRange | NothingNow
_Choose = Callable[[], Chosen]
"""A function to decide anew on a request."""
_Held = OrderedDict[asyncio.Future[Chosen], tuple[NextRequest, _Choose]]

LOOK_SECONDS = 0.02
"""Seconds between two looks for something to hand out, while requests are kept."""
MAX_MISSES = 8
"""Maximum kept requests of a version to look at in vain each time: a thousand nodes may wait for a piece."""
CREDIT_SECONDS = 0.1
"""Seconds of keeping the request of a node with enough unspread pieces: others must report theirs meanwhile,
and the node may be kept from reporting its own."""


class HeldRequests:
    """The kept requests of a server, those of each version in turn."""

    def __init__(self, hand_outs: HandOuts) -> None:
        """Keep nothing yet; ``hand_outs`` decides on each request."""
        self._hand_outs = hand_outs
        self._held: dict[str, _Held] = {}
        self._any_held = asyncio.Event()
        self._ended = False

    def __len__(self) -> int:
        """Return the number of kept requests."""
        return sum(map(len, self._held.values()))

    async def next_for(
        self,
        version: str,
        request: NextRequest,
        *,
        seen: Address | None = None,
        here: Address | None = None,
    ) -> Chosen:
        """Decide like ``HandOuts.next_for``, and keep a request without anything to get yet.

        Args:
            version: name of the version.
            request: the node's request.
            seen: the node's address; None for unknown.
            here: the address of this server reached by the node; None for unknown.

        Raises:
            NextRangeError: the request names pieces beyond those of the version.
            ReportIncomplete: the node must tell all its pieces.
        """
        choose = partial(self._hand_outs.next_for, version, request, seen=seen, here=here)
        chosen = choose()
        seconds = _kept_seconds(chosen, request)
        if self._ended or not seconds:
            return chosen
        answer: asyncio.Future[Chosen] = asyncio.get_running_loop().create_future()
        held = self._held.setdefault(version, OrderedDict())
        held[answer] = request, partial(choose, again=True)
        self._any_held.set()
        try:
            await asyncio.wait([answer], timeout=seconds)
        except asyncio.CancelledError:
            if answer.done():
                self._take_back(answer.result(), request)
            raise
        finally:
            held.pop(answer, None)
        if not answer.done():
            assert isinstance(chosen, NothingNow)
            return replace(chosen, seconds=AT_ONCE_SECONDS)  # it has waited here
        return answer.result()

    async def run(self) -> None:
        """Answer kept requests as soon as there is something for them; for ever."""
        while True:
            await self._any_held.wait()
            await asyncio.sleep(LOOK_SECONDS)
            for version, held in list(self._held.items()):
                self._answer(held)
                if not held:
                    del self._held[version]
            if not self._held:
                self._any_held.clear()

    def end(self) -> None:
        """Answer all kept requests with nothing for now, and keep no further ones."""
        self._ended = True
        for held in self._held.values():
            for answer in held:
                if not answer.done():
                    answer.set_result(NothingNow(NotNow.WAIT, LOOK_SECONDS))

    def _answer(self, held: _Held) -> None:
        """Answer the requests of one version that can get something now, the one kept longest first."""
        misses = 0
        for answer, (request, choose) in list(held.items()):
            if answer.done():
                continue
            chosen = choose()
            if not _kept_seconds(chosen, request):
                del held[answer]
                answer.set_result(chosen)
                continue
            held.move_to_end(answer)  # the next look begins with others
            misses += 1
            if misses >= MAX_MISSES:
                return

    def _take_back(self, chosen: Chosen, request: NextRequest) -> None:
        """Free for others the pieces chosen for a request whose client is gone."""
        if isinstance(chosen, GrantedRange):
            chosen.take_back()
            self._hand_outs.end(request.asker, 0)


def _kept_seconds(chosen: Chosen, request: NextRequest) -> float:
    """Return the seconds for which to keep a request with this answer."""
    if isinstance(chosen, NothingNow):
        if chosen.reason is NotNow.WAIT:
            return request.wait_ms / 1000
        if chosen.reason is NotNow.PAUSE and request.offered:
            return min(CREDIT_SECONDS, request.wait_ms / 1000)
    return 0.0
