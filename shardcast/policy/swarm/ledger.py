"""The ledger of a server: the next range to hand out, by earlier hand-outs and the reports of nodes.

A server's upload is the scarcest good of a swarm. So each range is handed out once to each site, lowest
first, and the nodes spread their ranges. A server knows of this spread only by the reports that come with
requests.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum
from random import Random

from shardcast.policy.swarm.crossings import SiteRecord
from shardcast.policy.swarm.masks import lowest, random_range, ranges_of
from shardcast.policy.swarm.rarity import RangeCounts
from shardcast.policy.swarm.recent import RecentRanges
from shardcast.policy.swarm.rules import SwarmRules

NEVER = float("-inf")
MAX_SITES = 10_000
"""Maximum number of sites with a record of crossings."""


class HandoutKind(Enum):
    """Kinds of answers to a request for the next range."""

    BODY = "body"
    """The bytes of a range."""
    CLAIMS = "claims"
    """Ranges to ask from neighbours in other sites."""
    WAIT = "wait"
    """Nothing yet: the server keeps the request until there is more, or for a moment."""
    PAUSE = "pause"
    """Nothing for this node now: the node backs off."""
    NONE = "none"
    """All was handed out: the node asks again when there is more, or when no neighbour can help."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The request of a node for its next range.

    Attributes:
        node: key of the node.
        site: site of the node; None for none.
        new: ranges received since the last request here.
        under_way: ranges already asked for, or without a place yet: a negative number for a node without a
            place for any from some range on.
        across: missing ranges on offer at neighbours in other sites, and at none in the node's own.
        help: whether no neighbour offers a missing range.
    """

    node: Hashable
    site: str | None = None
    new: int = 0
    under_way: int = 0
    across: int = 0
    help: bool = False


@dataclass(frozen=True, slots=True)
class Handout:
    """The answer to a request.

    Attributes:
        answer: its kind.
        ranges: mask of the range in the answer's body, or of the claimed ranges.
    """

    answer: HandoutKind
    ranges: int = 0

    @property
    def number(self) -> int:
        """The range whose bytes follow."""
        return lowest(self.ranges)


class Ledger:
    """The hand-outs of one version at one server.

    Attributes:
        growing: whether the server will have more ranges to hand out.
        max_sites: maximum number of sites with a record of crossings. Nodes of further ones may bring any
            range, so a range can cross into these sites more than once.
    """

    def __init__(
        self, rules: SwarmRules, random: Random, *, site: str | None = None, growing: bool = False
    ) -> None:
        """Begin with nothing to hand out.

        Args:
            rules: the numbers to go by.
            random: for the choice among equals.
            site: the server's own site.
            growing: whether there will be more ranges than ``offer`` has told.
        """
        self.growing = growing
        self.max_sites = MAX_SITES
        self._rules = rules
        self._random = random
        self._home = site
        self._own = 0  # what this server hands out first of all servers
        self._available = 0  # what it can send
        self._sites: dict[str | None, SiteRecord] = {}
        self._handed = 0  # to any site
        self._crossed = RangeCounts()  # into how many sites each range was claimed
        self._known: dict[Hashable, int] = {}  # what each node reported
        self._reported = 0  # what any node reported
        self._sole: dict[Hashable, int] = {}  # handed out to this node, and reported by no other
        self._owners: dict[int, Hashable] = {}  # of each such range
        self._all_sole = 0
        self._young = RecentRanges(rules.crossing_seconds)
        self._askers: list[tuple[Hashable, float]] = []  # the last two that differ, the latest first
        self._home_asked_at = NEVER

    def adopt(self, rules: SwarmRules) -> None:
        """Go by other numbers from now on, such as those for another number of members."""
        self._rules = rules

    def offer(self, mask: int, *, own: bool = True) -> None:
        """Add ranges ready to be sent.

        Args:
            mask: the ranges.
            own: whether this server is the one to hand them out. A middle hands out the ranges from the
                origin; those from other middles, which hand them out themselves, are only for nodes in need
                of help.
        """
        self._available |= mask
        if own:
            self._own |= mask

    def withdraw(self, mask: int) -> None:
        """Record ranges no longer ready to be sent."""
        self._available &= ~mask
        self._own &= ~mask

    def knows(self, node: Hashable) -> bool:
        """Return whether a node has reported here. A node without a report must send all its ranges first."""
        return node in self._known

    def report(self, node: Hashable, site: str | None, new: int, now: float) -> None:
        """Record new ranges of a node: they have reached its site, and are no more at another node alone."""
        self._known[node] = self._known.get(node, 0) | new
        if not new:
            return
        self._reported |= new
        if self._sites.get(site):
            self._sites[site].arrived(new, now)
        for number in ranges_of(new & self._all_sole & ~self._sole.get(node, 0)):
            self._drop_sole(self._owners[number], 1 << number)

    def decide(self, asked: Asked, now: float, *, may_send: bool = True) -> Handout:
        """Answer a request for the next range, and record the hand-out.

        Args:
            asked: the request.
            now: the time, in seconds.
            may_send: whether there is a free slot for an answer with a body.
        """
        alone = self._note_asker(asked, now)
        self.report(asked.node, asked.site, asked.new, now)
        site = self._site(asked.site)
        site.nodes.add(asked.node)
        site.expire(now)
        lacks = ~(self._known[asked.node] | asked.under_way)
        if asked.site == self._home:
            return self._hand_home(asked, site, lacks, now, may_send=may_send, alone=alone)
        return self._hand_abroad(asked, site, lacks, now, may_send=may_send)

    def failed(self, node: Hashable, site: str | None, number: int) -> None:
        """Record a broken answer: its range was not handed out, unless a node reported the range.

        The range stays handed out where another node is still getting the same one: two nodes with the only
        copies would be counted as one.
        """
        if self._reported >> number & 1:
            return
        self._drop_sole(node, 1 << number)
        if not self._all_sole >> number & 1:
            self._handed &= ~(1 << number)
        self._site(site).take_back(number)

    def forget(self, node: Hashable) -> None:
        """Record the end of a node: ranges only at this node are handed out anew."""
        self._known.pop(node, None)
        lost = self._sole.get(node, 0)
        self._drop_sole(node, lost)
        self._handed &= ~lost
        self._reported &= ~lost
        for site in self._sites.values():
            site.forget(node)
            site.forget_ranges(lost)

    # Within the server's own site

    def _hand_home(
        self, asked: Asked, site: SiteRecord, lacks: int, now: float, *, may_send: bool, alone: bool
    ) -> Handout:
        """Answer a node of the server's own site: each range comes from the server once."""
        fresh = self._own & ~site.handed & lacks
        if fresh:
            credit = self._rules.credit
            held = self._sole.get(asked.node, 0)
            spent = credit is not None and held.bit_count() >= credit and not alone
            if spent or not may_send:
                return Handout(HandoutKind.PAUSE)
            fresh = fresh & ~self._handed or fresh
            return self._body(asked, site, lowest(fresh & ~self._reported or fresh), now)
        if not asked.help:
            return Handout(HandoutKind.WAIT if self.growing else HandoutKind.NONE)
        return self._help(asked, site, self._available & lacks, now, may_send=may_send)

    # Across the border

    def _hand_abroad(
        self, asked: Asked, site: SiteRecord, lacks: int, now: float, *, may_send: bool
    ) -> Handout:
        """Answer a node of another site: a range crosses the border once, from a neighbour if possible.

        While nodes of the server's own site ask, they get the new ranges, and other sites claim them there. A
        range not brought near by any neighbour in the time for a crossing comes from the server.
        """
        room = site.room(asked.node, now)
        if not room:
            return Handout(HandoutKind.PAUSE)
        missing = self._own & ~site.handed & lacks
        claims = self._claim(asked, site, missing & asked.across, room, now)
        if claims:
            return Handout(HandoutKind.CLAIMS, claims)
        busy_home = now - self._home_asked_at < self._rules.alone_after
        fresh = 0 if busy_home else missing & ~self._handed
        body = fresh or missing & self._handed & ~self._young.expire(now)
        if body and may_send:
            site.cross(lowest(body), asked.node, now)
            return self._body(asked, site, lowest(body), now)
        if missing:
            return Handout(HandoutKind.PAUSE)
        if not asked.help:
            return Handout(HandoutKind.WAIT if self.growing else HandoutKind.NONE)
        return self._help(asked, site, self._available & lacks, now, may_send=may_send)

    def _claim(self, asked: Asked, site: SiteRecord, claimable: int, room: int, now: float) -> int:
        """Choose ranges for a node to bring across the border, those in few sites first.

        So sites bring different ranges out of the server's own site, and then exchange these.
        """
        claims = 0
        while claimable and room:
            number = random_range(self._crossed.rarest(claimable), self._random)
            self._crossed.add(1 << number)
            site.cross(number, asked.node, now)
            site.hand(number, now)
            claims |= 1 << number
            claimable &= ~claims
            room -= 1
        return claims

    # Both

    def _help(self, asked: Asked, site: SiteRecord, lacking: int, now: float, *, may_send: bool) -> Handout:
        """Answer a node without a useful neighbour: the least handed out range, none twice in a moment."""
        candidates = lacking & ~site.young.mask
        if not candidates or not may_send:
            return Handout(HandoutKind.PAUSE)
        return self._body(asked, site, random_range(site.counts.rarest(candidates), self._random), now)

    def _body(self, asked: Asked, site: SiteRecord, number: int, now: float) -> Handout:
        """Hand a range out to a node."""
        bit = 1 << number
        if not (self._handed | self._reported) & bit:
            self._sole[asked.node] = self._sole.get(asked.node, 0) | bit
            self._all_sole |= bit
            self._owners[number] = asked.node
        self._handed |= bit
        self._young.add(number, now)
        site.hand(number, now)
        return Handout(HandoutKind.BODY, bit)

    def _drop_sole(self, node: Hashable, mask: int) -> None:
        """Forget ranges handed out to one node alone, because they are gone there, or elsewhere too."""
        held = self._sole.get(node, 0)
        for number in ranges_of(held & mask):
            del self._owners[number]
        self._all_sole &= ~(held & mask)
        if held & ~mask:
            self._sole[node] = held & ~mask
        else:
            self._sole.pop(node, None)

    def _site(self, name: str | None) -> SiteRecord:
        """Return the record of a site; beyond ``max_sites`` a new one, forgotten at once."""
        record = self._sites.get(name)
        if record is None:
            record = SiteRecord(self._rules, home=name == self._home)
            if name == self._home or len(self._sites) < self.max_sites:
                self._sites[name] = record
        return record

    def _note_asker(self, asked: Asked, now: float) -> bool:
        """Record the asker, and return whether no other node asked just now."""
        others = [one for one in self._askers if one[0] != asked.node]
        self._askers = [(asked.node, now), *others[:1]]
        if asked.site == self._home:
            self._home_asked_at = now
        return not others or now - others[0][1] >= self._rules.alone_after

    @property
    def handed(self) -> int:
        """The ranges handed out to any site."""
        return self._handed

    @property
    def sole(self) -> int:
        """The ranges known only at the nodes to which they were handed out, by the nodes' reports."""
        return self._all_sole

    def unspread(self, node: Hashable) -> list[int]:
        """Return the ranges handed out to a node, and reported by no other node."""
        return list(ranges_of(self._sole.get(node, 0)))
