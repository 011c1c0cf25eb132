"""A shard that is arriving: a piece counts when its digest is right, never before."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.protocol.manifest import Shard
from shardcast.store import landing as landings
from shardcast.store.landing import Landing, WrongPiece
from tests.support import payloads
from tests.support.payloads import PIECE, cut, patient, random_bytes

DATA = random_bytes(5 * PIECE + 100)  # its last piece is shorter
(WHOLE,) = payloads.shards([DATA])
BASE = 3 * PIECE
ORDERS = st.permutations(range(6))


@contextmanager
def landing(path: Path, shard: Shard = WHOLE, base: int = BASE) -> Iterator[Landing]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    opened = Landing(shard, PIECE, path=path, descriptor=descriptor, base=base)
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def fresh_landing(shard: Shard = WHOLE) -> Iterator[Landing]:
    """One in a file of its own, for each example of a property."""
    with tempfile.TemporaryDirectory() as folder, landing(Path(folder) / "part", shard) as opened:
        yield opened


def assert_consistent(found: Landing, there: set[int]) -> None:
    """``there`` are the pieces that landed."""
    sizes = [len(piece) for piece in cut(DATA, PIECE)]
    prefix = next((piece for piece in range(6) if piece not in there), 6)
    assert found.prefix == sum(sizes[:prefix])
    assert found.verified_bytes == sum(sizes[piece] for piece in there)
    assert found.verified_pieces == sum(1 << piece for piece in there)
    assert found.whole == (len(there) == 6)
    missing = {piece for start, end in found.missing() for piece in range(start // PIECE, -(-end // PIECE))}
    assert missing == set(range(6)) - there
    assert all(start < end <= len(DATA) and start % PIECE == 0 for start, end in found.missing())
    assert all(
        end < later for (_, end), (later, _) in zip(found.missing(), found.missing()[1:], strict=False)
    )


def read(found: Landing, start: int = 0, length: int = len(DATA)) -> bytes:
    buffer = bytearray(length)
    return bytes(buffer[: found.read_into(start, memoryview(buffer))])


@patient
@given(ORDERS, st.lists(st.integers(1, 6), min_size=6, max_size=6))
async def test_pieces_land_in_any_order(order: list[int], runs: list[int]) -> None:
    there: set[int] = set()
    with fresh_landing() as found:
        assert_consistent(found, there)
        for piece, run in zip(order, runs, strict=True):
            await found.land(piece * PIECE, memoryview(DATA)[piece * PIECE : (piece + run) * PIECE])
            there |= set(range(piece, min(piece + run, 6)))
            assert_consistent(found, there)
        assert read(found) == DATA
        assert found.path.stat().st_size == BASE + len(DATA)  # nothing around it was written
        assert not any(found.path.read_bytes()[:BASE])


@patient
@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, len(DATA) - 1), ORDERS)
async def test_wrong_piece_is_refused_and_earlier_pieces_are_kept(
    first: int, before: int, where: int, order: list[int]
) -> None:
    wrong = max(where // PIECE, first)
    data = bytearray(DATA)
    data[wrong * PIECE] ^= 1
    already = set(order[:before])
    with fresh_landing() as found:
        for piece in already:
            await found.land(piece * PIECE, cut(DATA, PIECE)[piece])
        with pytest.raises(WrongPiece) as caught:
            await found.land(first * PIECE, bytes(data[first * PIECE :]))
        assert caught.value.offset == wrong * PIECE
        assert_consistent(found, already | set(range(first, wrong)))
        for piece in already:  # what was there is as it was
            assert read(found, piece * PIECE, len(cut(DATA, PIECE)[piece])) == cut(DATA, PIECE)[piece]


@pytest.mark.parametrize("size", [1, PIECE - 1, PIECE + 1])
async def test_bytes_of_wrong_length_are_refused(size: int, tmp_path: Path) -> None:
    with landing(tmp_path / "part") as found:
        with pytest.raises(WrongPiece):
            await found.land(0, random_bytes(size, seed=2))
        with pytest.raises(WrongPiece):
            await found.land(5 * PIECE, DATA[5 * PIECE :] + b"more")
        assert_consistent(found, set())


async def test_empty_shard_is_whole_immediately(tmp_path: Path) -> None:
    with landing(tmp_path / "part", Shard(1, 0, 0, payloads.sha256(b""))) as found:
        await found.recover_pieces()
        assert (found.whole, found.prefix, found.verified_bytes, found.missing()) == (True, 0, 0, [])


async def test_waiter_is_woken_when_the_prefix_grows(tmp_path: Path) -> None:
    with landing(tmp_path / "part") as found:
        await found.land(PIECE, DATA[PIECE : 2 * PIECE])
        waiting = asyncio.ensure_future(found.in_thread(found.wait_for_prefix, 0))
        done, _ = await asyncio.wait([waiting], timeout=0.05)
        assert not done  # the second piece alone is no prefix
        await found.land(0, DATA[:PIECE])
        assert await waiting == 2 * PIECE


async def test_waiter_is_woken_when_landing_is_closed(tmp_path: Path) -> None:
    with landing(tmp_path / "part") as found:
        waiting = asyncio.ensure_future(found.in_thread(found.wait_for_prefix, 0))
        await asyncio.sleep(0)
        found.close()
        assert await waiting == 0


@patient
@given(ORDERS, st.integers(0, 6), st.data())
async def test_reopened_landing_recalls_exactly_the_landed_pieces(
    order: list[int], count: int, data: st.DataObject
) -> None:
    there = order[:count]
    rotten = data.draw(st.sets(st.sampled_from(there)) if there else st.just(set()))
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "part"
        with landing(part) as before:
            for piece in there:
                await before.land(piece * PIECE, cut(DATA, PIECE)[piece])
            for piece in rotten:
                os.pwrite(before.descriptor, b"rot", BASE + piece * PIECE + 50)
        with landing(part) as after:
            assert_consistent(after, set())
            await after.recover_pieces()
            assert_consistent(after, set(there) - rotten)


async def test_recall_hashes_only_written_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / "part"
    with landing(part) as before:
        for piece in (1, 4):
            await before.land(piece * PIECE, cut(DATA, PIECE)[piece])
    looked_at: list[int] = []

    def count(piece: bytes) -> bytes:
        looked_at.append(len(piece))
        return payloads.pieces(bytes(piece))

    monkeypatch.setattr(landings, "piece_digest", count)
    with landing(part) as after:
        await after.recover_pieces()
        assert_consistent(after, {1, 4})
    assert len(looked_at) == 2


async def test_truncated_file_is_recalled_up_to_its_end(tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(bytes(BASE) + DATA[: 2 * PIECE + 10])
    with landing(part) as found:
        await found.recover_pieces()
        assert_consistent(found, {0, 1})


async def test_recall_ignores_bytes_around_the_shard(tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.write_bytes(DATA + bytes(BASE) + DATA)
    with landing(part) as found:
        await found.recover_pieces()
        assert_consistent(found, set())


async def test_recall_copies_matching_pieces_of_earlier_version(tmp_path: Path) -> None:
    earlier = bytearray(bytes(BASE) + DATA)
    earlier[BASE + PIECE] ^= 1
    (tmp_path / "earlier").write_bytes(earlier[: BASE + 5 * PIECE])  # its last piece is not there
    seed = os.open(tmp_path / "earlier", os.O_RDONLY)
    try:
        with landing(tmp_path / "part") as found:
            await found.land(2 * PIECE, cut(DATA, PIECE)[2])
            await found.recover_pieces([seed])
            assert_consistent(found, {0, 2, 3, 4})
            assert read(found, 0, PIECE) == DATA[:PIECE]
        with landing(tmp_path / "part") as again:  # the pieces were copied, not only counted
            await again.recover_pieces()
            assert_consistent(again, {0, 2, 3, 4})
    finally:
        os.close(seed)


async def test_pieces_without_digests_count_until_reopening(tmp_path: Path) -> None:
    with landing(tmp_path / "part", Shard(1, 0, len(DATA))) as found:
        await found.land(0, DATA[: 2 * PIECE])
        assert_consistent(found, {0, 1})
    with landing(tmp_path / "part", Shard(1, 0, len(DATA))) as again:
        await again.recover_pieces()  # nothing says whether what is in the file is right
        assert_consistent(again, set())


async def test_verified_shard_is_whole_without_hashing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(landings, "piece_digest", None)
    with landing(tmp_path / "part") as found:
        found.mark_whole()
        assert_consistent(found, set(range(6)))


def test_readers_are_counted_while_they_read(tmp_path: Path) -> None:
    """While somebody reads it along, its second half is not fetched first."""
    with landing(tmp_path / "part") as opened:
        with opened.read_along(), opened.read_along():
            assert opened.readers == 2
        assert opened.readers == 0


def test_second_close_does_not_close_the_descriptor_again(tmp_path: Path) -> None:
    with landing(tmp_path / "part") as found:
        descriptor = found.descriptor
        found.close()
        other = os.open(tmp_path / "part", os.O_RDONLY)
        assert other == descriptor  # the system gives the number to the next one
        found.close()
        os.close(other)


async def test_answer_that_comes_after_the_shard_was_closed_whole_is_no_failure(tmp_path: Path) -> None:
    with landing(tmp_path / "part") as found:
        found.land_now(0, DATA)
        found.close()
        await found.land(PIECE, DATA[PIECE : 3 * PIECE])
        with pytest.raises(WrongPiece):
            await found.land(PIECE, bytes(PIECE))
    assert (tmp_path / "part").read_bytes()[BASE:] == DATA


async def test_waiter_for_several_pieces_is_woken_when_all_are_here(tmp_path: Path) -> None:
    with landing(tmp_path / "part") as found:
        waiting = asyncio.ensure_future(found.in_thread(found.wait_for_prefix, 0, 2 * PIECE))
        await found.land(0, DATA[:PIECE])
        await found.land(PIECE, DATA[PIECE : 2 * PIECE])
        assert await asyncio.wait_for(waiting, 20) == 2 * PIECE
        rest = asyncio.ensure_future(found.in_thread(found.wait_for_prefix, 2 * PIECE, 99 * PIECE))
        await found.land(2 * PIECE, DATA[2 * PIECE :])
        assert await asyncio.wait_for(rest, 20) == len(DATA), "the shard ends before"
