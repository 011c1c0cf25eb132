"""What people are told of sharing: beside the bar, at the end of a download, and in JSON."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from shardcast.cli.client import release_as_dict
from shardcast.cli.progress import neighbour_words
from shardcast.cli.sharing_notes import describe_given, describe_sources
from shardcast.nodes.release import Release
from shardcast.transfer.limits import NeighbourProgress
from tests.support.published import publish


def release(folder: Path, received: dict[str, int], neighbours: NeighbourProgress | None) -> Release:
    published = publish(folder / "data", b"some bytes", 1000)
    return Release(
        "v1", folder / "out", published.manifest, seconds=1.0, received=received, neighbours=neighbours
    )


@pytest.mark.parametrize(
    ("neighbours", "from_servers", "words"),
    [
        (NeighbourProgress(), 10**6, []),
        (NeighbourProgress(1), 0, ["nothing from 1 neighbour", "0 B given"]),
        (NeighbourProgress(3, 3 * 10**6, 5 * 10**6), 10**6, ["75% from 3 neighbours", "5.0 MB given"]),
    ],
)
def test_progress_names_neighbours_once_there_are_any(
    neighbours: NeighbourProgress, from_servers: int, words: list[str]
) -> None:
    assert neighbour_words(neighbours, from_servers) == words


def test_sources_of_a_version_add_up_in_words_and_json(tmp_path: Path) -> None:
    received = {"http://10.0.0.2:8001": 10**6, "neighbours": 3 * 10**6}
    shared = release(tmp_path, received, NeighbourProgress(2, 3 * 10**6, 7))
    words = describe_sources(shared)
    assert words == "v1: 1.0 MB (25%) from 10.0.0.2:8001, 3.0 MB (75%) from neighbours"
    assert describe_given(2 * 10**6) == "2.0 MB given to neighbours"
    told = release_as_dict(shared)
    assert (told["received"], told["given"]) == (received, 7)
    assert told["sha256"] == hashlib.sha256(b"some bytes").hexdigest()


def test_json_of_a_client_that_does_not_share_is_as_before(tmp_path: Path) -> None:
    told = release_as_dict(release(tmp_path, {"http://a:1": 10}, None))
    assert "given" not in told and told["received"] == {"http://a:1": 10}
