"""Options of a client for sharing."""

from __future__ import annotations

from dataclasses import Field, dataclass, fields
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from shardcast.cli.guarded_options import PortOption
from shardcast.cli.limit_options import AddOptions
from shardcast.cli.options import Duration, Rate, grouped, option

if TYPE_CHECKING:
    from shardcast.nodes.sharing_settings import SharingSettings


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
            UsageError: another option of sharing is given on the command line without --share, or one is
                malformed.
        """
        if not self.share:
            given = [name for name in map(_option_name, fields(self)) if is_on_command_line(name)]
            if given:
                raise click.UsageError(f"{', '.join(given)} can't be given without --share")
            return None
        from shardcast.fair_limit import FairLimit
        from shardcast.nodes.sharing_settings import SharingSettings

        return SharingSettings(
            host=self.share_host,
            port=self.port,
            uploads=FairLimit.of(self.upload_limit, None),
            seed_for=self.seed_for,
            site=self.site,
            advertise=self.advertise,
        )


def _option_name(field: Field[Any]) -> str:
    """Return the option of a field."""
    return "--" + field.name.replace("_", "-")


def is_on_command_line(option_name: str) -> bool:
    """Return whether an option was given on the command line.

    A variable does not count: SHARDCAST_UPLOAD_LIMIT may be set for the nodes of a machine.
    """
    name = option_name.strip("-").replace("-", "_")
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


sharing_options: AddOptions = grouped(
    "sharing",
    SharingOptions,
    option(
        "--share",
        is_flag=True,
        help="Pass received pieces on to other clients, during the download and after.",
    ),
    option("--share-host", default="::", help="With --share: the address to listen on."),
    option(
        "--port",
        cls=PortOption,
        env="SHARE_PORT",
        type=click.IntRange(0, 65535),
        default=0,
        help="With --share: the port to listen on; 0 picks a free one.",
    ),
    option(
        "--upload-limit",
        type=Rate(),
        help="With --share: bytes a second to send to other clients at most: 50MB.",
    ),
    option(
        "--seed-for",
        type=Duration(),
        help="With --share and --version: go on sharing for so long after the download: 10m.",
    ),
    option(
        "--site",
        help="With --share: the name of this machine's site; each piece enters a site once. By "
        "default guessed from the address.",
    ),
    option(
        "--advertise",
        metavar="HOST[:PORT]",
        help="With --share: the address of this client for others, if the servers allow this address.",
    ),
)
