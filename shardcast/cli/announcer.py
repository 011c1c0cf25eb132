"""What ``shardcast-client --follow`` does for a version: ``latest``, ``--keep``, the hook, a line of JSON."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path

import click

from shardcast.cli.client import release_as_dict
from shardcast.nodes.outputs import OutputFolder, output_name
from shardcast.nodes.release import Release, origin_name
from shardcast.nodes.release_folder import (
    NEW_LINE,
    WITHDRAWN,
    WITHDRAWN_REASON,
    announce,
    announced,
    go_back,
    run_hook,
)
from shardcast.protocol.distribution import Withdrawal
from shardcast.protocol.wire import version_name

log = logging.getLogger(__name__)


class Announcer:
    """Announces versions and withdrawals, one after the other."""

    def __init__(self, folder: Path, keep: int | None, hook: str | None) -> None:
        self._outputs = OutputFolder(folder)
        self._keep = keep
        self._hook = hook
        self._turn = asyncio.Lock()

    async def release(self, release: Release) -> None:
        """Announce a version that is here.

        Raises:
            LocalDiskError: the folder can't be written.
        """
        async with self._turn:
            if not await asyncio.to_thread(announce, self._outputs, release, self._keep):
                return
            if self._hook:
                variables = {NEW_LINE: origin_name(release.origin)} if release.new_line else {}
                await run_hook(self._hook, release.path, release.version, variables)
            announced(self._outputs, release)  # the line comes once, and at once
            told = {**release_as_dict(release), "origin": release.origin, "new_line": release.new_line}
            click.echo(json.dumps(told))

    async def withdrawn(self, withdrawal: Withdrawal) -> None:
        """Go back to a good version, and announce that.

        Raises:
            LocalDiskError: the folder can't be written.
        """
        await asyncio.to_thread(go_back, self._outputs, withdrawal)  # at once, whatever hook runs
        async with self._turn:
            # Again: the version may have been announced just before it was withdrawn.
            good = await asyncio.to_thread(go_back, self._outputs, withdrawal)
            latest = version_name(good[0]) if good else None
            log.warning(
                "%s was withdrawn by its publisher%s; %s",
                withdrawal.version,
                f": {withdrawal.reason}" if withdrawal.reason else "",
                f"latest is {latest}" if latest else "no good version is here",
            )
            if self._hook:
                path = good[1] if good else self._outputs.folder / output_name(withdrawal.version)
                variables = {WITHDRAWN: withdrawal.version, WITHDRAWN_REASON: withdrawal.reason}
                await run_hook(self._hook, path, latest or withdrawal.version, variables)
            told = {"withdrawn": withdrawal.version, "reason": withdrawal.reason, "latest": latest}
            click.echo(json.dumps(told))
