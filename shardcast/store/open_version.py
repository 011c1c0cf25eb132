"""An open version, whose shards are named one after another until completion or removal."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from shardcast.concurrency import Notifier, in_thread
from shardcast.directories import new_folder, sync_folder
from shardcast.disk_errors import disk_errors, is_full
from shardcast.errors import LocalDiskError, ShardcastError
from shardcast.file_systems import reserve
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.protocol.wire import version_name
from shardcast.store.adopted_payload import AdoptedPayload
from shardcast.store.disk_usage import space_of
from shardcast.store.gate import Gate
from shardcast.store.hooks import OpenVersionHooks
from shardcast.store.interfaces import Confirm, Span
from shardcast.store.landing import Landing, close_landings
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.manifest_file import ManifestFile
from shardcast.store.open_space import OpenSpace
from shardcast.store.shard_files import ShardFiles
from shardcast.store.shard_requests import ShardRequests
from shardcast.store.version_place import VersionPlace, remove_version

T = TypeVar("T")


class OpenVersion:
    """The folder of a version being published or received (a ``ShardSink``).

    Threads give shards their names (``files``) while the event loop serves them. A thread only ever adds to
    ``verified_shards``, one number in one step, after the file has its name; the loop looks a number up in
    the set, and iterates over the manifest instead. ``adopted.present`` is set before the first line of the
    manifest, ``finished`` once, at the end. The loop alone changes and iterates ``landings``.

    Attributes:
        number: number of the version.
        live: the growing manifest.
        files: the files of shards.
        adopted: the payload around the shards, if published without a copy.
        landings: the arriving shards, by number.
        notifier: notified when a shard is verified, or begins to arrive.
        place: the version's place on the disk.
        listed: the algorithm of the digest for the distribution list.
        finished: whether the version is complete, right and durable.
        confirm: awaited before finishing; raises to refuse.
        still_published: whether the version is fetched while being made, and so may be complete before it is
            listed.
        may_evict: whether listed versions may be retired for this one before its digest is known.
        space: the local bytes, counted as they come.
        loop: loop of the serving thread, set before other threads write and ask for room through it.
    """

    def __init__(
        self,
        number: int,
        place: VersionPlace,
        hooks: OpenVersionHooks,
        *,
        live: LiveManifest | None = None,
        listed: str = "sha256",
    ) -> None:
        """Open a version, or continue one left open by the last run.

        Args:
            number: number of the version.
            place: the version's place on the disk.
            hooks: the calls to the directory.
            live: manifest of a version to receive.
            listed: the algorithm of the digest for the distribution list.

        Raises:
            LocalDiskError: the folder can't be made.
        """
        self.number = number
        self.place = place
        self.live = live or LiveManifest(version_name(number))
        self.listed = listed
        self.finished = False
        self.confirm: Confirm | None = None
        self.still_published = False
        self.may_evict = True
        self.landings: dict[int, Landing] = {}
        self.space = OpenSpace(self.live, self.landings)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.notifier = Notifier()
        self.adopted = AdoptedPayload(place, hooks.usage)
        self.files = ShardFiles(
            place,
            self.live,
            self.space,
            hooks,
            touching=self._touching,
            on_verified=self.notifier.notify,
        )
        self._gate = Gate()
        self._hooks = hooks
        self._manifest_file = ManifestFile(place.manifest, self.live)
        self._requests = ShardRequests(self._is_here, self.notifier)
        with disk_errors("could not open", place.folder):
            hooks.check_held()
            new_folder(place.folder, exist_ok=True)
            if self.live.raw:
                self._manifest_file.begin()
                self.files.resume()

    # Local shards

    @property
    def verified_shards(self) -> set[int]:
        """Numbers of the shards present whole, verified and under their names."""
        return self.space.verified_shards

    @property
    def verified_bytes(self) -> int:
        """Verified bytes of the payload."""
        return self.live.size if self.adopted.present else self.space.verified_bytes

    def shard(self, number: int) -> Span | None:
        """Return the place of a whole and verified shard; None for others."""
        if not self._is_known(number):
            return None
        shard = self.live.shards[number - 1]
        if self.adopted.has(number):
            return self.adopted.span(number, self.live.shards)
        return (
            Span(self.files.final(number), 0, shard.size, shard.sha256)
            if number in self.verified_shards
            else None
        )

    async def wait_for_shard(self, number: int) -> None:
        """Wait until a shard is here, or begins to arrive; a shard of the manifest is fetched next."""
        await self._requests.wait_for(number, self._is_known(number))

    async def next_wanted(self) -> Shard:
        """Wait for the next shard requested by a local reader, and return it."""
        return self.live.shards[await self._requests.next() - 1]

    def _is_known(self, number: int) -> bool:
        """Return whether the manifest has a shard's line."""
        return 1 <= number <= len(self.live.shards)

    def _is_here(self, number: int) -> bool:
        """Return whether a shard is verified, or arriving."""
        return number in self.verified_shards or number in self.landings

    # Arrivals

    def adopt(self, payload: Path) -> bool:
        """Adopt a payload without a copy (``AdoptedPayload``); return False if impossible.

        Raises:
            LocalDiskError: the payload can't be read.
        """
        with self._touching("could not read", payload):
            return self.adopted.adopt(payload)

    def adopt_part(self, shards: range, descriptor: int, name: bytes, folder: int) -> Path | None:
        """Adopt a large file of a folder without a copy (``AdoptedPayload``); None if impossible.

        Raises:
            LocalDiskError: the disk failed.
        """
        with self._touching("could not link into", self.place.folder):
            return self.adopted.adopt_part(shards, descriptor, name, folder)

    def append_manifest(self, lines: bytes) -> None:
        """Append lines from elsewhere to the manifest; blocks on the disk.

        Raises:
            ManifestError: they are wrong.
            LocalDiskError: they can't be written.
        """
        with self._touching("could not write", self.place.manifest):
            self._manifest_file.append(lines)

    def link_known(self) -> None:
        """Link the shards of other local versions, to keep them when those go; blocks on the disk.

        Raises:
            LocalDiskError: the disk failed.
        """
        for shard in self.live.shards:
            if not self._is_here(shard.number):
                self.files.link_shard(shard)

    async def landing(self, shard: Shard) -> Landing:
        """Open the place for an arriving shard, with the local pieces.

        Raises:
            LocalDiskError: there is no room for the shard, or the disk failed.
        """
        self.loop = asyncio.get_running_loop()
        while True:
            try:
                reserved = await self._hooks.reserve(self, shard)
                landing = await self._open_landing(shard, reserved)
                break
            except LocalDiskError as error:
                if not is_full(error) or not await self._hooks.full(self, shard.size, error):
                    raise
        self.landings[shard.number] = landing
        self.notifier.notify()
        return landing

    async def _open_landing(self, shard: Shard, reserved: bool) -> Landing:
        """Open a shard's final file, a link to another version's shard, or else its temporary file."""
        if shard.number in self.verified_shards:
            landing = await in_thread(self.files.open_final, shard, undo=Landing.close)
            landing.mark_whole()
            return landing
        if self.space.is_linked(shard.number) or await in_thread(self.files.link_shard, shard):
            landing = await in_thread(self.files.open_final, shard, undo=Landing.close)
            await _recall(landing)
            if landing.whole:
                await in_thread(self.files.verify_link, shard)
                return landing
            landing.close()  # the other version's shard was changed: never write into that file
        landing = await in_thread(self.files.open_part, shard, reserved, undo=Landing.close)
        await _recall(landing)
        landing.make_room = self.make_room
        landing.extend = None if reserved else partial(self._extend, landing)
        return landing

    def make_room(self, size: int, error: OSError) -> bool:
        """Make room on a full disk by the event loop, and wait; called in a writing thread.

        Args:
            size: bytes that did not fit.
            error: the error of the system.

        Returns:
            Whether to write the bytes again.
        """
        return self.loop is not None and self._run_on_loop(self._hooks.full(self, size, error))

    def _extend(self, landing: Landing, start: int, size: int) -> None:
        """Take room for verified bytes of a landing; called in the writing thread."""

        def take() -> None:
            """Reserve and count the bytes; on the loop, once the quota has room."""
            reserve(landing.descriptor, start, size)
            self.space.extend(landing.shard.number, space_of(size))  # before another thread asks for room

        self._run_on_loop(self._hooks.extend(self, size, take))

    def _run_on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the serving loop, and wait for the result in this thread."""
        assert self.loop
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def commit_shard(self, landing: Landing) -> None:
        """Make a shard with all its pieces durable under its final name, and count it as verified.

        A shard without piece digests can't be verified alone: the temporary name stays until the whole
        payload is right.

        Raises:
            LocalDiskError: the disk failed.
        """
        shard = landing.shard
        if shard.number not in self.verified_shards and (shard.pieces or not shard.size):
            # The received bytes were verified just now, and are as good as any other copy; so the shard is
            # not linked.
            await in_thread(self.files.commit_shard, shard.number, shard.sha256, False)
        self.landings.pop(shard.number, None)

    # Ends

    async def complete(self, manifest: Manifest) -> None:
        """Make a version with a right payload durable, and add it to the directory's list.

        Raises:
            ShardcastError: ``confirm`` refused, or the version was withdrawn, stopped or changed meanwhile.
            LocalDiskError: the disk failed.
        """
        if self.confirm:
            await self.confirm(manifest)
        await in_thread(self.finish, manifest)
        await self._hooks.completed(self, manifest)

    def finish(self, manifest: Manifest) -> None:
        """Make the whole version durable, manifest last; blocks on the disk.

        Raises:
            PayloadChanged: the adopted payload was written to since its hashing.
            LocalDiskError: the disk failed.
        """
        with self._touching("could not complete", self.place.folder):
            for shard in manifest.shards:
                if shard.number not in self.verified_shards and not self.adopted.has(shard.number):
                    self.files.commit_shard(shard.number, shard.sha256)
            if self.adopted.present:
                self.adopted.commit()
            self.files.keep_only(len(manifest.shards))
            # Each file was synced before its rename. Their names become durable now, before the manifest and
            # the distribution list refer to them.
            sync_folder(self.place.folder)
            self._manifest_file.commit(manifest)
        self.finished = True

    def stop(self, error: ShardcastError) -> None:
        """Refuse further threads with ``error``, and wait for those at the files; the files stay."""
        self._gate.close(error)

    def discard(self) -> None:
        """Remove the files of the version after ``stop``; blocks on the disk.

        Raises:
            LocalDiskError: the directory at the path is another one.
            OSError: something can't be removed.
        """
        self._hooks.check_held()
        self.files.forget()
        self.place.linked.unlink(missing_ok=True)
        self._hooks.links.remove(self.place.folder)
        remove_version(self.place.folder)

    @contextmanager
    def _touching(self, doing: str, file: Path) -> Iterator[None]:
        """Let a thread touch the version's files, unless the version was stopped.

        Raises:
            ShardcastError: the version was stopped, or the directory at the path is another one.
            LocalDiskError: the disk failed.
        """
        with disk_errors(doing, file), self._gate.passed():
            self._hooks.check_held()
            yield


async def _recall(landing: Landing) -> None:
    """Verify the pieces in a landing's file, and close the landing on a failure."""
    try:
        await landing.recover_pieces()
    except BaseException:
        await close_landings([landing])
        raise
