"""Options about limits of bytes a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shardcast.cli.options import Rate, grouped, option

if TYPE_CHECKING:
    from shardcast.fair_limit import FairLimit

AddOptions = Callable[[Callable[..., Any]], Callable[..., Any]]
"""A decorator of commands."""


@dataclass(frozen=True)
class UploadLimitOptions:
    """Limits of a command's sending, in bytes a second; None for no limit."""

    upload_limit: int | None
    upload_limit_per_address: int | None

    def load(self) -> FairLimit | None:
        """Return the limit; None where no option sets one.

        Raises:
            UsageError: a limit is too low.
        """
        from shardcast.fair_limit import FairLimit

        return FairLimit.of(self.upload_limit, self.upload_limit_per_address)


@dataclass(frozen=True)
class DownloadLimitOptions:
    """Limits of a command's receiving, in bytes a second; None for no limit."""

    download_limit: int | None
    download_limit_per_address: int | None

    def load(self) -> FairLimit | None:
        """Return the limit; None where no option sets one.

        Raises:
            UsageError: a limit is too low.
        """
        from shardcast.fair_limit import FairLimit

        return FairLimit.of(self.download_limit, self.download_limit_per_address)


upload_limit_options: AddOptions = grouped(
    "upload_limits",
    UploadLimitOptions,
    option(
        "--upload-limit",
        type=Rate(),
        help="Bytes a second to send at most, to all readers together, shared fairly: 50MB.",
    ),
    option(
        "--upload-limit-per-address",
        type=Rate(),
        help="Bytes a second to send at most to one address; a --trusted-proxy is not limited.",
    ),
)
download_limit_options: AddOptions = grouped(
    "download_limits",
    DownloadLimitOptions,
    option(
        "--download-limit",
        type=Rate(),
        help="Bytes a second to receive at most, from all servers together: 50MB.",
    ),
    option(
        "--download-limit-per-address",
        type=Rate(),
        help="Bytes a second to receive at most from one server.",
    ),
)
push_limit_option: AddOptions = option(
    "--upload-limit", type=Rate(), help="Bytes a second to send at most: 50MB."
)
