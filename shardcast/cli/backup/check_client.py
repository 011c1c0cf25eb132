"""A client's check of its snapshots at the server: ``shardcast backup check`` without a store."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from shardcast.backup.client.checking import CheckCounts, SnapshotCheck
from shardcast.backup.client.snapshot_choice import snapshots_of
from shardcast.cli import options
from shardcast.cli.backup.snapshot_source import SnapshotSource
from shardcast.cli.exit_codes import DONE, INTEGRITY
from shardcast.cli.progress import progress_display
from shardcast.cli.streams import print_answer
from shardcast.plain_text import one_line
from shardcast.sizes import format_count, format_size

_MAX_PROBLEMS = 10_000
"""Maximum problems in the JSON: one lost pack can harm each file of a hundred snapshots."""


def check_client(source: SnapshotSource, part: tuple[int, int] | None, as_json: bool) -> int:
    """Check the snapshots of a folder, print the damage and the damaged snapshots, and return the exit code.

    Args:
        source: the options that name the client.
        part: the part of the bytes to read, and the number of parts; None to read none.
        as_json: whether the result is printed as JSON.

    Raises:
        ShardcastError: the server does not answer.
    """
    problems: list[dict[str, str]] = []
    omitted = 0

    def tell(snapshot: str, path: str, text: str) -> None:
        nonlocal omitted
        if as_json and len(problems) < _MAX_PROBLEMS:
            problems.append({"snapshot": snapshot, "path": path, "problem": text})
        elif as_json:
            omitted += 1
        else:
            print_answer(one_line(f"{snapshot} {path}: {text}", 8192))

    with source.open() as opened, progress_display(options.is_quiet()) as display:
        found = snapshots_of(opened.server.snapshots(), opened.folder)
        check = SnapshotCheck(opened.server, opened.reader, part, tell)
        counts = check.counts
        check.progress = lambda: display.show("check", counts.bytes, None, f"{counts.chunks} chunks")
        check.run([one.id for one in found])
    if as_json:
        print_answer(json.dumps({**asdict(counts), "problems": problems, "problems_omitted": omitted}))
    elif not options.is_quiet():
        click.echo(_summary(counts), err=True)
    return INTEGRITY if counts.hurt or counts.damaged else DONE


def _summary(counts: CheckCounts) -> str:
    """Return the checked and damaged numbers as one line."""
    read = f", {counts.read} of them read ({format_size(counts.bytes)})" if counts.read else ""
    what = f"{format_count(counts.snapshots, 'snapshot')}, {format_count(counts.chunks, 'chunk')}{read}"
    if not counts.hurt and not counts.damaged:
        return f"{what}: all is there"
    return (
        f"{what}: {format_count(counts.damaged, 'chunk')} damaged or gone, which hurts "
        f"{format_count(counts.hurt, 'snapshot')}; the next backup mends what it still has"
    )
