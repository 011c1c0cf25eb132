"""The servers that refuse this node, logged once for each change."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from shardcast.errors import AccessDenied
from shardcast.log_fields import about
from shardcast.upstream.follower import Follower

log = logging.getLogger(__name__)


class DenialLog:
    """The log of a node with repeated requests to refusing servers."""

    def __init__(self) -> None:
        self._logged: dict[str, str] = {}

    def note(self, followers: Iterable[Follower]) -> None:
        """Log each server with a new refusal, another reason, or an end of its refusals."""
        for follower in followers:
            url, failure = follower.peer.url, follower.failure
            if isinstance(failure, AccessDenied):
                if self._logged.get(url) != str(failure):
                    self._logged[url] = str(failure)
                    log.warning("%s; the server is asked again from time to time", failure)
            elif follower.versions_known and url in self._logged:
                del self._logged[url]
                log.info("%s lets this node read now", url, extra=about(server=url))
