"""Options of a client that passes on what it receives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from shardcast.cli.limit_options import AddOptions
from shardcast.cli.options import Duration, Size, grouped, option

if TYPE_CHECKING:
    from shardcast.nodes.sharing_listener import SharingSettings


@dataclass(frozen=True)
class SharingOptions:
    """Whether, where and for how long a client shares."""

    share: bool = False
    share_host: str = "::"
    port: int = 0
    upload_limit: int | None = None
    seed_for: float | None = None
    site: str | None = None
    advertise: str | None = None

    def load(self) -> SharingSettings | None:
        """Return the settings of sharing; None where the client shares nothing.

        Raises:
            UsageError: another option of sharing is given without --share, or one is malformed.
        """
        if not self.share:
            if replace(self, share=True) != SharingOptions(share=True):
                raise click.UsageError(
                    "--port, --upload-limit, --seed-for, --site and --advertise need --share"
                )
            return None
        from shardcast.fair_limit import FairLimit
        from shardcast.nodes.sharing_listener import SharingSettings

        return SharingSettings(
            host=self.share_host,
            port=self.port,
            uploads=FairLimit.of(self.upload_limit, None),
            seed_for=self.seed_for,
            site=self.site,
            advertise=self.advertise,
        )


sharing_options: AddOptions = grouped(
    "sharing",
    SharingOptions,
    option(
        "--share", is_flag=True, help="Pass on to other clients what is here, while it arrives and after."
    ),
    option("--share-host", default="::", help="With --share: the address to listen on."),
    option(
        "--port",
        env="SHARE_PORT",
        type=click.IntRange(0, 65535),
        default=0,
        help="With --share: the port to listen on; 0 picks a free one.",
    ),
    option(
        "--upload-limit",
        type=Size(),
        help="With --share: bytes a second to send to other clients at most: 50MB.",
    ),
    option(
        "--seed-for",
        type=Duration(),
        help="With --share and --version: stay and share for so long after the download: 10m.",
    ),
    option(
        "--site",
        help="With --share: the name of this machine's site, into which pieces cross once; guessed from its "
        "address where it is missing.",
    ),
    option(
        "--advertise",
        metavar="HOST[:PORT]",
        help="With --share: where others reach this client, if the servers allow that address.",
    ),
)
