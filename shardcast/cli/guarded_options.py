"""Options whose environment variables others may set for something else."""

from __future__ import annotations

import os

import click

from shardcast.constants import HOOK_VARIABLES, IN_HOOK, is_service_link
from shardcast.protocol.distribution import is_version


class GuardedOption(click.Option):
    """An option whose variables may have another meaning; such values count as missing.

    The environment of a hook describes its version in variables that commands in the hook must not read as
    options.
    """

    def is_meant(self, variable: str, value: str) -> bool:
        """Return whether a variable's value is meant for this option, outside of a hook."""
        return True

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Return the value of the first variable meant for this option."""
        names = [self.envvar] if isinstance(self.envvar, str) else self.envvar or ()
        told = HOOK_VARIABLES if IN_HOOK in os.environ else ()
        values = ((name, os.environ.get(name, "")) for name in names if name not in told)
        return next((value for name, value in values if value and self.is_meant(name, value)), None)


class PortOption(GuardedOption):
    """Option for a port; Kubernetes gives variables of such names to all containers."""

    def is_meant(self, variable: str, value: str) -> bool:
        """Return whether the value is none of Kubernetes."""
        return not is_service_link(value)


class VersionOption(GuardedOption):
    """Option for a version; images say their own as ``SHARDCAST_VERSION=0.4.0``."""

    def is_meant(self, variable: str, value: str) -> bool:
        """Return whether the value names a version to download."""
        return variable != "SHARDCAST_VERSION" or value == "latest" or is_version(value)


version_option = click.option(
    "--version",
    cls=VersionOption,
    envvar=["SHARDCAST_FETCH_VERSION", "SHARDCAST_VERSION"],
    show_envvar=True,
    help="The version to download: v1, v2, …, latest, or a tag.",
)
