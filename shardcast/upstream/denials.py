"""The servers that refuse this node, logged once for each change."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from shardcast.errors import AccessDenied
from shardcast.upstream.follower import Follower

log = logging.getLogger(__name__)


class DenialLog:
    """The log of a node that goes on asking servers that refuse it."""

    def __init__(self) -> None:
        self._logged: dict[str, str] = {}

    def note(self, followers: Iterable[Follower]) -> None:
        """Log each server that began to refuse, or refuses for another reason, or ceased to."""
        for follower in followers:
            url, failure = follower.peer.url, follower.failure
            if isinstance(failure, AccessDenied):
                if self._logged.get(url) != str(failure):
                    self._logged[url] = str(failure)
                    log.warning("%s; the server is asked again from time to time", failure)
            elif follower.versions_known and url in self._logged:
                del self._logged[url]
                log.info("%s lets this node read now", url)
