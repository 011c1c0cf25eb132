"""``shardcast-client``: list, download and follow versions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardcast.cli import options
from shardcast.cli.access_options import ClientAccessOptions, client_access_options
from shardcast.cli.folder_options import ReceivedFolderOptions, folder_options
from shardcast.cli.follow import FollowOptions, follow_options, follow_versions
from shardcast.cli.guarded_options import version_option
from shardcast.cli.limit_options import DownloadLimitOptions, download_limit_options
from shardcast.cli.sharing_options import SharingOptions, is_on_command_line, sharing_options
from shardcast.cli.streams import print_answer
from shardcast.cli.tables import format_table
from shardcast.cli.waiting import note_waits
from shardcast.concurrency import background_task

if TYPE_CHECKING:
    from shardcast.cli.progress import Display, ShowTransfer
    from shardcast.nodes.client import Client, Offered, Release
    from shardcast.protocol.manifest import Manifest


_COLUMNS = ("VERSION", "DIGEST", "SHARDS", "SIZE", "NAME", "TAGS")
"""Columns of ``--list``."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@options.option("--servers", type=options.ServerList(), help="Servers to download from, comma-separated.")
@options.option("--list", "list_versions", is_flag=True, env="LIST", help="Print the versions on offer.")
@options.option("--files", "contents", metavar="VERSION", help="With --list: print the entries of a folder.")
@options.option(
    "--verify",
    metavar="FOLDER|shards|whole",
    help="Compare a downloaded folder with its version, and print the differences. With --version or "
    "--follow: verify a folder by the digests of its shards, or by the whole digest; by default by "
    "the whole one, unless a part was here.",
)
@version_option
@options.option(
    "--output-file",
    type=click.Path(readable=False),
    help="The path of the file or folder; by default <output-dir>/download_<version>.bin, or "
    "<output-dir>/<version> for a folder.",
)
@options.option(
    "--output-dir",
    type=click.Path(path_type=Path, readable=False),
    default="./downloads",
    help="The folder for downloads.",
)
@options.option(
    "--wait",
    metavar="[SECONDS]",
    type=options.Duration(),
    is_flag=False,
    flag_value=math.inf,
    help="With --version: wait for a version not on offer yet, and for a server: 90s, 10m. Without "
    "SECONDS: wait without limit.",
)
@options.option(
    "--offline",
    is_flag=True,
    help="With --version: when no server answers within 2 s, or --wait, give what was verified here before.",
)
@options.option(
    "--output-name",
    metavar="TEMPLATE",
    help="The name in the folder for downloads, such as '{version}/{name}'; also {number}, {stem}, "
    "{suffix} and {tag}.",
)
@options.option("--follow", is_flag=True, help="Keep running, and download each new version.")
@follow_options
@folder_options("folders")
@options.origin_id_option
@client_access_options
@download_limit_options
@sharing_options
@options.json_option
@options.logging_options
def client(
    *,
    servers: list[str] | None,
    list_versions: bool,
    contents: str | None,
    verify: str | None,
    version: str | None,
    output_file: str | None,
    output_dir: Path,
    output_name: str | None,
    wait: float | None,
    offline: bool,
    follow: bool,
    following: FollowOptions,
    folders: ReceivedFolderOptions,
    origin_id: str | None,
    client_access: ClientAccessOptions,
    download_limits: DownloadLimitOptions,
    sharing: SharingOptions,
    as_json: bool,
) -> None:
    """Download a version into a file or folder; the name appears only when every byte is verified.

    Without --servers the servers are those of IP_ADDR_LIST. An interrupted download continues from the bytes
    already here.

    With --follow each new version is downloaded into the output folder, and then announced: the link "latest"
    there points to the version, --exec runs, and a line of JSON is printed. A version under way is finished
    first; if several have come meanwhile, the newest is next. If the command ends before --exec has ended,
    the next run begins with the same version, and runs --exec again.

    If the publisher begins anew, with v1 of another line, SHARDCAST_NEW_LINE is set for --exec. If the
    publisher withdraws a version, "latest" goes back to the newest good one here, and --exec runs for this
    one with SHARDCAST_WITHDRAWN and SHARDCAST_WITHDRAWN_REASON. --keep counts the followed versions of each
    line; older ones are removed after --exec.

    With --share, received pieces are passed on to other sharing clients, during the download and as long as
    the command runs, straight from the output file: many clients then need little of the servers' upload.
    """
    options.start_logging()
    receives = version is not None or follow
    if [list_versions, version is not None, follow, verify is not None and not receives].count(True) != 1:
        raise click.UsageError(
            "give one of --list, --version v1 (latest, a tag), --follow and --verify FOLDER"
        )
    if contents is not None and not list_versions:
        raise click.UsageError("--files goes with --list")
    if verify is not None and not receives:
        from shardcast.cli.folder_contents import verify_output

        verify_output(Path(verify), as_json)
        return
    urls = options.servers_or_ip_addr_list(servers, "--servers")
    following_given = any(is_on_command_line(option) for option in ("--keep", "--on-hook-failure"))
    if not follow and (following_given or following != FollowOptions()):
        raise click.UsageError("--from, --every, --keep, --exec and --on-hook-failure belong to --follow")
    if version is None and is_on_command_line("--wait"):
        raise click.UsageError("--wait goes with --version; --follow waits for each version by itself")
    if offline and version is None:
        raise click.UsageError(
            "--offline goes with --version; without a server, --follow leaves its folder as it is"
        )
    from shardcast.cli.progress import ShowTransfer, note_display, progress_display
    from shardcast.nodes.client import Client
    from shardcast.nodes.runtime import Terminated, run

    access, downloads, shared = client_access.load(), download_limits.load(), sharing.load()
    if list_versions and is_on_command_line("--share"):
        raise click.UsageError("--share goes with --version and --follow")
    if output_name is not None and (list_versions or output_file is not None):
        raise click.UsageError("--output-name goes with --version and --follow, and not with --output-file")
    if follow and is_on_command_line("--seed-for"):
        raise click.UsageError("--seed-for goes with --version; --follow shares for as long as it runs")
    if follow:
        if output_file is not None:
            raise click.UsageError("--follow names the files itself; give --output-dir")
        following.check()
        follower = Client(
            urls,
            output_dir.absolute(),
            origin_id=origin_id,
            access=access,
            downloads=downloads,
            sharing=replace(shared, seed_for=None) if shared else None,
            folders=folders.load(verify),
            output_name=output_name,
        )
        with progress_display(options.is_quiet()) as display:
            shown = ShowTransfer(display)
            work = follow_versions(follower, output_dir.absolute(), following, shown)
            with shown.interruptible(), suppress(Terminated):  # SIGTERM is how a service is ended
                run(work, fast_loop=True)
        return
    if version is None:
        lister = Client(urls, origin_id=origin_id, access=access)
        if contents is not None:
            from shardcast.cli.folder_contents import show_contents

            show_contents(run(_describe(lister, contents), fast_loop=True), as_json)
            return
        notes = note_display(options.is_quiet())
        show_offered(run(_list(lister, notes), fast_loop=True), as_json, notes.note)
        return
    with progress_display(options.is_quiet()) as display:
        shown = ShowTransfer(display)
        downloader = Client(
            urls,
            output_dir,
            origin_id=origin_id,
            access=access,
            downloads=downloads,
            sharing=shared,
            folders=folders.load(verify),
            output_name=output_name,
        )
        work = _download(
            downloader,
            version,
            output_file,
            shown,
            wait=wait or 0.0,
            offline=offline,
            as_json=as_json,
            seed_for=sharing.seed_for,
        )
        with shown.interruptible():
            run(work, fast_loop=True)


async def _list(shardcast_client: Client, notes: Display) -> list[Offered]:
    """Return the versions on offer, and note waits of more than some seconds."""
    async with (
        shardcast_client,
        background_task(note_waits(shardcast_client.waits, notes.note)),
    ):
        return await shardcast_client.offered()


async def _describe(shardcast_client: Client, version: str) -> Manifest:
    """Return the manifest of a version."""
    async with shardcast_client:
        return await shardcast_client.manifest(version)


async def _download(
    shardcast_client: Client,
    version: str,
    output_file: str | None,
    shown: ShowTransfer,
    *,
    wait: float,
    offline: bool,
    as_json: bool,
    seed_for: float | None,
) -> None:
    """Download a version, show the progress, print the path, and share the version for a while."""
    from shardcast.cli.sharing_notes import describe_given, describe_sources

    async with (
        shardcast_client,
        background_task(shown.run()),
        background_task(note_waits(shardcast_client.waits, shown.note)),
    ):
        release = await shardcast_client.download(
            version, output_file, shown.watch, wait=wait, offline=offline
        )
        shown.pause()
        if version in release.tags:
            shown.note(f"{version} is {release.version}")
        show_release(release, as_json)
        if release.neighbours is None:
            return
        shown.note(describe_sources(release))
        try:
            await shardcast_client.seed(seed_for or 0)
        finally:
            shown.note(describe_given(shardcast_client.given))


def show_offered(versions: list[Offered], as_json: bool, note: Callable[[str], None]) -> None:
    """Print a line for each version, oldest first: version, digest, shards, size, name; or all as JSON.

    The heading goes to stderr, so stdout has versions only.
    """
    if as_json:
        print_answer(json.dumps([_offered_as_dict(version) for version in versions], indent=2))
        return
    if not versions:
        note("there are no versions yet")
        return
    heading, *rows = format_table(_COLUMNS, [_offered_as_row(version) for version in versions])
    note(heading)
    print_answer("\n".join(rows))


def _offered_as_row(offered: Offered) -> tuple[str, ...]:
    """Return a version on offer as a row of ``_COLUMNS``."""
    values = _offered_as_dict(offered)
    name = f"{values['name']}/" if values["kind"] == "folder" else values["name"]
    columns = (
        values["version"],
        values["digest"],
        values["shards"],
        values["size"],
        name,
        ",".join(offered.tags) or None,
    )
    return tuple("-" if value is None else str(value) for value in columns)


def _offered_as_dict(offered: Offered) -> dict[str, Any]:
    """Return a version on offer in the form of the JSON output; values of an unknown header are None."""
    header = offered.header
    return {
        "version": offered.listing.version,
        "digest": offered.listing.digest,
        "shards": offered.listing.shards,
        "size": offered.size,
        "name": header.content_name if header else None,
        "kind": header.content_kind if header else None,
        "created": header.created if header else None,
        "tags": list(offered.tags),
        "metadata": dict(header.metadata) if header else {},
    }


def show_release(release: Release, as_json: bool) -> None:
    """Print the path of the verified file, or the whole release as JSON."""
    click.echo(json.dumps(release_as_dict(release)) if as_json else str(release.path))


def release_as_dict(release: Release) -> dict[str, Any]:
    """Return a downloaded version in the form of the JSON output: sizes in bytes, ``received`` by server.

    For a sharing client, ``received`` includes ``neighbours``; ``given`` counts bytes given to neighbours,
    ``across`` bytes from neighbours in other sites.
    """
    found = release.neighbours
    given = {"given": found.given, "across": found.across} if found else {}
    return {
        "version": release.version,
        "path": str(release.path),
        "name": release.manifest.header.content_name,
        "kind": release.manifest.header.content_kind,
        "size": release.manifest.size,
        "shards": len(release.manifest.shards),
        **release.manifest.digests,
        "seconds": round(release.seconds, 3),
        "received": release.received,
        **given,
        "tags": list(release.tags),
        "metadata": dict(release.metadata),
        **({"offline": True} if release.offline else {}),
    }
