"""``shardcast-client --follow``: the options, and the announcement of new versions."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardcast.cli import options
from shardcast.cli.waiting import note_waits
from shardcast.concurrency import background_task
from shardcast.protocol.distribution import is_version

if TYPE_CHECKING:
    from shardcast.cli.progress import ShowTransfer
    from shardcast.nodes.client import Client

CONTINUE, STOP = "continue", "stop"
_ALL = "all"
_MAX_DIGITS = 18


class Keep(click.ParamType[int | None]):
    """Type of a number of versions, or ``all``."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """Return the number; None for all."""
        text = str(value)
        if text == _ALL:
            return None
        if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and int(text)):
            self.fail(f"{text!r} is no number of versions; write 1, 2, … or all", param, ctx)
        return int(text)


@dataclass(frozen=True)
class FollowOptions:
    """Options of ``--follow`` only.

    Attributes:
        first: the first version to follow, or ``latest``; None to continue after the last run.
        every: whether to fetch also versions overtaken by a newer one.
        keep: number of followed versions to keep in the output folder; None for all.
        hook: command for ``sh -c``, run for each version.
        on_hook_failure: ``CONTINUE`` or ``STOP``.
    """

    first: str | None = None
    every: bool = False
    keep: int | None = 2
    hook: str | None = None
    on_hook_failure: str = CONTINUE

    def check(self) -> None:
        """Check the first version.

        Raises:
            UsageError: the text is no version's name.
        """
        if self.first not in (None, "latest") and not is_version(str(self.first)):
            raise click.UsageError(f"--from {self.first!r}: write v1, v2, … or latest")


follow_options = options.grouped(
    "following",
    FollowOptions,
    options.option(
        "--from",
        "first",
        metavar="VERSION",
        help="The first version to follow: v1, v2, … or latest; by default the one after the last run's.",
    ),
    options.option(
        "--every",
        is_flag=True,
        help="Download every version, even if they come faster than they can be fetched.",
    ),
    options.option(
        "--keep",
        type=Keep(),
        default="2",
        metavar="NUMBER|all",
        help="The number of followed versions to keep; older ones are removed.",
    ),
    options.option(
        "--exec",
        "hook",
        metavar="COMMAND",
        help="A command for each version, run by sh -c: 'load {path} {version}'.",
    ),
    options.option(
        "--on-hook-failure",
        type=click.Choice([CONTINUE, STOP]),
        default=CONTINUE,
        help="Whether to go on or to end after a failure of --exec.",
    ),
)


async def follow_versions(
    shardcast_client: Client, folder: Path, following: FollowOptions, shown: ShowTransfer
) -> None:
    """Download versions into the folder and announce each; runs until a failure or cancellation.

    Args:
        shardcast_client: the downloading client.
        folder: the output folder, absolute.
        following: the versions to follow and to keep, and the hook.
        shown: shows the client's transfers.

    Raises:
        HookFailed: the hook failed, with ``--on-hook-failure stop``.
        ShardcastError: following failed; as for ``Client.follow``.
    """
    from shardcast.cli.announcer import Announcer
    from shardcast.cli.sharing_notes import describe_given, describe_sources
    from shardcast.nodes.client import LATEST
    from shardcast.nodes.hook import Hook
    from shardcast.nodes.release_folder import can_resume, check_folder

    check_folder(folder)
    resume = following.first is None and can_resume(folder)
    stops = following.on_hook_failure == STOP
    hook = Hook(following.hook, folder, stops) if following.hook else None
    announcer = Announcer(folder, following.keep, hook)
    running = asyncio.current_task()
    assert running
    announcer.failure.add_done_callback(lambda _: running.cancel())
    async with (
        shardcast_client,
        background_task(shown.run()),
        background_task(note_waits(shardcast_client.waits, shown.note)),
    ):
        releases = shardcast_client.follow(
            following.first or LATEST,
            following.every,
            watch=shown.watch,
            resume=resume,
            on_withdrawn=announcer.announce_withdrawal,
            latest=False,
        )
        try:
            async for release in releases:
                shown.pause()
                if release.neighbours:
                    shown.note(describe_sources(release))
                await announcer.announce_release(release)
        except asyncio.CancelledError:
            if announcer.failure.done():
                announcer.failure.result()
            raise
        finally:
            await releases.aclose()
            if shardcast_client.is_sharing:
                shown.note(describe_given(shardcast_client.given))
