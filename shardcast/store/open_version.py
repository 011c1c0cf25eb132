"""A version that is open: its shards get their names one by one, and it becomes complete or goes away."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from shardcast.concurrency import Notifier, in_thread
from shardcast.disk_errors import disk_errors, is_full
from shardcast.errors import LocalDiskError, PayloadChanged, ShardcastError
from shardcast.file_copies import link
from shardcast.file_identity import FileIdentity
from shardcast.file_moves import rename
from shardcast.file_systems import reserve
from shardcast.filesystem import append, replace
from shardcast.folders import new_folder, sync_folder
from shardcast.open_files import close, sync_file
from shardcast.protocol.manifest import Manifest, Shard
from shardcast.protocol.wire import shard_name, shard_number, version_name
from shardcast.store.disk_usage import space_of, taken_by
from shardcast.store.gate import Gate
from shardcast.store.hooks import OpenVersionHooks
from shardcast.store.interfaces import Confirm, Span
from shardcast.store.landing import Landing, close_landings
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.open_space import OpenSpace
from shardcast.store.shard_part import name_shard, open_shard_part
from shardcast.store.verified import VerificationRecord, recorded_identity
from shardcast.store.version_place import VersionPlace, remove_version
from shardcast.temporary_files import PART

T = TypeVar("T")


class OpenVersion:
    """The folder of a version that is being published or received (a ``ShardSink``).

    Threads give shards their names while the event loop serves them. A thread only ever adds to ``had``, one
    number in one step, after the file has its name; the loop asks whether a number is in it, and iterates
    over the manifest instead. ``linked`` is set before the first line of the manifest is there, ``finished``
    once, at the end. ``landings`` and ``_wanted`` are changed and iterated by the loop alone, and ``_wanted``
    has only numbers whose lines are there, which stay.

    Attributes:
        number: the version's.
        live: its manifest, as it grows.
        had: its shards that are whole, verified and under their names.
        landings: its shards that are arriving.
        notifier: notified when a shard is had, or begins to arrive.
        linked: whether they are parts of an adopted payload.
        linked_looks: what the adopted payload looked like when it was hashed, by its open file.
        place: where it lies on the disk.
        finished: whether all of it is here, right and durable.
        confirm: awaited before it is finished; raises where it must not.
        being_made: whether it is fetched while it is made, so that it may be whole before it is listed.
        makes_room: whether listed versions may be retired for it before its digest is known.
        space: how much of it is here, counted as it comes.
        loop: of the thread that serves, which sets it before others write and ask for room by way of it.
    """

    def __init__(
        self,
        number: int,
        place: VersionPlace,
        hooks: OpenVersionHooks,
        live: LiveManifest | None = None,
        listed: str = "sha256",
    ) -> None:
        """Open a version, or go on with one that was open when its node ended. ``live``: its manifest, where
        it is received; ``listed``: the algorithm of the digest that the distribution list will show.

        Raises:
            LocalDiskError: its folder can't be made.
        """
        self.number = number
        self.place = place
        self.live = live or LiveManifest(version_name(number))
        self.listed = listed
        self.linked = False
        self.linked_looks: FileIdentity | None = None
        self.finished = False
        self.confirm: Confirm | None = None
        self.being_made = False
        self.makes_room = True
        self._gate = Gate()
        self.landings: dict[int, Landing] = {}  # the event loop's
        self.space = OpenSpace(self.live, self.landings)
        self.loop: asyncio.AbstractEventLoop | None = None
        self.notifier = Notifier()
        self._wanted: deque[int] = deque()
        self._keeping = threading.Lock()
        self._hooks = hooks
        self._verified = VerificationRecord(place.verified)
        with disk_errors("could not open", place.folder):
            hooks.check()
            new_folder(place.folder, exist_ok=True)
            if self.live.raw:
                replace(place.manifest, bytes(self.live.raw))
                self._take_up()

    def shard(self, number: int) -> Span | None:
        """Where a shard lies that is whole and verified; None where it isn't yet."""
        if not 1 <= number <= len(self.live.shards):
            return None
        shard = self.live.shards[number - 1]
        if self.linked:
            return Span(self.payload, shard.offset, shard.size, shard.sha256)
        return Span(self.file(number), 0, shard.size, shard.sha256) if number in self.had else None

    async def arrival(self, number: int) -> None:
        """Wait until a shard is here, or begins to arrive; it is next, if its line is here."""
        if self._waits(number) and number not in self._wanted:
            self._wanted.append(number)
            self.notifier.notify()
        await self.notifier.wait_for(lambda: number in self.had or number in self.landings)

    async def wanted(self) -> Shard:
        await self.notifier.wait_for(lambda: len(self._wanted) > 0)
        return self.live.shards[self._wanted.popleft() - 1]

    def _waits(self, number: int) -> bool:
        known = 1 <= number <= len(self.live.shards)
        return known and number not in self.had and number not in self.landings

    @property
    def had(self) -> set[int]:
        return self.space.had

    @property
    def bytes_here(self) -> int:
        """Bytes of it that are verified."""
        return self.live.size if self.linked else self.space.bytes_here

    def part(self, shard: int) -> Path:
        """The temporary name of a shard."""
        return self.place.part(shard)

    def file(self, shard: int) -> Path:
        """The final name of a shard."""
        return self.place.folder / shard_name(shard)

    def take(self, shard: int, sha256: str) -> None:
        """Give a shard that was cut here its name, so that it can be asked for; ``settle`` makes it durable.
        Should the node end before, the version goes. One that lies here already is linked. Blocks.

        Raises:
            LocalDiskError: the disk failed.
        """
        with self._touching("could not keep", self.file(shard)):
            self._name(shard, sha256, durably=False)
            self._count(shard)
        self.notifier.notify()

    def settle(self, shard: int, sha256: str) -> None:
        """Make a shard durable that has its name; blocks on the disk.

        Raises:
            LocalDiskError: the disk failed.
        """
        with self._touching("could not keep", self.file(shard)):
            sync_file(self.file(shard))
            self._verified.add(shard, sha256, self.file(shard))

    def store(self, shard: int, sha256: str | None, link: bool = True) -> None:
        """Give a shard's temporary file its name, durably; blocks on the disk. One that lies here
        already, in another version, is linked instead of being kept twice (``link``).

        Raises:
            LocalDiskError: the disk failed.
        """
        with self._touching("could not keep", self.file(shard)):
            self._name(shard, sha256 if link else None, durably=True)
            self._keep(shard, sha256)

    def _name(self, shard: int, sha256: str | None, durably: bool) -> None:
        part, final = self.part(shard), self.file(shard)
        if self._link(sha256, final):
            part.unlink(missing_ok=True)
        else:
            name_shard(part, final, durably)

    def _keep(self, shard: int, sha256: str | None) -> None:
        """A shard is under its name, and right."""
        self._verified.add(shard, sha256, self.file(shard))
        self._count(shard)
        self.notifier.notify()

    def _count(self, shard: int) -> None:
        found = self.file(shard).stat()
        if self.space.keep(shard, found.st_size):
            self._hooks.usage.add(self.place.folder, found)

    def adopt(self, payload: Path) -> bool:
        """Have the payload here without a copy: cloned where the file system can, else as a hard link;
        False where neither can be, such as on another file system. Its shards are then parts of it. Of a
        symbolic link it is the file that the link leads to.

        Raises:
            LocalDiskError: it can't be read.
        """
        with self._touching("could not read", payload):
            self.linked = self.place.adopt(payload)
            if self.linked:
                self._hooks.usage.add(self.place.folder, self.payload.stat())
        return self.linked

    @property
    def payload(self) -> Path:
        """The whole payload, where it was adopted."""
        return self.place.payload

    def _link(self, sha256: str | None, final: Path) -> bool:
        known = self._hooks.find(sha256) if sha256 else None
        if known is None or known == final:
            return False
        final.unlink(missing_ok=True)
        if not link(known, final):
            return False
        self._hooks.usage.share(known.parent, final.stat())
        return True

    def link_known(self) -> None:
        """Link what other versions here have of its shards, so that it stays when they go; blocks.
        Their bytes are looked at when their turn comes.

        Raises:
            LocalDiskError: the disk failed.
        """
        for shard in self.live.shards:
            if shard.number not in self.had and shard.number not in self.landings:
                self.link_one(shard)

    def grow(self, lines: bytes) -> None:
        """Take lines of its manifest that came from elsewhere, and keep them; blocks on the disk.

        Raises:
            ManifestError: they are wrong.
            LocalDiskError: they can't be written.
        """
        file = self.place.manifest
        # The last line is kept before anybody completes the version.
        with self._touching("could not write", file), self._keeping:
            self.live.add(lines)
            append(file, lines)

    async def landing(self, shard: Shard) -> Landing:
        self.loop = asyncio.get_running_loop()
        while True:
            try:
                whole = await self._hooks.reserve(self, shard)
                landing = await self._open_landing(shard, whole)
                break
            except LocalDiskError as error:
                if not is_full(error) or not await self._hooks.full(self, shard.size, error):
                    raise
        self.landings[shard.number] = landing
        self.notifier.notify()
        return landing

    def make_room(self, size: int, error: OSError) -> bool:
        """Have room made since the disk is full, and wait for it; called in a thread that writes."""
        return self.loop is not None and self._ask(self._hooks.full(self, size, error))

    def _extend(self, landing: Landing, start: int, size: int) -> None:
        """Take room for verified bytes of a landing; called in the thread that writes them."""

        def take() -> None:
            reserve(landing.descriptor, start, size)
            self.space.extend(landing.shard.number, space_of(size))  # before anybody else asks

        self._ask(self._hooks.extend(self, size, take))

    def _ask(self, asked: Coroutine[Any, Any, T]) -> T:
        assert self.loop
        return asyncio.run_coroutine_threadsafe(asked, self.loop).result()

    async def _open_landing(self, shard: Shard, whole: bool) -> Landing:
        if shard.number in self.had:
            landing = await in_thread(self._open_final, shard, undo=Landing.close)
            landing.take_whole()
            return landing
        if self.space.is_linked(shard.number) or await in_thread(self.link_one, shard):
            landing = await in_thread(self._open_final, shard, undo=Landing.close)
            await _recall(landing)
            if landing.whole:
                await in_thread(self._keep_known, shard)
                return landing
            landing.close()  # the other version's is not what it was: leave that one alone
        landing = await in_thread(self._open_part, shard, whole, undo=Landing.close)
        await _recall(landing)
        landing.make_room = self.make_room
        landing.extend = None if whole else partial(self._extend, landing)
        return landing

    def link_one(self, shard: Shard) -> bool:
        """Link a shard that another version here has; False where none has it. Blocks on the disk.

        Raises:
            LocalDiskError: the disk failed.
        """
        final = self.file(shard.number)
        with self._touching("could not keep", final):
            if not self._link(shard.sha256, final):
                return False
            self.space.link(shard.number, shard.size)
            self._hooks.usage.add(self.place.folder, final.stat())
            return True

    def _keep_known(self, shard: Shard) -> None:
        with self._touching("could not keep", self.file(shard.number)):
            self._keep(shard.number, shard.sha256)

    def _open_final(self, shard: Shard) -> Landing:
        final = self.file(shard.number)
        with self._touching("could not open", final):
            return self._landing_in(shard, final, os.open(final, os.O_RDONLY | os.O_CLOEXEC))

    def _open_part(self, shard: Shard, whole: bool) -> Landing:
        part, final = self.part(shard.number), self.file(shard.number)
        with self._touching("no room for", final):
            if final.exists():  # it changed since it was verified: look again
                if self.space.unlink(shard.number):
                    self._hooks.usage.remove(self.place.folder, final.stat())
                if final.stat().st_nlink > 1:  # never write into another version's shard
                    final.unlink()
                else:
                    rename(final, part, durable=False)
            descriptor = open_shard_part(part)
            try:
                os.ftruncate(descriptor, min(shard.size, os.fstat(descriptor).st_size))
                if shard.size and whole:
                    reserve(descriptor, 0, shard.size)
                self.space.arrive(
                    shard.number, space_of(shard.size) if whole else taken_by(os.fstat(descriptor))
                )
            except BaseException:
                close(descriptor)
                raise
            return self._landing_in(shard, part, descriptor)

    def reserve_part(self, shard: Shard) -> None:
        """Take room on the disk for a shard; blocks on the disk.

        Raises:
            LocalDiskError: there is none.
        """
        if not self.file(shard.number).exists():
            close(self._open_part(shard, whole=True).descriptor)

    def _landing_in(self, shard: Shard, path: Path, descriptor: int) -> Landing:
        return Landing(shard, self.live.header.piece_size, path, descriptor, 0)

    async def shelve(self, landing: Landing) -> None:
        """A shard that can't be verified by itself keeps its temporary name until all of them are right."""
        shard = landing.shard
        if shard.number not in self.had and (shard.pieces or not shard.size):
            # What came was verified just now, and is as good as any that lies here; so it is not linked.
            await in_thread(self.store, shard.number, shard.sha256, False)
        self.landings.pop(shard.number, None)

    async def complete(self, manifest: Manifest) -> None:
        if self.confirm:
            await self.confirm(manifest)
        await in_thread(self.finish, manifest)
        await self._hooks.completed(self, manifest)

    def finish(self, manifest: Manifest) -> None:
        """Make the whole version durable, manifest last; blocks on the disk."""
        with self._touching("could not complete", self.place.folder):
            self._finish(manifest)
        self.finished = True

    def _finish(self, manifest: Manifest) -> None:
        for shard in manifest.shards:
            if shard.number not in self.had and not self.linked:
                self.store(shard.number, shard.sha256)
        if self.linked:
            sync_file(self.payload)  # whoever wrote it may not have, and its looks vouch for it from now on
            looks = FileIdentity.from_stat(self.payload.stat()).recorded
            if looks != self.linked_looks:
                raise PayloadChanged(f"{self.payload} is not the file any more that was hashed")
            replace(self.place.linked, looks.text.encode())
        for entry in self.place.folder.iterdir():  # of a longer payload that had this number before
            if (shard_number(entry.name.removesuffix(PART)) or 0) > len(manifest.shards):
                entry.unlink()
        verified = self._verified.read()
        kept = {one.number: verified[one.number] for one in manifest.shards if one.number in verified}
        self._verified.write(kept)
        sync_folder(self.place.folder)
        file = self.place.manifest
        with self._keeping:
            if file.exists() and file.read_bytes() == manifest.raw:
                sync_file(file)  # its lines were appended as they came
            else:
                replace(file, manifest.raw)

    @contextmanager
    def _touching(self, doing: str, file: Path) -> Iterator[None]:
        """Entered by a thread that touches the version's files.

        Raises:
            ShardcastError: it was stopped, or the directory at the path is another one.
            LocalDiskError: the disk failed.
        """
        with disk_errors(doing, file), self._gate.passed():
            self._hooks.check()
            yield

    def stop(self, error: ShardcastError) -> None:
        """Touch no file any more once this returns; blocks on threads that touch one. What is here stays."""
        self._gate.close(error)

    def discard(self) -> None:
        """Remove what there is of the version, which was stopped; blocks on the disk.

        Raises:
            LocalDiskError: the directory at the path is another one.
            OSError: something can't be removed.
        """
        self._hooks.check()
        self._verified.remove()
        self.place.linked.unlink(missing_ok=True)
        remove_version(self.place.folder)

    def _take_up(self) -> None:
        """Count what an earlier run left: shards that are unchanged since they were verified, and parts."""
        known = self._verified.read()
        for shard in self.live.shards:
            if known.get(shard.number) == (shard.sha256, recorded_identity(self.file(shard.number))):
                self._count(shard.number)
        for part in self.place.folder.glob(f"*{PART}"):
            number = shard_number(part.name.removesuffix(PART))
            if number is not None:
                self.space.arrive(number, taken_by(part.stat()))


async def _recall(landing: Landing) -> None:
    try:
        await landing.recall()
    except BaseException:
        await close_landings([landing])
        raise
