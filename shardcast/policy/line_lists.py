"""The versions of a node's line, as listed by its authority and by the authority's stand-ins."""

from __future__ import annotations

from collections.abc import Mapping

from shardcast.policy.authority import ServerView
from shardcast.policy.own_line import is_own_line
from shardcast.policy.standing import MAX_REMEMBERED, Memory
from shardcast.protocol.distribution import Listing, Withdrawal

LARGEST_JUMP = 10**6
"""Maximum distance of a version's number from the highest one of its line."""
UNLISTED_AFTER = 10.0
"""Seconds after the return of the authority until versions missing from its list are dropped."""


class LineLists:
    """The valid lists of one line.

    Attributes:
        firm: versions in the authority's last list, by number; a silent authority keeps them.
        provisional: versions on another server's word, while the authority is silent.
    """

    def __init__(self, memory: Memory) -> None:
        self.firm: dict[int, Listing] = {}
        self.provisional: dict[int, Listing] = {}
        self._memory = memory
        self._highest = memory.highest
        self._url: str | None = None  # of the authority
        self._heard_since: float | None = None  # without a break

    @property
    def highest(self) -> int:
        """The highest version number of the line."""
        return max(self._highest, self._memory.highest)

    @property
    def settles_at(self) -> float | None:
        """Time at which versions missing from the authority's list are dropped; None while it is silent."""
        return None if self._heard_since is None else self._heard_since + UNLISTED_AFTER

    def restart(self) -> None:
        """Forget all lists, and begin with the line now in memory."""
        self.firm, self.provisional, self._url = {}, {}, None
        self._heard_since, self._highest = None, self._memory.highest

    def hear(self, authority: ServerView, now: float, notes: list[str]) -> None:
        """Take the list of the authority, which has news of the node's line.

        Messages for people are appended to ``notes``.
        """
        if self._url != authority.url:
            self._url, self._heard_since = authority.url, None
        self._heard_since = now if self._heard_since is None else self._heard_since
        reported = authority.hello.highest if authority.hello and authority.hello.highest else 0
        first = not self._memory.digests and not self.firm
        known = 0 if first else self.highest
        self.firm = _believable(authority, known, notes)
        if first or reported <= known + LARGEST_JUMP:
            self._highest = max(self._highest, reported, *self.firm, 0)

    def hear_stand_in(
        self, speaker: ServerView | None, authority: ServerView | None, notes: list[str]
    ) -> None:
        """Take the lists valid while the authority has no news.

        Args:
            speaker: the server in place of the authority; its numbers are added.
            authority: the authority, if its list is known; its versions come first, as of the beginning of
                the silence.
            notes: gets the messages for people.
        """
        memory = self._memory
        known = max(self.highest, *self.firm, 0)
        oldest = min(memory.digests, default=0) if len(memory.digests) >= MAX_REMEMBERED else 0
        self.provisional = {}
        for server in (authority, speaker):
            if server is None or not is_own_line(server, memory):
                continue
            for number, listing in _believable(server, known, notes).items():
                if number not in self.firm and number >= oldest:  # digests of older ones were forgotten
                    self.provisional.setdefault(number, listing)

    def interrupt(self) -> None:
        """Record that the authority is silent now; the time to ``settles_at`` begins with its return."""
        self._heard_since = None

    def settle(self, now: float) -> bool:
        """Return whether the authority was heard for long enough to drop the versions missing from its list.

        Provisional versions are forgotten then.
        """
        settled = self.settles_at is not None and now >= self.settles_at
        if settled:
            self.provisional.clear()
        return settled

    def without(self, withdrawn: Mapping[int, Withdrawal]) -> dict[int, Listing]:
        """Return the valid versions, by number, without ``withdrawn`` ones."""
        return {
            number: listing
            for number, listing in {**self.provisional, **self.firm}.items()
            if number not in withdrawn or withdrawn[number].digest != listing.digest
        }


def _believable(server: ServerView, highest: int, notes: list[str]) -> dict[int, Listing]:
    """Return a server's listed versions, without numbers too far beyond ``highest`` (0: none known)."""
    limit = highest + LARGEST_JUMP if highest else None
    refused = {number for number in server.listed if limit is not None and number > limit}
    if refused:
        notes.append(
            f"{server.url} lists v{max(refused)}, more than {LARGEST_JUMP} beyond v{highest}: refused"
        )
    return {number: listing for number, listing in server.listed.items() if number not in refused}
