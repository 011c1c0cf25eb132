"""Clients that share a folder: pieces of large files as they lie, of small ones built again."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from random import Random

import pytest

from shardcast.concurrency import background_task
from shardcast.folders.layout import LEAST_LARGE
from shardcast.nodes.origin import Origin
from tests.support.folder_trees import read_tree
from tests.support.processes import run
from tests.support.sharing import Sharer, sharer, slow_origin, until

LARGE = 2 * LEAST_LARGE


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root, random = tmp_path / "model", Random(7)
    (root / "weights").mkdir(parents=True)
    (root / "weights" / "a.bin").write_bytes(random.randbytes(LARGE))
    for number in range(150):
        (root / "weights" / f"part-{number:03}").write_bytes(random.randbytes(9000))
    return root


@pytest.fixture
async def origin(tmp_path: Path, model: Path) -> AsyncIterator[Origin]:
    words = ("broadcast", str(model), "--data-dir", str(tmp_path / "data"), "--shard-size", "1MiB")
    done = await asyncio.to_thread(run, *words)
    assert done.returncode == 0, done.stderr
    async with slow_origin(tmp_path / "data", LEAST_LARGE) as origin:
        yield origin


@pytest.fixture
async def seeder(tmp_path: Path, origin: Origin, model: Path) -> AsyncIterator[Sharer]:
    """A client that has the folder, and shares it."""
    async with sharer(origin.url, tmp_path / "seeder") as seeder:
        await seeder.download()
        assert read_tree(seeder.path) == read_tree(model)
        yield seeder


async def test_folder_comes_from_a_neighbour(
    tmp_path: Path, origin: Origin, seeder: Sharer, model: Path
) -> None:
    async with sharer(origin.url, tmp_path / "other") as other:
        release = await other.download()
        assert read_tree(release.path) == read_tree(model)
        assert other.from_neighbours > LARGE // 2
        assert release.received[origin.url] < LARGE


async def test_folder_that_is_here_already_is_given_without_a_download(
    tmp_path: Path, origin: Origin, model: Path
) -> None:
    async with sharer(origin.url, tmp_path / "seeder") as first:
        await first.download()
    async with sharer(origin.url, tmp_path / "seeder") as seeder:
        release = await seeder.download()
        assert not release.received and not seeder.transfers and release.neighbours
        await seeder.download()
        sharing = seeder.client._downloads.sharing
        assert sharing and len(sharing.shared) == 1
        async with sharer(origin.url, tmp_path / "other") as other:
            assert read_tree((await other.download()).path) == read_tree(model)
            assert other.from_neighbours > LARGE // 2


async def test_restarted_follower_gives_the_folder_that_it_has(
    tmp_path: Path, origin: Origin, model: Path
) -> None:
    async with sharer(origin.url, tmp_path / "seeder") as first, aclosing(first.client.follow()) as releases:
        await anext(releases)
    async with sharer(origin.url, tmp_path / "seeder") as seeder:
        sharing = seeder.client._downloads.sharing
        assert sharing
        async with background_task(_follow_on(seeder)):
            await until(lambda: sharing.shared)
            async with sharer(origin.url, tmp_path / "other") as other:
                assert read_tree((await other.download()).path) == read_tree(model)
                assert other.from_neighbours > LARGE // 2


async def _follow_on(seeder: Sharer) -> None:
    """Follow from where the last run ended; no version may come again."""
    async with aclosing(seeder.client.follow(resume=True)) as releases:
        raise AssertionError(f"{(await anext(releases)).version} was downloaded again")


async def test_seed_for_bounds_how_long_a_folder_that_is_here_is_given(
    tmp_path: Path, origin: Origin, seeder: Sharer
) -> None:
    async with sharer(origin.url, tmp_path / "seeder", seed_for=0.2) as second:
        await second.download()
        sharing = second.client._downloads.sharing
        assert sharing
        async with asyncio.timeout(20):
            await sharing.wait_until_over()


async def test_files_of_a_neighbour_that_were_changed_are_not_given(
    tmp_path: Path, origin: Origin, seeder: Sharer, model: Path
) -> None:
    large = seeder.path / "weights" / "a.bin"
    stamp = large.stat()
    large.write_bytes(bytes(LARGE))
    os.utime(large, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    (seeder.path / "weights" / "part-003").write_bytes(bytes(9000))
    async with sharer(origin.url, tmp_path / "other") as other:
        release = await other.download()
        assert read_tree(release.path) == read_tree(model)
        assert 0 < other.from_neighbours < LARGE


async def test_removed_folder_is_shared_no_more(tmp_path: Path, origin: Origin, seeder: Sharer) -> None:
    sharing = seeder.client._downloads.sharing
    assert sharing
    assert sharing.shared
    await asyncio.to_thread(shutil.rmtree, seeder.path)
    async with asyncio.timeout(20):
        await sharing.wait_until_over()
