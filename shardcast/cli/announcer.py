"""Announcements of ``shardcast-client --follow``: ``latest``, ``--keep``, the hook, a line of JSON."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import click

from shardcast.cli.client import release_as_dict
from shardcast.log_fields import about
from shardcast.nodes.hook import (
    METADATA,
    NAME,
    NEW_LINE,
    PREVIOUS_PATH,
    WITHDRAWN,
    WITHDRAWN_REASON,
    Hook,
    HookFailed,
    name_variable,
)
from shardcast.nodes.outputs import OutputFolder
from shardcast.nodes.release import Release, origin_name
from shardcast.nodes.release_folder import (
    finish_announcing,
    previous_output,
    restore_latest,
    start_announcing,
)
from shardcast.protocol.distribution import Withdrawal
from shardcast.protocol.wire import version_name

log = logging.getLogger(__name__)


class Announcer:
    """Announcer of followed versions and their withdrawals, one at a time.

    Attributes:
        failure: gets the failure of a hook for a withdrawal, if the failure ends following.
    """

    def __init__(self, folder: Path, keep: int | None, hook: Hook | None) -> None:
        """Prepare announcements; nothing is read or written yet.

        Args:
            folder: the output folder, absolute.
            keep: number of followed versions to keep in the folder; None for all.
            hook: the hook; None for none.
        """
        self._outputs = OutputFolder(folder)
        self._keep = keep
        self._hook = hook
        self._turn = asyncio.Lock()
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def announce_release(self, release: Release) -> None:
        """Announce a version whose file is complete in the output folder, unless it was withdrawn.

        Point ``latest`` to the version, run the hook, remove versions beyond ``keep``, and print the line.

        Raises:
            HookFailed: the hook failed, and is to stop the following.
            LocalDiskError: the folder can't be written.
        """
        async with self._turn:
            previous = await asyncio.to_thread(previous_output, self._outputs, release)
            if not await asyncio.to_thread(start_announcing, self._outputs, release):
                return
            if self._hook:
                await self._hook.run(release.path, release.version, _variables(release, previous))
            # Marked first: a kill in between loses the line instead of printing it twice.
            await asyncio.to_thread(finish_announcing, self._outputs, release, self._keep)
            message = {**release_as_dict(release), "origin": release.origin, "new_line": release.new_line}
            click.echo(json.dumps(message))

    async def announce_withdrawal(self, withdrawal: Withdrawal) -> None:
        """Point ``latest`` to the newest good version, run the hook, and print the line.

        Raises:
            CancelledError: the hook failed, and is to stop the following; ``failure`` has its error.
            LocalDiskError: the folder can't be written.
        """
        # Before waiting for the turn: a running hook may take hours, and ``latest`` must not point to a
        # withdrawn version meanwhile.
        await asyncio.to_thread(restore_latest, self._outputs, withdrawal)
        async with self._turn:
            # Again: the turn just ended may have announced the withdrawn version.
            good = await asyncio.to_thread(restore_latest, self._outputs, withdrawal)
            latest = version_name(good[0]) if good else None
            log.warning(
                "%s was withdrawn by its publisher%s; %s",
                withdrawal.version,
                f": {withdrawal.reason}" if withdrawal.reason else "",
                f"latest is {latest}" if latest else "no good version is here",
                extra=about(version=withdrawal.version),
            )
            if self._hook:
                withdrawn = await asyncio.to_thread(self._outputs.path_of, withdrawal)
                path = good[1] if good else withdrawn
                variables = {
                    WITHDRAWN: withdrawal.version,
                    WITHDRAWN_REASON: withdrawal.reason,
                    PREVIOUS_PATH: str(withdrawn) if withdrawn.exists() else "",
                }
                try:
                    await self._hook.run(path, latest or withdrawal.version, variables)
                except HookFailed as error:
                    self.failure.set_exception(error)
                    # Not noted as told: the next run tells of the withdrawal again.
                    raise asyncio.CancelledError from error
            message = {"withdrawn": withdrawal.version, "reason": withdrawal.reason, "latest": latest}
            click.echo(json.dumps(message))


def _variables(release: Release, previous: Path | None) -> dict[str, str]:
    """Return the environment variables of a hook about a version, beside its name and path."""
    variables = {
        NAME: name_variable(release.manifest.header.content_name),
        METADATA: json.dumps(dict(release.metadata)),
        PREVIOUS_PATH: str(previous or ""),
    }
    return variables | ({NEW_LINE: origin_name(release.origin)} if release.new_line else {})
