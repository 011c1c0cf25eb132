from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.control import running
from shardcast.control.running import find_origin
from shardcast.errors import NodeFailed
from shardcast.store.special_files import socket_path

TOLD = {
    "url": "http://h:1",
    "keep": 3,
    "parent": 7,
    "options": ["--keep", "3"],
    "variables": {"SHARDCAST_TOKENS": "/t", "LD_PRELOAD": "/evil.so", "shardcast_x": "1"},
}


@contextlib.contextmanager
def answering(data_dir: Path, body: bytes) -> Iterator[None]:
    """Answer one request on a data directory's socket."""
    path = socket_path(data_dir)
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join(10)


def found(data_dir: Path, told: dict[str, Any]) -> Any:
    with answering(data_dir, json.dumps(told).encode()):
        return find_origin(data_dir)


def test_only_own_variables_are_set_at_a_restart(tmp_path: Path) -> None:
    origin = found(tmp_path, TOLD)
    assert origin.options == ("--keep", "3")
    assert origin.variables == {"SHARDCAST_TOKENS": "/t"}


def test_another_users_origin_gives_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running.os, "geteuid", lambda: 4711)
    origin = found(tmp_path, TOLD)
    assert (origin.url, origin.options, origin.variables) == ("http://h:1", None, {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"variables": {"SHARDCAST_TOKENS": "/t\0LD_PRELOAD=/evil.so"}},
        {"variables": {"SHARDCAST_\0LD_PRELOAD": "/evil.so"}},
        {"options": ["--keep\0", "3"]},
        {"url": "http://h"},
        {"url": "file:x:70000"},
        {"keep": None},
        {"options": 3},
        {"variables": [1]},
    ],
)
def test_malformed_answer_is_an_error_in_words(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(NodeFailed, match="does not say how it runs"):
        found(tmp_path, TOLD | wrong)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*TOLD, "namespace"]), VALUES))
def test_any_answer_parses_or_makes_no_sense(values: dict[str, Any]) -> None:
    with contextlib.suppress(ValueError, LookupError, TypeError):
        origin = running._parsed(TOLD | values)
        assert 0 < origin.port < 65536
        assert all(name.startswith("SHARDCAST_") for name in origin.variables)
