"""The calls of a backup server, against servers that fail, lie and refuse."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.access.secret import Secret
from shardcast.access.tls import ClientTls
from shardcast.backup.client import connections
from shardcast.backup.client.answers import parse_facts, parse_listed, parse_registered
from shardcast.backup.client.connections import KeptConnections
from shardcast.backup.client.remote import BackupServer
from shardcast.backup.packs import PackWriter
from shardcast.errors import (
    AccessDenied,
    BadAnswer,
    CannotAsk,
    PeerError,
    ServerBusy,
    ServerLacks,
    ServerStalled,
    ServerUnreachable,
    UploadRefused,
)

Reply = tuple[int, bytes] | tuple[int, bytes, dict[str, str]]
FACTS = {"client": "c", "id_key": base64.b64encode(bytes(32)).decode(), "used": 5}


@contextmanager
def server(*replies: Reply, seen: list[BaseHTTPRequestHandler] | None = None) -> Iterator[BackupServer]:
    """Run a server that gives these answers, the last one for ever."""
    left = list(replies)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if seen is not None:
                seen.append(self)
            status, body, *headers = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers[0] if headers else {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        listener.daemon_threads = True
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        remote = BackupServer(
            f"http://127.0.0.1:{listener.server_port}", Secret("key"), pause=lambda seconds: None
        )
        try:
            yield remote
        finally:
            remote.close()
            listener.shutdown()
            thread.join()


@contextmanager
def raw_server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a server that does as ``talk`` does with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        talk(connection)
                    except OSError:
                        pass

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def test_key_is_shown_and_facts_are_read() -> None:
    seen: list[BaseHTTPRequestHandler] = []
    with server((200, as_json(FACTS)), seen=seen) as remote:
        facts = remote.facts()
    assert (facts.client, facts.id_key, facts.used, facts.quota) == ("c", bytes(32), 5, None)
    assert seen[0].headers["Authorization"] == "Bearer key"


def test_busy_server_is_asked_again_and_not_for_ever() -> None:
    seen: list[BaseHTTPRequestHandler] = []
    with server(
        (503, as_json({"error": "full"})),
        (429, as_json({"error": "later"})),
        (200, as_json(FACTS)),
        seen=seen,
    ) as remote:
        assert remote.facts().client == "c"
    with server((503, as_json({"error": "full"})), seen=(asked := [])) as remote, pytest.raises(ServerBusy):
        remote.facts()
    assert len(asked) == 6


@pytest.mark.parametrize(
    ("status", "error"),
    [(400, BadAnswer), (401, AccessDenied), (403, AccessDenied), (404, ServerLacks), (409, BadAnswer),
     (413, BadAnswer), (500, BadAnswer), (507, UploadRefused)],
)  # fmt: skip
def test_refusals_are_errors_in_the_words_of_the_server(status: int, error: type[Exception]) -> None:
    with server((status, as_json({"error": "no \x1b[31mway"})), seen=(seen := [])) as remote:
        with pytest.raises(error, match=r"no \\x1b\[31mway") as caught:
            remote.facts()
        assert remote.url in str(caught.value) and len(seen) == 1
    with server((status, b"<html>")) as remote, pytest.raises(error, match=str(status)):
        remote.facts()


def test_registering_is_tried_once() -> None:
    with server((503, as_json({"error": "full"})), seen=(seen := [])) as remote, pytest.raises(ServerBusy):
        remote.register("invitation", "host", b"/\xff")
    assert len(seen) == 1


def test_another_server_is_told_from_a_backup_server() -> None:
    with (
        server((200, as_json({"name": "other", "format": 1}))) as remote,
        pytest.raises(BadAnswer, match="no backup server"),
    ):
        remote.check()
    with (
        server((200, as_json({"name": "shardcast-backup", "format": 2}))) as remote,
        pytest.raises(BadAnswer, match="newer release"),
    ):
        remote.check()
    for status in (200, 404):
        with (
            server((status, b"<html>")) as remote,
            pytest.raises(BadAnswer, match="no backup server; check the address"),
        ):
            remote.check()


def test_answers_are_bounded_and_whole() -> None:
    with server((200, bytes(2 << 20))) as remote, pytest.raises(BadAnswer, match="more than"):
        remote.facts()
    with (
        server((200, b"{}", {"Content-Length": "5", "Connection": "close"})) as remote,
        pytest.raises(BadAnswer, match="cut off"),
    ):
        remote.facts()
    with server((206, b"12345")) as remote:
        assert remote.read_range(bytes(32), 0, 5) == b"12345"
        with pytest.raises(BadAnswer, match="5 bytes instead of 4"):
            remote.read_range(bytes(32), 0, 4)


def test_silent_server_is_left_after_the_time_of_a_request() -> None:
    release = threading.Event()
    with raw_server(lambda connection: release.wait(20) and None) as url:
        connections = KeptConnections(url, {}, ClientTls())
        with pytest.raises(ServerStalled, match="in time"):
            connections.ask("GET", "/", max_answer=10, seconds=0.2)
        release.set()


def test_server_without_a_connection_is_told_from_a_silent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: http.client.HTTPConnection) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(http.client.HTTPConnection, "connect", connect)
    with pytest.raises(ServerStalled, match="no connection in time"):
        KeptConnections("http://127.0.0.1:1", {}, ClientTls()).ask("GET", "/", max_answer=10)


def test_refusal_is_read_though_the_body_was_not_taken() -> None:
    def refuse(connection: socket.socket) -> None:
        connection.recv(100)
        body = as_json({"error": "too large"})
        connection.sendall(
            b"HTTP/1.1 413 No\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body
        )
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1 << 16):
            pass

    writer = PackWriter()
    writer.add(bytes(32), bytes(20 << 20))
    with raw_server(refuse) as url:
        remote = BackupServer(url, pause=lambda seconds: None)
        with pytest.raises(BadAnswer, match="too large"):
            remote.ask("PUT", "/x", body=(writer.finish().data,))


def test_no_server_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServerUnreachable, match=str(port)):
        BackupServer(f"http://127.0.0.1:{port}", pause=lambda seconds: None).facts()


def test_kept_connection_that_was_closed_is_replaced() -> None:
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"

    def once(connection: socket.socket) -> None:
        connection.recv(1 << 16)
        connection.sendall(reply)

    with raw_server(once) as url:
        connections = KeptConnections(url, {}, ClientTls())
        # A server that closed is asked anew.
        for _ in range(3):
            assert connections.ask("GET", "/", max_answer=10).body == b"{}"
        connections.close()


def test_run_asks_sends_and_commits() -> None:
    with server(
        (201, as_json({"run": "abcd1234"})),
        (200, b"\x02"),
        (409, bytes(32), {"Content-Type": "application/octet-stream"}),
        (201, as_json({"snapshot": "0123456789abcdef"})),
    ) as remote:
        run = remote.begin_run("host", b"/data")
        assert run.missing([bytes(32), bytes(32)]) == [False, True]
        assert run.commit({"base": None}, b"record", [bytes(32)]) == [bytes(32)]
        assert run.commit({"base": None}, b"record", [bytes(32)]) == "0123456789abcdef"
    with server((409, as_json({"error": "run has a snapshot"}))) as remote, pytest.raises(PeerError):
        remote.begin_run("host", b"/data")


@given(
    st.binary(max_size=60),
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["client", "id_key", "key", "used", "id", "path", "arrived", "tags"]), inner
            )
        ),
    ),
)
def test_parsers_raise_only_value_errors(data: bytes, value: object) -> None:
    for parse in (parse_facts, parse_listed, parse_registered):
        for body in (data, as_json(value)):
            try:
                parse(body)
            except ValueError:
                pass


def test_key_that_would_break_a_header_is_refused() -> None:
    fields = FACTS | {"key": "a\r\nX: b", "read_only": False}
    with pytest.raises(ValueError, match="key"):
        parse_registered(as_json(fields))


def test_abort_while_a_request_connects_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stalled:  # takes connections, answers nothing
        kept = KeptConnections(f"http://127.0.0.1:{stalled.getsockname()[1]}", {}, ClientTls())
        connect = connections._connect

        def abort_before_connecting(connection: http.client.HTTPConnection) -> None:
            kept.abort()
            connect(connection)

        monkeypatch.setattr(connections, "_connect", abort_before_connecting)
        with pytest.raises(CannotAsk, match="the command ended meanwhile"):
            kept.ask("GET", "/", max_answer=1, seconds=20)
