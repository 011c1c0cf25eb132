"""Versions as a reader names them: by name, number, ``latest`` or a tag."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from shardcast.errors import UsageError, VersionNotOffered
from shardcast.log_fields import about
from shardcast.nodes.offers import describe_offers
from shardcast.nodes.release import Offered
from shardcast.peer.server import Peer
from shardcast.policy.standing import Standing
from shardcast.protocol.distribution import is_version
from shardcast.protocol.tags import is_tag
from shardcast.protocol.wire import version_name
from shardcast.upstream.lists import LATEST

log = logging.getLogger(__name__)


def version_text(version: str | int, *, tags: bool = True) -> str:
    """Return a program's name for a version as text: a version's name, "latest" or a tag.

    A number stands for the version with this number.

    Raises:
        UsageError: the value is none of these, or a tag, and not ``tags``.
    """
    if isinstance(version, int) and not isinstance(version, bool) and version > 0:
        return version_name(version)
    if version == LATEST or (
        isinstance(version, str) and (is_version(version) or (tags and is_tag(version)))
    ):
        return version
    raise UsageError(
        f"{version!r} is not a version; write v1, v2, … or {LATEST}{', or a tag' if tags else ''}"
    )


async def find_tagged(standing: Standing, peers: Mapping[str, Peer], tag: str) -> str:
    """Return the name of the newest version on offer with a tag.

    Raises:
        VersionNotOffered: no version has the tag.
    """
    offered = await describe_offers(standing, peers)
    found = next((version for version in reversed(offered) if tag in version.tags), None)
    number = found.listing.number if found else 0
    unknown = [item.listing.version for item in offered if not item.header and item.listing.number > number]
    if found is None:
        raise VersionNotOffered(_missing_tag(standing, tag, offered, unknown))
    if unknown:
        log.warning(
            "the newest version known to have the tag %r is %s; no server tells the tags of the newer %s",
            tag,
            found.listing.version,
            ", ".join(unknown),
        )
    log.info("%s is %s", tag, found.listing.version, extra=about(version=found.listing.version))
    return found.listing.version


def _missing_tag(standing: Standing, tag: str, offered: list[Offered], unknown: list[str]) -> str:
    """Return the message about a tag without a version on offer, as far as servers tell."""
    names = "; ".join(", ".join((version.listing.version, *version.tags)) for version in offered)
    hint = f" (version {tag} is v{tag})" if tag.isdigit() else ""
    more = f"; no server tells the tags of {', '.join(unknown)}" if unknown else ""
    servers = ", ".join(standing.group.servers)
    return f"{servers}: no version has the tag {tag!r}; on offer: {names or 'nothing yet'}{hint}{more}"
