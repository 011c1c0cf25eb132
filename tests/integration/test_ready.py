"""A middle is ready when it has what can be had: what is listed and not served counts no longer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import bad_answers as bad
from tests.support import processes
from tests.support.bad_servers import BadServer, Behaviour
from tests.support.legacy import get
from tests.support.published import Published, publish, random_bytes

MB = 1_000_000
ONE_ATTEMPT = {"SHARDCAST_RETRY_ATTEMPTS": "1"}
READY = (200, b"OK")
LIST = "/distribution.txt"

NOT_SERVED: dict[str, Callable[[], Behaviour]] = {
    "missing": lambda: bad.error(404),
    "wrong": lambda: bad.flipped(0),
}


@pytest.fixture
def published(tmp_path: Path) -> Published:
    publish(tmp_path / "data", random_bytes(MB), MB)
    return publish(tmp_path / "data", random_bytes(MB, seed=2), MB)


@pytest.mark.parametrize("way", NOT_SERVED)
def test_listed_but_unserved_version_is_not_awaited(way: str, published: Published, tmp_path: Path) -> None:
    with (
        BadServer(published.data_dir).set("/v2/*", NOT_SERVED[way]()) as upstream,
        processes.middle(upstream.url, tmp_path / "middle", env=ONE_ATTEMPT) as middle,
    ):
        processes.wait_until(lambda: get(middle.url, "/ready") == READY, what="the middle to be ready")
        assert get(middle.url, LIST)[1].startswith(b"v1: ") and b"v2" not in get(middle.url, LIST)[1]
        upstream.set("/v2/*", bad.good())
        processes.wait_until(lambda: b"v2: " in get(middle.url, LIST)[1], what="v2 to be had after all")
        assert get(middle.url, "/ready") == READY


def test_version_offered_by_another_server_is_awaited(published: Published, tmp_path: Path) -> None:
    with (
        BadServer(published.data_dir).set("/v2/*", bad.error(404)) as first,
        BadServer(published.data_dir).set("*", bad.error(500)) as second,
        processes.middle(f"{first.url},{second.url}", tmp_path / "middle", env=ONE_ATTEMPT) as middle,
    ):
        processes.wait_until(lambda: get(middle.url, "/ready") == READY, what="the middle to be ready")
        second.set("/v2/shard_*", bad.silent()).set(LIST, bad.good()).set("/v2/manifest.jsonl", bad.good())
        waits = (503, b"503: v2 not here yet\n")
        processes.wait_until(lambda: get(middle.url, "/ready") == waits, what="v2 to be waited for")
