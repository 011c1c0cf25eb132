"""Settings of a client's sharing: plain values, and checks of their texts."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from shardcast.errors import UsageError
from shardcast.fair_limit import FairLimit
from shardcast.policy.swarm.addresses import LOWEST_PORT
from shardcast.protocol.swarm_members import Place, read_host, read_port, read_site
from shardcast.protocol.wire import MAX_SITE
from shardcast.server.binding import EVERY_ADDRESS


@dataclass(frozen=True, slots=True)
class SharingSettings:
    """Settings of a client's sharing.

    Attributes:
        host: the address to listen on.
        port: the port; 0 picks a free one.
        uploads: limit of the bytes sent to neighbours; None for no limit.
        seed_for: seconds of sharing after a download; None for as long as the client runs.
        site: the name of this node's site; None to let the servers guess.
        advertise: ``HOST[:PORT]`` at which others reach this node, if servers see another address; None for
            none.
    """

    host: str = EVERY_ADDRESS
    port: int = 0
    uploads: FairLimit | None = None
    seed_for: float | None = None
    site: str | None = None
    advertise: str | None = None

    def __post_init__(self) -> None:
        """Check the settings before anything is begun.

        Raises:
            UsageError: neighbours connect to no such port, or the site or the address is malformed.
        """
        if 0 < self.port < LOWEST_PORT:
            raise UsageError(
                f"can't share on port {self.port}: neighbours connect to ports from {LOWEST_PORT} on; choose "
                "such a port, or 0 for any"
            )
        checked_site(self.site)
        if self.advertise is not None:
            advertised_place(self.advertise, self.port or LOWEST_PORT)


def advertised_place(text: str, port: int) -> Place:
    """Return the address in ``HOST[:PORT]``, with ``port`` by default.

    Raises:
        UsageError: ``text`` is no IP address of one machine, or no neighbour connects to this port.
    """
    host, colon, number = text.rpartition(":")
    if not colon or (":" in host and not host.endswith("]")):
        host, number = text, str(port)
    try:
        place = Place(read_host(host.strip("[]")), read_port(int(number)))
    except ValueError:
        raise UsageError(f"{text!r} is no address to advertise; write 10.0.0.7 or 10.0.0.7:9000") from None
    address = ip_address(place.host)
    if address.is_unspecified or address.is_multicast:
        raise UsageError(f"{text!r} is no address of one machine; advertise where others reach this node")
    if number != str(port) and place.port < LOWEST_PORT:
        raise UsageError(
            f"can't advertise port {place.port}: neighbours connect to ports from {LOWEST_PORT} on"
        )
    return place


def checked_site(site: str | None) -> str | None:
    """Return the name of a site, unchanged.

    Raises:
        UsageError: a server would refuse the name.
    """
    try:
        return None if site is None else read_site(site)
    except ValueError:
        raise UsageError(
            f"{site!r} is no name of a site: write at most {MAX_SITE} letters, digits and ._:/-, beginning "
            "with a letter or a digit"
        ) from None
