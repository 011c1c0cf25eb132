"""What others chose reaches terminals and logs as one printable line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import shardcast
from shardcast import errors
from shardcast.cli.log_format import LogFormat
from shardcast.errors import PeerError, ShardcastError
from shardcast.plain_text import one_line, short_name
from tests.support import bad_answers as bad
from tests.support import processes
from tests.support.bad_servers import BadServer, Behaviour, Exchange
from tests.support.published import Published, publish, random_bytes

PACKAGE = Path(shardcast.__file__).parent
EVIL = "\x1b[2J\x1b]0;owned\x07\r\n12:00:00 ERROR   forged \x9b31m \u202e \ud800"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published") / "data", random_bytes(300_000), 100_000)


def test_unprintable_characters_are_escaped() -> None:
    assert one_line("é ß 中 v1", 20) == "é ß 中 v1"
    assert one_line("a\x1bb\r\n\tc", 30) == "a\\x1bb\\r\\n\\tc"
    assert one_line("\x9b\u202e\ud800\u2028", 40) == "\\x9b\\u202e\\ud800\\u2028"


def test_short_name_drops_unprintable_characters() -> None:
    assert short_name("rack\x1b[31m7\n\u202e", 20) == "rack[31m7"
    assert short_name("x" * 30, 20) == "x" * 20


@pytest.mark.parametrize("text", ["x" * 5000, EVIL * 100, "\x1b" * 50, "x" * 49 + "\n", "x" * 50, ""])
def test_one_line_is_bounded_and_idempotent(text: str) -> None:
    line = one_line(text, 50)
    assert len(line) <= 50
    assert line.isprintable()
    assert one_line(line, 50) == line
    assert line.endswith("…") == (text not in ("x" * 50, ""))


def kinds(kind: type[ShardcastError] = ShardcastError) -> Iterator[type[ShardcastError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


@pytest.mark.parametrize("kind", sorted(set(kinds()), key=lambda kind: kind.__name__))
def test_every_error_text_is_one_printable_line(kind: type[ShardcastError]) -> None:
    words = ("http://one", EVIL * 1000) if issubclass(kind, PeerError) else (EVIL * 1000,)
    error = kind(*words)
    assert str(error).isprintable()
    assert "forged" in str(error)
    assert len(str(error)) <= (600 if issubclass(kind, PeerError) else 4000)
    assert errors.to_wire(error)["message"].isprintable()
    assert kind.__str__ is ShardcastError.__str__, "it makes its text by itself"


def test_local_disk_error_text_is_printable() -> None:
    assert str(errors.LocalDiskError(28, "No space\x1b left", "/tmp/a\nb")).isprintable()


def test_log_message_is_one_printable_line() -> None:
    try:
        raise ValueError(f"it says {EVIL}")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "x", 1, "from %s", (EVIL,), sys.exc_info())
    first, *rest = LogFormat("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S").format(record).splitlines()
    assert first.isprintable() and first.endswith("\\ud800")
    assert rest and all(line.isprintable() and line.startswith("  ") for line in rest)


def test_only_one_module_cleans_text() -> None:
    """Whoever makes a format, or picks characters, elsewhere goes round what is tested here."""
    found = {
        (str(file.relative_to(PACKAGE)), word)
        for file in PACKAGE.rglob("*.py")
        for word in ("logging.Formatter", ".isprintable()")
        if word in file.read_text()
    }
    assert found == {
        ("plain_text.py", ".isprintable()"),
        ("cli/log_format.py", "logging.Formatter"),
        ("addresses.py", ".isprintable()"),  # refused, as are the next three
        ("cli/cluster/network.py", ".isprintable()"),
        ("nodes/output_template.py", ".isprintable()"),
        ("protocol/manifest_reader.py", ".isprintable()"),
        ("sharding/first_line.py", ".isprintable()"),  # a file's name, which readers must be able to use
    }


def answers(head: bytes) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        exchange.close()
        await exchange.send(head.replace(b"EVIL", b"\x1b[2J\x9b31m\x07" + b"x" * 5000))

    return behave


HOSTILE = {
    "reason": (b"HTTP/1.1 500 EVIL\r\n\r\n", "/v1/shard_*"),
    "location": (b"HTTP/1.1 302 Found\r\nLocation: http://EVIL\r\n\r\n", "/v1/shard_*"),
    "range": (b"HTTP/1.1 206 Partial\r\nContent-Range: EVIL\r\n\r\n", "/v1/shard_*"),
    "list": (b"HTTP/1.1 500 EVIL\r\n\r\n", "/distribution.txt"),
    "list's location": (b"HTTP/1.1 307 No\r\nLocation: ftp://EVIL\r\n\r\n", "/distribution.txt"),
}


def test_control_characters_of_server_do_not_reach_terminal_or_log(
    published: Published, tmp_path: Path
) -> None:
    with BadServer(published.data_dir) as server:
        for head, path in HOSTILE.values():
            server.set("*", bad.good()).set(path, answers(head))
            done = processes.run(
                "client", "--servers", server.address, "--version", "v1", "--log-level", "DEBUG",
                "--output-file", str(tmp_path / "got"), env={"SHARDCAST_RETRY_ATTEMPTS": "1"},
            )  # fmt: skip
            assert done.returncode == 1, done.stderr
            lines = done.stderr.splitlines()
            assert all(line.isprintable() and len(line) < 1200 for line in lines), lines
            assert any("\\x1b[2J" in line for line in lines), f"nothing of it was told: {lines}"
