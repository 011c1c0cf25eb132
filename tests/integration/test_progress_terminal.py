"""The progress in real terminals of 40, 80 and 200 columns: one line, and none of it left at the end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.published import publish, random_bytes
from tests.support.terminals import INTERRUPTED, WIDTHS, terminal


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.Node]:
    folder = tmp_path_factory.mktemp("terminal") / "data"
    publish(folder, random_bytes(4_000_000), 1_000_000)
    with processes.origin(folder) as running:
        yield running


@pytest.mark.parametrize("width", WIDTHS)
def test_a_download_is_one_line_and_leaves_none(origin: processes.Node, tmp_path: Path, width: int) -> None:
    servers = f"{origin.url},{origin.url.replace('127.0.0.1', 'localhost')}"
    words = ("client", "--servers", servers, "--version", "v1", "--output-dir", str(tmp_path))
    with terminal(width, *words, "--download-limit", "500kB") as shown:
        shown.read_until(lambda lines: any("/s  0:" in line for line in lines), one_line=True)
        assert shown.lines[0].startswith("v1 ")
        assert ("server" in shown.lines[0]) == (width > 40)
        shown.process.send_signal(signal.SIGINT)
        assert shown.end() == INTERRUPTED
    told = "".join(shown.lines)
    assert told == "Interrupted. Received bytes of v1 are kept; repeat the command to continue."


@pytest.mark.parametrize("width", WIDTHS)
def test_a_stream_of_unknown_size_shows_bytes_and_shards(tmp_path: Path, width: int) -> None:
    with processes.origin(tmp_path / "data", "--shard-size", "100kB") as origin:
        words = ("broadcast", "-", "--name", "stream", "--data-dir", str(tmp_path / "data"))
        with terminal(width, *words) as shown:
            stdin = shown.process.stdin
            assert stdin
            stdin.write(b"x" * 250_000)

            def is_shown(lines: list[str]) -> bool:
                stdin.write(b"x")  # the line is drawn again with what comes next
                stdin.flush()
                return any("stream 250 kB" in line and line.endswith("2 shards") for line in lines)

            shown.read_until(is_shown, one_line=True)
            stdin.close()
            assert shown.end() == 0
        assert shown.lines == ["v1"]
        assert origin.process.poll() is None
