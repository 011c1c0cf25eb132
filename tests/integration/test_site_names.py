"""The library gives a site's name to its origins and middles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import shardcast
from shardcast.errors import UsageError
from tests.support.legacy import get
from tests.support.processes import wait_until


def test_middle_of_the_library_joins_the_swarm_of_its_site(tmp_path: Path) -> None:
    origin = shardcast.OriginServer(tmp_path / "origin", 0, site="rack7")
    try:
        middle = shardcast.MiddleNode([origin.url], tmp_path / "middle", 0, site="rack8")
        try:
            file = tmp_path / "model.bin"
            file.write_bytes(bytes(range(250)) * 1200)
            origin.broadcast(file)

            def sites() -> set[str]:
                told = json.loads(get(middle.url, "/status")[1])
                return {shared["site"] for shared in told["sharing"]}

            wait_until(lambda: sites() == {"rack8"}, what="a membership of the site rack8")
        finally:
            middle.shutdown()
    finally:
        origin.shutdown(wait=0)


@pytest.mark.parametrize("site", ["", "rack 7", "x" * 100])
def test_malformed_site_is_refused_before_a_node_starts(site: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no name of a site"):
        shardcast.OriginServer(tmp_path / "origin", 0, site=site)
    with pytest.raises(UsageError, match="no name of a site"):
        shardcast.MiddleNode(["127.0.0.1:1"], tmp_path / "middle", 0, site=site)
    assert not list(tmp_path.iterdir())
