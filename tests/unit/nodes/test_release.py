from __future__ import annotations

from pathlib import Path

from shardcast.nodes.release import Offered, Release
from shardcast.protocol.distribution import Listing
from shardcast.protocol.manifest import Header, Manifest, Shard

HEADER = Header(
    version="v3", origin="0" * 16, name="a\x1b[2Jmodel" * 9, size=2_000_000, shard_size=1000,
    piece_size=1000, created=1.0, metadata={"note": "x" * 16_000},
)  # fmt: skip
SHARDS = [Shard(number + 1, number * 1000, 1000, "0" * 64, bytes(32)) for number in range(2000)]


def test_release_is_one_short_line() -> None:
    release = Release("v3", Path("/out/model.bin"), Manifest(HEADER, SHARDS, {"sha256": "0" * 64}), 1.0, {})
    assert repr(release) == str(release) == "<Release v3 at /out/model.bin, 2.0 MB>"


def test_offered_version_is_one_short_line_of_plain_text() -> None:
    listing = Listing("v3", "0" * 64, 2000)
    shown = repr(Offered(listing, HEADER, 2_000_000))
    assert shown.startswith("<Offered v3 a")
    assert shown.isprintable()
    assert len(shown) < 100
    assert repr(Offered(listing, None)) == "<Offered v3>"
