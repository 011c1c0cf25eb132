"""Announcements of ``shardcast-client --follow``: ``latest``, ``--keep``, the hook, a line of JSON."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import click

from shardcast.cli.client import release_as_dict
from shardcast.nodes.hook import NEW_LINE, WITHDRAWN, WITHDRAWN_REASON, run_hook
from shardcast.nodes.outputs import OutputFolder
from shardcast.nodes.release import Release, origin_name
from shardcast.nodes.release_folder import finish_announcing, restore_latest, start_announcing
from shardcast.protocol.distribution import Withdrawal
from shardcast.protocol.wire import version_name

log = logging.getLogger(__name__)


class Announcer:
    """Announcer of followed versions and their withdrawals, of which it handles one at a time."""

    def __init__(self, folder: Path, keep: int | None, hook: str | None) -> None:
        """Take over the output folder.

        Args:
            folder: the output folder, absolute.
            keep: number of followed versions that stay in the folder; None for all.
            hook: command for ``sh -c``; None for none.
        """
        self._outputs = OutputFolder(folder)
        self._keep = keep
        self._hook = hook
        self._turn = asyncio.Lock()

    async def announce_release(self, release: Release) -> None:
        """Announce a version whose file is complete in the output folder.

        Raises:
            LocalDiskError: the folder can't be written.
        """
        async with self._turn:
            if not await asyncio.to_thread(start_announcing, self._outputs, release, self._keep):
                return
            if self._hook:
                variables = {NEW_LINE: origin_name(release.origin)} if release.new_line else {}
                await run_hook(self._hook, release.path, release.version, variables)
            # Marked first: a kill in between loses the line rather than printing it twice.
            finish_announcing(self._outputs, release)
            message = {**release_as_dict(release), "origin": release.origin, "new_line": release.new_line}
            click.echo(json.dumps(message))

    async def announce_withdrawal(self, withdrawal: Withdrawal) -> None:
        """Point ``latest`` to the newest good version, and announce the withdrawal.

        Raises:
            LocalDiskError: the folder can't be written.
        """
        # Before taking the turn: a hook that runs now may take hours, and ``latest`` must not point to a
        # withdrawn version meanwhile.
        await asyncio.to_thread(restore_latest, self._outputs, withdrawal)
        async with self._turn:
            # Again: the turn that ended just now may have announced the withdrawn version.
            good = await asyncio.to_thread(restore_latest, self._outputs, withdrawal)
            latest = version_name(good[0]) if good else None
            log.warning(
                "%s was withdrawn by its publisher%s; %s",
                withdrawal.version,
                f": {withdrawal.reason}" if withdrawal.reason else "",
                f"latest is {latest}" if latest else "no good version is here",
            )
            if self._hook:
                path = good[1] if good else self._outputs.path_of(withdrawal)
                variables = {WITHDRAWN: withdrawal.version, WITHDRAWN_REASON: withdrawal.reason}
                await run_hook(self._hook, path, latest or withdrawal.version, variables)
            message = {"withdrawn": withdrawal.version, "reason": withdrawal.reason, "latest": latest}
            click.echo(json.dumps(message))
