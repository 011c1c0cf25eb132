"""Blocking client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from shardcast.access.client_access import ClientAccess
from shardcast.access.credentials import Credentials
from shardcast.access.secret import Secret
from shardcast.access.signing import check_available
from shardcast.access.tls import client_tls
from shardcast.addresses import server_urls
from shardcast.api.background import Background
from shardcast.api.followed import Followed
from shardcast.api.progress_calls import called_in_thread
from shardcast.api.seeding import Seeding
from shardcast.errors import NoServerReachable, UsageError, VersionNotOffered
from shardcast.fair_limit import FairLimit
from shardcast.folders.options import FolderOptions
from shardcast.log_fields import about
from shardcast.nodes.client import LATEST, Client, Release
from shardcast.nodes.output_template import OutputTemplate
from shardcast.nodes.release_folder import check_keep
from shardcast.nodes.sharing_settings import SharingSettings
from shardcast.nodes.tagged import version_text
from shardcast.progress import OnProgress
from shardcast.protocol.distribution import Withdrawal
from shardcast.server.binding import EVERY_ADDRESS

log = logging.getLogger("shardcast")

StrPath = str | os.PathLike[str]
Announcement = TypeVar("Announcement", Release, Withdrawal)


def folder_settings(
    only: Sequence[str], exclude: Sequence[str], seeds: Sequence[StrPath], *, link: bool, verify: str | None
) -> FolderOptions:
    """Return how a client receives folders.

    Raises:
        UsageError: a pattern is malformed, or a text is given instead of a list; ``verify`` is no way of
            verifying, or is ``whole`` together with patterns.
    """
    for name, patterns in (("only", only), ("exclude", exclude)):
        if isinstance(patterns, str):
            raise UsageError(
                f"{name}={patterns!r} is one text: write a list of patterns, {name}=[{patterns!r}]"
            )
    paths = tuple(Path(os.fspath(seed)).absolute() for seed in seeds)
    return FolderOptions(paths, link, verify, tuple(only), tuple(exclude)).checked()


class ClientNode:
    """Client for downloading versions; the blocking form of ``Client``.

    Attributes:
        servers: base URLs of the servers, the authority first.
        output_dir: the folder of the downloads, absolute.
    """

    def __init__(
        self,
        servers: Sequence[str],
        output_dir: StrPath = "./downloads",
        *,
        output_name: str | None = None,
        origin_id: str | None = None,
        token: str | None = None,
        download_limit: int | None = None,
        ca: StrPath | None = None,
        client_certificate: StrPath | None = None,
        client_key: StrPath | None = None,
        share: bool = False,
        share_host: str = EVERY_ADDRESS,
        share_port: int = 0,
        upload_limit: int | None = None,
        seed_for: float = 0.0,
        site: str | None = None,
        advertise: str | None = None,
        only: Sequence[str] = (),
        exclude: Sequence[str] = (),
        seeds: Sequence[StrPath] = (),
        link: bool = False,
        verify: str | None = None,
    ) -> None:
        """Remember the servers; send no request yet.

        Args:
            servers: servers as people write them, ``host:port`` or a URL; or one text with commas.
            output_dir: the folder for downloads.
            output_name: names of downloads in the folder, ``{version}/{name}``: fields are ``version`` (v3),
                ``number``, ``name``, ``stem``, ``suffix`` and ``tag`` (the first). None for the usual names,
                ``download_{version}.bin``.
            origin_id: id of the only line of versions to accept; None for the first server's line.
            token: token to show to the servers, or lines ``host=token``; None for those in
                ``SHARDCAST_TOKEN_FILE`` or ``SHARDCAST_TOKEN``.
            download_limit: maximum bytes a second received, by all downloads together; None for no limit.
            ca: file with the CAs to trust for ``https://`` servers; None for the system's.
            client_certificate: file with the certificate to show to servers if asked.
            client_key: file with the certificate's key; None if ``client_certificate`` also has the key.
            share: whether to pass on pieces of a version to other sharing clients: while they arrive, then
                for ``seed_for``, and in ``follow`` while following. Needs ``shardcast[swarm]``.
            share_host: with ``share``, the address to listen on.
            share_port: with ``share``, the port to listen on; 0 for a free one each time.
            upload_limit: with ``share``, maximum bytes a second sent; None for no limit.
            seed_for: with ``share``, seconds to share a file in the background after ``download_version`` has
                returned it; sharing ends earlier with the process, by ``stop_sharing``, or after a change or
                removal of the file.
            site: with ``share``, the name of this machine's site; None to guess the site.
            advertise: with ``share``, ``HOST[:PORT]`` where others reach this client, if the servers allow
                that address; None for the address seen by the servers.
            only: patterns of paths, such as ``*.json``; only matching files of a folder are fetched.
            exclude: patterns of paths in a folder to leave out.
            seeds: downloaded folders with files to reuse, beside those in the output folder.
            link: whether to link such files instead of copying them; then do not write to any of them.
            verify: ``whole`` or ``shards``: the digests to check before a version gets its name. By default
                the whole digest; for a folder with reusable files here, the digests of shards and files.

        Raises:
            UsageError: a server, a token, a pattern, ``output_name``, ``verify``, ``seed_for``, ``site`` or
                ``advertise`` makes no sense, a limit is too low, no server is given, one is not https while
                ``SHARDCAST_REQUIRE_TLS`` is set, an argument needs ``share``, or ``shardcast[swarm]`` is not
                installed.
            LocalDiskError: the token file can't be read.
        """
        shown, token = None if token is None else Secret(token), None  # out of sight of tracebacks
        self._credentials = None if shown is None else Credentials.from_text(shown, "the token")
        self._tls = client_tls(ca, client_certificate, client_key)
        self._access: ClientAccess | None = ClientAccess.from_environment(self._credentials, self._tls)
        self.servers = server_urls(servers)
        self._access.check_servers(self.servers)
        self.output_dir = str(Path(output_dir).absolute())
        self._origin_id = origin_id
        self._output_name = None if output_name is None else OutputTemplate.parse(output_name).text
        self._downloads = FairLimit.of(download_limit)
        settings = SharingSettings(
            host=share_host,
            port=share_port,
            uploads=FairLimit.of(upload_limit),
            site=site,
            advertise=advertise,
        )
        if not share and (settings != SharingSettings() or seed_for):
            raise UsageError(
                "share_host, share_port, upload_limit, seed_for, site and advertise need share=True"
            )
        if seed_for < 0:
            raise UsageError(f"can't share for {seed_for:g} s; write seed_for in seconds, 0 for not at all")
        self._sharing = settings if share else None
        self._seed_for = seed_for
        self._seeding: tuple[int, Seeding] | None = None  # of the process with this id
        self._folders = folder_settings(only, exclude, seeds, link=link, verify=verify)
        if share:
            check_available()

    def __getstate__(self) -> dict[str, object]:
        """Return the state for pickling, without running sharing, and without a token of the environment.

        Each process reads that token itself.
        """
        return vars(self) | {"_access": None, "_seeding": None}

    def _client(self, sharing: SharingSettings | None = None) -> Client:
        """Return an asynchronous client of the same servers, to be opened once."""
        if self._access is None:
            self._access = ClientAccess.from_environment(self._credentials, self._tls)
        return Client(
            self.servers,
            self.output_dir,
            origin_id=self._origin_id,
            access=self._access,
            downloads=self._downloads,
            sharing=sharing or self._sharing,
            folders=self._folders,
            output_name=self._output_name,
        )

    def _seeder(self, sharing: SharingSettings) -> Seeding:
        """Return the sharing of downloads in the background; a forked process starts its own."""
        if self._seeding is None or self._seeding[0] != os.getpid():
            settings = replace(sharing, seed_for=self._seed_for)
            self._seeding = os.getpid(), Seeding(lambda: self._client(settings), self._seed_for)
        return self._seeding[1]

    def stop_sharing(self) -> None:
        """Stop sharing the downloads of ``download_version``, before the end of ``seed_for``.

        A running download goes on, and shares meanwhile.
        """
        if self._seeding is not None and self._seeding[0] == os.getpid():
            self._seeding[1].stop()

    def list_available_versions(self) -> dict[str, str]:
        """Return the versions on offer.

        Returns:
            Names, oldest first, each with ``<digest>|<number of shards>``. Empty if there is none; also
            empty, with a log line, if no server can be reached.

        Raises:
            AccessDenied: a server refuses, and no other lists versions.
            ShardcastError: a server's answer can't be used.
        """

        async def read() -> dict[str, str]:
            async with self._client() as client:
                return {listing.version: listing.value for listing in await client.listings()}

        try:
            return Background(read()).result()
        except NoServerReachable as error:
            log.warning("%s", error)
            return {}

    def download_version(
        self,
        version: str | int,
        output_file: StrPath | None = None,
        *,
        offline: bool = False,
        progress: OnProgress | bool | None = None,
    ) -> str | None:
        """Download a version into a file; the file gets its name only after every byte is verified.

        With ``share`` and ``seed_for`` the version is shared in the background afterwards.

        Args:
            version: ``v3``, its number, ``latest``, or a tag: the newest version with the tag.
            output_file: path of the file; None for ``download_<version>.bin`` in the output folder.
            offline: whether a version that was verified here before is given, with a warning in the log, when
                no server answers within 2 s; see ``Client.download``.
            progress: called with a ``Progress`` in a thread of the library, ten times a second at most, and
                once at the end. A slow function is called less often, and delays nothing but the return. Its
                exception cancels the download, and is raised here. True shows a bar on stderr.

        Returns:
            The path of the file; None while no server offers the version.

        Raises:
            UsageError: ``version`` is no version's name, or ``progress`` is neither a function nor True.
            ShardcastError: a server offers the version, and the download failed; the type says why.
        """
        output = None if output_file is None else os.fspath(output_file)
        version, telling = version_text(version), called_in_thread(progress)

        async def download() -> str:
            async with self._client() as client:
                return str((await client.download(version, output, offline=offline, progress=telling)).path)

        try:
            if self._sharing and self._seed_for:
                return str(self._seeder(self._sharing).download(version, output, offline, telling).path)
            return Background(download()).result()
        except VersionNotOffered as error:
            log.info("%s", error)
            return None

    def follow(
        self,
        callback: Callable[[Release], object],
        first: str | int = LATEST,
        every: bool = False,
        on_withdrawn: Callable[[Withdrawal], object] | None = None,
        *,
        keep: int | None = None,
        latest: bool = True,
        progress: OnProgress | bool | None = None,
    ) -> Followed:
        """Download each new version in the background, and call ``callback`` with it; see ``Client.follow``.

        Callbacks run in a thread, one at a time: the next version waits until the callback has returned. An
        exception in a callback is logged, and following goes on.

        Args:
            callback: called with each version whose file is complete and verified.
            first: the first version, ``v3`` or ``latest``.
            every: whether to download every version; else only the newest at each time.
            on_withdrawn: called with each withdrawn version, if downloaded or under way.
            keep: number of followed versions of a line to keep in the output folder after the callback has
                returned; None for all. Outputs made otherwise stay.
            latest: whether to keep a link ``latest`` to the newest version in the output folder.
            progress: as for ``download_version``, for each version; its exception ends the following, and
                ``wait`` of the handle raises it.

        Returns:
            A handle to stop or to wait for.

        Raises:
            UsageError: ``first`` is no version's name, ``keep`` no number of versions, or ``progress``
                neither a function nor True.
        """
        calling: set[int] = set()
        first, telling = version_text(first, tags=False), called_in_thread(progress, calling)
        check_keep(keep)
        turn = asyncio.Lock()

        def call(callback: Callable[[Announcement], object], announcement: Announcement) -> None:
            calling.add(threading.get_ident())
            try:
                callback(announcement)
            except BaseException:
                log.exception(
                    "the callback for %s failed",
                    announcement.version,
                    extra=about(version=announcement.version),
                )
            finally:
                calling.discard(threading.get_ident())

        async def call_withdrawn(withdrawal: Withdrawal) -> None:
            if on_withdrawn:
                async with turn:
                    await asyncio.to_thread(call, on_withdrawn, withdrawal)

        async def follow() -> None:
            async with (
                self._client() as client,
                contextlib.aclosing(
                    client.follow(
                        first, every, on_withdrawn=call_withdrawn, keep=keep, latest=latest, progress=telling
                    )
                ) as releases,
            ):
                try:
                    async for release in releases:
                        async with turn:
                            await asyncio.to_thread(call, callback, release)
                except Exception as error:
                    log.error("following ended: %s", error)  # perhaps no caller waits
                    raise

        return Followed(Background(follow()), calling)

    @contextlib.contextmanager
    def lease(self, version: str) -> Iterator[None]:
        """Hold a version at the servers while the block runs, in spite of newer versions.

        A server keeps a version for remote holders at most ten minutes beyond its retention.

        Args:
            version: the version's name, ``v3``.

        Raises:
            UsageError: ``version`` is no version's name.
            VersionNotOffered: no server holds the version.
            AccessDenied: a server refuses, and no other holds the version.
        """
        answered, held = threading.Event(), threading.Event()

        async def hold() -> None:
            try:
                async with self._client() as client, client.lease(version):
                    held.set()
                    answered.set()
                    await asyncio.Event().wait()
            finally:
                answered.set()

        holding = Background(hold())
        try:
            answered.wait()
            if not held.is_set():
                holding.result()
            yield
        finally:
            holding.cancel()
