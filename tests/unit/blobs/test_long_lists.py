"""Long lists of checksums are read like short ones, piece by piece; what is none is refused unread."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest

from shardcast.blobs.server.hash_routes import lists
from shardcast.blobs.server.hash_routes.lists import iter_checksums
from shardcast.blobs.server.hash_routes.requests import BadRequest, InvalidData, parse_checksums
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.json_text import parse_json
from shardcast.server import turns

DIGESTS = [Random(1).randbytes(32).hex() for _ in range(6000)]


@pytest.mark.parametrize("blanks", [None, 1])
@pytest.mark.parametrize("count", [1, 489, 490, 491, 6000])
def test_long_list_is_read_in_pieces_as_a_short_one(count: int, blanks: int | None) -> None:
    body = b" " + json.dumps(DIGESTS[:count], indent=blanks).encode() + b"\n"
    pieces = list(iter_checksums(body))
    assert [one for some in pieces for one in some] == parse_checksums(body) == DIGESTS[:count]
    assert all(len(some) < 1000 for some in pieces)


def test_wrong_checksum_in_long_list_is_reported_with_its_position() -> None:
    wrong = [*DIGESTS[:5000], "zz" * 32, *DIGESTS[5000:]]
    body = json.dumps(wrong).encode()
    with pytest.raises(InvalidData) as long:
        list(iter_checksums(body))
    with pytest.raises(InvalidData) as short:
        parse_checksums(body)
    assert long.value.payload == short.value.payload


MANY = b", ".join(b'"%s"' % one.encode() for one in DIGESTS)


@pytest.mark.parametrize(
    "body",
    [
        b"{}" + b" " * 300_000 + b"{}",
        b"[" + MANY,
        b"[" + MANY + b",]",
        b"[," + MANY + b"]",
        b"[" + MANY + b",," + MANY + b"]",
        b"[" + MANY + b"], [" + MANY + b"]",
        b"[" + MANY + b', {"a": 1}]',
        b"[" + MANY + b', "' + b"a" * 200_000 + b'"]',
        b"[" + b"1" * 100_000 + b"]",
        b"[" + b"[]," * 100_000 + b"[]]",
        b"[" + MANY + b', "\xff"]',
        json.dumps(DIGESTS).encode("utf-16"),
        b"[" + b" " * 300_000 + b"]",
    ],
)
def test_malformed_checksum_list_is_refused_incrementally(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_little(text: str) -> Any:
        assert len(text) < 100_000, "it was read at once"
        return parse_json(text)

    monkeypatch.setattr(lists, "parse_json", read_little)
    with pytest.raises(BadRequest):
        list(iter_checksums(body))


async def test_hash_server_answers_long_lists(tmp_path: Path) -> None:
    async with (
        StoreServer.running(StoreSettings(tmp_path), ports=(0, 0)) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        for path, absent in (("/has", False), ("/has-now", False), ("/buffer-length", 0)):
            async with session.get(path, data=json.dumps(DIGESTS)) as answer:
                assert await answer.json() == [absent] * len(DIGESTS)
            async with session.get(path, data=b"[" + b"[]," * 200_000 + b"[]]") as answer:
                assert answer.status == 400


async def test_long_list_gets_503_when_queue_is_full_and_short_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_MAX_WAITING", 0)
    async with (
        StoreServer.running(StoreSettings(tmp_path), ports=(0, 0)) as server,
        aiohttp.ClientSession(server.url) as session,
    ):
        async with session.get("/has-now", data=json.dumps(DIGESTS)) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"]
        async with session.get("/has-now", data=json.dumps(DIGESTS[:10])) as answer:
            assert await answer.json() == [False] * 10
