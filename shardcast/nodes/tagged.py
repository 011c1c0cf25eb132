"""The version that a tag means."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from shardcast.errors import VersionNotOffered
from shardcast.nodes.offers import describe_offers
from shardcast.nodes.release import Offered
from shardcast.peer.server import Peer
from shardcast.policy.standing import Standing

log = logging.getLogger(__name__)


async def find_tagged(standing: Standing, peers: Mapping[str, Peer], tag: str) -> str:
    """Return the name of the newest version on offer that has a tag.

    Raises:
        VersionNotOffered: none has it.
    """
    offered = await describe_offers(standing, peers)
    found = next((version for version in reversed(offered) if tag in version.tags), None)
    number = found.listing.number if found else 0
    unknown = [item.listing.version for item in offered if not item.header and item.listing.number > number]
    if found is None:
        raise VersionNotOffered(_missing_tag(standing, tag, offered, unknown))
    if unknown:
        log.warning("no server tells the tags of %s, which %r may mean too", ", ".join(unknown), tag)
    log.info("%s is %s", tag, found.listing.version)
    return found.listing.version


def _missing_tag(standing: Standing, tag: str, offered: list[Offered], unknown: list[str]) -> str:
    """Return the words for a tag that no version on offer has, as far as servers tell."""
    names = "; ".join(", ".join((version.listing.version, *version.tags)) for version in offered)
    hint = f" (version {tag} is v{tag})" if tag.isdigit() else ""
    more = f"; no server tells the tags of {', '.join(unknown)}" if unknown else ""
    servers = ", ".join(standing.group.servers)
    return f"{servers}: no version has the tag {tag!r}; on offer: {names or 'nothing yet'}{hint}{more}"
