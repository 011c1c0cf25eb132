"""The hash server by itself: what it does that hashserver doesn't, and what it withstands."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request
from blake3 import blake3
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from shardcast.blobs.directory.verify_cache import VerifiedFile
from shardcast.blobs.server.hash_routes.answers import AnswerHead
from shardcast.blobs.server.hash_routes.requests import (
    BadRequest,
    json_response,
    parse_checksum,
    parse_checksums,
)
from shardcast.blobs.server.hash_routes.uploads import Promises
from shardcast.blobs.server.hash_server import (
    StoreServer,
    StoreSettings,
    bind_free_port,
    parse_directories,
    read_settings,
)
from shardcast.blobs.server.negotiation import accepted_forms
from shardcast.blobs.server.status_file import StatusFile
from shardcast.errors import NodeFailed, UsageError
from tests.support.blob_stores import digest_of, spoil_file
from tests.support.hash_servers import (
    BackgroundRequest,
    Running,
    listed,
    our_command,
    request,
    started,
    uploading,
    wait_until,
)

pytestmark = pytest.mark.xdist_group("hash-server")

LARGE = random.Random(6).randbytes((20 << 20) + 5)
LARGE_DIGEST = digest_of(LARGE)


@contextlib.contextmanager
def serving(*words: str, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """Run our hash server on a free port."""
    with started(our_command(*words), env) as running:
        assert running.port, running.output
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A writable server that the tests of this module share, and its directory."""
    place = tmp_path_factory.mktemp("shared")
    with serving(str(place), "--writable") as running:
        yield running.port, place


def path_of(place: Path, digest: str) -> Path:
    return place / digest[:2] / digest


def place_file(place: Path, data: bytes, digest: str | None = None) -> Path:
    """Put a file there as another program would."""
    digest = digest or digest_of(data)
    path_of(place, digest).parent.mkdir(exist_ok=True)
    path_of(place, digest).write_bytes(data)
    return path_of(place, digest)


def parts(place: Path) -> list[Path]:
    return list(place.rglob("*.part"))


def under_way(port: int, digest: str) -> bool:
    return listed(port, "/has", [digest]) == [True]


# Reading


def test_answers_have_cache_headers(shared: tuple[int, Path]) -> None:
    port, place = shared
    place_file(place, LARGE)
    place_file(place, b"hello")
    for data in (b"hello", LARGE):
        digest = digest_of(data)
        for _ in range(2):  # not verified yet, then verified
            got = request(port, "GET", f"/{digest}")
            assert (got.status, got.body) == (200, data)
            assert got.headers["etag"] == f'"{digest}"'
            assert "immutable" in got.headers["cache-control"]
            head = request(port, "HEAD", f"/{digest}")
            assert (head.status, head.body) == (200, b"")
            assert head.headers["content-length"] == got.headers["content-length"] == str(len(data))
        tagged = request(port, "GET", f"/{digest}", headers={"If-None-Match": f'"{digest}"'})
        assert (tagged.status, tagged.body) == (304, b"")
        assert request(port, "GET", f"/{digest}", headers={"If-None-Match": '"x"'}).status == 200
        for asked, begin, end in (("1-3", 1, 4), ("-2", len(data) - 2, len(data)), ("2-", 2, len(data))):
            part = request(port, "GET", f"/{digest}", headers={"Range": f"bytes={asked}"})
            assert (part.status, part.body) == (206, data[begin:end])
            assert part.headers["content-range"] == f"bytes {begin}-{end - 1}/{len(data)}"
        beyond = request(port, "GET", f"/{digest}", headers={"Range": f"bytes={len(data)}-"})
        assert (beyond.status, beyond.headers["content-range"]) == (416, f"bytes */{len(data)}")
        for tag, status in ((f'"{digest}"', 206), ('"other"', 200), (f'W/"{digest}"', 200), ("*", 200)):
            asking = {"Range": "bytes=1-3", "If-Range": tag}
            assert request(port, "GET", f"/{digest}", headers=asking).status == status


@pytest.mark.parametrize("data", [b"few", LARGE[:-1]], ids=["small", "large"])
def test_damaged_file_is_never_served(shared: tuple[int, Path], data: bytes) -> None:
    port, place = shared
    digest, file = digest_of(data), place_file(place, data)
    assert request(port, "GET", f"/{digest}").body == data
    spoil_file(file)
    for method in ("GET", "GET", "HEAD"):
        assert request(port, method, f"/{digest}").status == 400
    assert file.exists()
    put = request(port, "PUT", f"/{digest}", data)
    assert put.status == 200
    assert request(port, "GET", f"/{digest}").body == data


@pytest.mark.parametrize("sealed", [True, False])
async def test_answer_breaks_off_at_silent_corruption(sealed: bool, tmp_path: Path) -> None:
    """What was verified before is hashed again while it is sent, and its end never leaves when it is
    wrong."""
    file = place_file(tmp_path, LARGE)
    async with StoreServer.running(StoreSettings(tmp_path)) as server:
        port = int(server.url.rsplit(":", 1)[1])
        get = lambda: asyncio.to_thread(request, port, "GET", f"/{LARGE_DIGEST}")  # noqa: E731
        verified = server.state.store.verified
        for seal in (None, blake3(LARGE).hexdigest(), blake3(LARGE).hexdigest()):
            assert (await get()).body == LARGE
            known = verified.get(LARGE_DIGEST, file.stat())
            assert known == (len(LARGE), seal)
        spoil_file(file)
        # As if the file looked as it did: the disk, not a program, changed it.
        verified.add(LARGE_DIGEST, file.stat(), known if sealed else VerifiedFile(len(LARGE)))
        got = await get()
        assert got.status == 200
        assert got.cut
        assert len(got.body) <= len(LARGE) - (64 << 10)
        assert (await get()).status == 400  # it isn't counted as verified any more


async def test_answer_breaks_off_when_file_changes(tmp_path: Path) -> None:
    data = LARGE * 3
    digest, file = digest_of(data), place_file(tmp_path, data)
    async with StoreServer.running(StoreSettings(tmp_path)) as server:
        port = int(server.url.rsplit(":", 1)[1])
        for _ in range(2):  # verified only just now, and before
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            try:

                def begin(connection: http.client.HTTPConnection = connection) -> http.client.HTTPResponse:
                    connection.request("GET", f"/{digest}")
                    return connection.getresponse()

                answer = await asyncio.to_thread(begin)
                assert answer.status == 200
                with file.open("r+b") as opened:
                    opened.seek(len(data) - 100)
                    opened.write(data[-100:])  # the same bytes; who knows that
                with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                    await asyncio.to_thread(answer.read)
            finally:
                connection.close()


def test_copy_in_extra_directory_replaces_damaged_one(tmp_path: Path) -> None:
    main, other = tmp_path / "main", tmp_path / "other"
    main.mkdir()
    other.mkdir()
    spoil_file(place_file(main, b"hello"))
    (other / digest_of(b"hello")).write_bytes(b"hello")
    with serving(str(main), "--extra-dirs", f" {other} ;") as running:
        assert request(running.port, "GET", f"/{digest_of(b'hello')}").body == b"hello"


def test_slow_reader_takes_no_memory_and_blocks_no_other(shared: tuple[int, Path]) -> None:
    port, place = shared
    place_file(place, LARGE)
    readers = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(8)]
    try:
        for one in readers:
            one.sendall(f"GET /{LARGE_DIGEST} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        for one in readers:
            assert one.recv(12) == b"HTTP/1.1 200"
        assert request(port, "GET", f"/{LARGE_DIGEST}").body == LARGE
    finally:
        for one in readers:
            one.close()


# Writing


def test_existing_blob_is_served_during_second_put(tmp_path: Path) -> None:
    """Somebody sends it coded, or what lies in another directory, and doesn't come to the end."""
    blobs, extra = tmp_path / "blobs", tmp_path / "extra"
    for folder in (blobs, extra):
        folder.mkdir()
    here, elsewhere = place_file(blobs, b"here").name, place_file(extra, b"elsewhere").name
    with (
        serving(str(blobs), "--writable", "--extra-dirs", str(extra)) as running,
        contextlib.ExitStack() as stack,
    ):
        port, coded = running.port, "Content-Encoding: gzip"
        missing = digest_of(b"missing")
        for digest, header in ((here, coded), (elsewhere, "X: y"), (missing, "X: y")):
            stack.enter_context(uploading(port, digest, 7, header)).send(b"m")
        wait_until(lambda: listed(port, "/has", [missing]) == [True], "the uploads")
        assert request(port, "GET", f"/{here}", timeout=10).body == b"here"
        assert request(port, "GET", f"/{elsewhere}", timeout=10).body == b"elsewhere"
        answer = request(port, "GET", "/buffer-length", json.dumps([here, elsewhere]).encode(), timeout=10)
        assert answer.json() == [4, 9]
        reading = BackgroundRequest(port, "GET", f"/{missing}")
        assert reading.running  # what isn't there is waited for
        stack.close()
        assert reading.answer().status == 404


def test_one_of_concurrent_puts_wins(shared: tuple[int, Path]) -> None:
    port, place = shared
    data = LARGE + b"several"
    digest = digest_of(data)
    with uploading(port, digest, len(data)) as first:
        first.send(data[:5_000_000])
        wait_until(lambda: under_way(port, digest), "the upload")
        reading = BackgroundRequest(port, "GET", f"/{digest}")
        length = BackgroundRequest(port, "GET", "/buffer-length", json.dumps([digest]).encode())
        assert [request(port, "PUT", f"/{digest}", data).status for _ in range(3)] == [202] * 3
        assert listed(port, "/has-now", [digest]) == [False]
        assert reading.running
        assert length.running
        first.send(data[5_000_000:])
        assert first.status() == 200
    assert reading.answer().body == data
    assert length.answer().json() == [len(data)]
    assert request(port, "PUT", f"/{digest}", b"whatever").status == 201
    assert parts(place) == []


def test_disconnected_put_leaves_nothing(shared: tuple[int, Path]) -> None:
    port, place = shared
    digest = digest_of(LARGE + b"gone")
    with uploading(port, digest, len(LARGE) + 4) as upload:
        upload.send(LARGE)
        wait_until(lambda: len(parts(place)) == 1, "the temporary file")
        reading = BackgroundRequest(port, "GET", f"/{digest}")
    wait_until(lambda: parts(place) == [], "its end")
    assert reading.answer().status == 404
    assert not path_of(place, digest).exists()
    assert request(port, "PUT", f"/{digest}", LARGE + b"gone").status == 200


def test_wrong_put_leaves_nothing(shared: tuple[int, Path]) -> None:
    port, place = shared
    for body in (b"", b"small", LARGE):
        digest = digest_of(body + b"other")
        answer = request(port, "PUT", f"/{digest}", body)
        assert (answer.status, answer.body) == (400, b"Incorrect checksum")
        assert not path_of(place, digest).exists()
    assert parts(place) == []


def test_unneeded_body_is_not_awaited(shared: tuple[int, Path]) -> None:
    port, _ = shared
    request(port, "PUT", f"/{digest_of(b'there')}", b"there")
    with uploading(port, digest_of(b"there"), 1 << 40, "Expect: 100-continue") as upload:
        assert upload.status() == 201
    with uploading(port, digest_of(b"fresh"), 5, "Expect: 100-continue") as upload:
        assert upload.status() == 100
        upload.send(b"fresh")
        assert upload.status() == 200
    # Who doesn't ask can send it all, and then reads the answer.
    with uploading(port, digest_of(b"there"), len(LARGE)) as upload:
        upload.send(LARGE)
        assert upload.status() == 201
        upload.socket.sendall(b"GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n")
        assert upload.status() == 200


def test_directory_in_place_of_a_blob_is_no_blob(shared: tuple[int, Path]) -> None:
    port, place = shared
    digest = digest_of(b"a directory")
    path_of(place, digest).mkdir(parents=True)
    assert listed(port, "/has", [digest]) == [False]
    assert listed(port, "/buffer-length", [digest]) == [0]
    for method in ("GET", "PUT"):
        answer = request(port, method, f"/{digest}", b"a directory")
        assert (answer.status, answer.json()) == (
            400,
            {"message": f"File at path {path_of(place, digest)} is not a file."},
        )
    assert path_of(place, digest).is_dir()


def test_promise_is_kept_over_another_connection(shared: tuple[int, Path]) -> None:
    port, _ = shared
    digest = digest_of(b"promised")
    promised = request(port, "PUT", f"/promise/{digest.upper()}")
    assert (promised.status, promised.json()) == (202, {"checksum": digest, "expires_in": 600.0})
    reading = [BackgroundRequest(port, "GET", f"/{digest}") for _ in range(3)]
    assert listed(port, "/has", [digest]) == [True]
    assert listed(port, "/has-now", [digest]) == [False]
    assert listed(port, "/buffer-length", [digest]) == [True]
    assert request(port, "PUT", f"/{digest}", b"something else").status == 400
    assert all(one.running for one in reading)
    assert request(port, "PUT", f"/{digest}", b"promised").status == 200
    assert [one.answer().body for one in reading] == [b"promised"] * 3
    assert request(port, "PUT", f"/promise/{digest}").status == 202
    assert listed(port, "/buffer-length", [digest]) == [8]  # its size is known: that is said


async def test_promise_expires(tmp_path: Path) -> None:
    now = 1000.0
    async with StoreServer.running(StoreSettings(tmp_path, writable=True)) as server:
        port, digest = int(server.url.rsplit(":", 1)[1]), digest_of(b"never")
        server.state.promises = Promises(clock=lambda: now)
        await asyncio.to_thread(request, port, "PUT", f"/promise/{digest}")
        now += 599
        assert await asyncio.to_thread(listed, port, "/has", [digest]) == [True]
        reading = BackgroundRequest(port, "GET", f"/{digest}")
        await asyncio.to_thread(wait_until, lambda: server.state.activity.requests, "the request")
        await asyncio.sleep(0.1)
        assert reading.running
        now += 2
        answer = await asyncio.to_thread(reading.answer)
        assert (answer.status, answer.body) == (404, b"Not found")
        assert await asyncio.to_thread(listed, port, "/has", [digest]) == [False]


def test_promise_is_kept_by_another_process(tmp_path: Path) -> None:
    with serving(str(tmp_path), "--writable") as one, serving(str(tmp_path), "--writable") as other:
        for data in (b"by another", LARGE):
            request(one.port, "PUT", f"/promise/{digest_of(data)}")
            reading = BackgroundRequest(one.port, "GET", f"/{digest_of(data)}")
            assert request(other.port, "PUT", f"/{digest_of(data)}", data).status == 200
            assert reading.answer().body == data
            assert request(one.port, "PUT", f"/{digest_of(data)}", b"").status == 201


async def test_external_locks_are_awaited(tmp_path: Path) -> None:
    """A lock of the folder or of the file holds a reader that found nothing, until it is gone or old."""
    async with StoreServer.running(StoreSettings(tmp_path, lock_seconds=60)) as server:
        port = int(server.url.rsplit(":", 1)[1])
        for name in ("", "file"):
            digest = digest_of(name.encode())
            lock = path_of(tmp_path, digest).with_name(f"{digest}.LOCK" if name else ".LOCK")
            lock.parent.mkdir(exist_ok=True)
            lock.touch()
            reading = BackgroundRequest(port, "GET", f"/{digest}")
            await asyncio.to_thread(wait_until, lambda: server.state.activity.requests, "the request")
            await asyncio.sleep(0.1)
            assert reading.running
            place_file(tmp_path, name.encode())
            lock.unlink()
            assert (await asyncio.to_thread(reading.answer)).body == name.encode()
        missing = digest_of(b"missing")
        path_of(tmp_path, missing).parent.mkdir(exist_ok=True)
        lock = path_of(tmp_path, missing).with_name(".LOCK")
        lock.touch()
        os.utime(lock, (time.time() - 61, time.time() - 61))
        assert (await asyncio.to_thread(request, port, "GET", f"/{missing}")).status == 404
        assert lock.exists()


def test_kill_during_put_loses_no_other_blob(tmp_path: Path) -> None:
    digest = digest_of(LARGE)
    with serving(str(tmp_path), "--writable") as running:
        assert request(running.port, "PUT", f"/{digest_of(b'kept')}", b"kept").status == 200
        with uploading(running.port, digest, len(LARGE)) as upload:
            upload.send(LARGE[:-1])
            wait_until(lambda: len(parts(tmp_path)) == 1, "the temporary file")
            running.process.send_signal(signal.SIGKILL)
            running.process.wait(10)
    assert len(parts(tmp_path)) == 1
    with serving(str(tmp_path), "--writable") as running:
        assert parts(tmp_path) == []
        assert request(running.port, "GET", f"/{digest}").status == 404
        assert request(running.port, "GET", f"/{digest_of(b'kept')}").body == b"kept"
        assert request(running.port, "PUT", f"/{digest}", LARGE).status == 200


def test_full_disk_is_reported_and_server_continues(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
from shardcast.cli.main import store_main
store_main()
"""
    with started([sys.executable, "-c", code, str(tmp_path), "--writable"]) as running:
        with uploading(running.port, LARGE_DIGEST, len(LARGE)) as upload:
            with contextlib.suppress(ConnectionError):
                upload.send(LARGE)
            assert upload.status() in (500, 507)
        wait_until(lambda: parts(tmp_path) == [], "the end of the temporary file")
        assert request(running.port, "PUT", f"/{digest_of(b'small')}", b"small").status == 200


# Coded


def test_compressed_blobs_are_kept_and_negotiated(shared: tuple[int, Path]) -> None:
    port, place = shared
    data = b"many words " * 50_000
    digest, coded = digest_of(data), gzip.compress(data)
    zstandard = pytest.importorskip("zstandard")
    zst = zstandard.ZstdCompressor().compress(data)
    for bad in (b"", data, coded[:-1]):
        answer = request(port, "PUT", f"/{digest}", bad, headers={"Content-Encoding": "gzip"})
        assert (answer.status, answer.body) == (400, b"Invalid compressed payload")
    wrong = request(port, "PUT", f"/{digest}", gzip.compress(b"other"), headers={"Content-Encoding": "gzip"})
    assert (wrong.status, wrong.body) == (400, b"Incorrect checksum")
    for coding, bytes_, end in (("gzip", coded, "gz"), ("zstd", zst, "zst")):
        assert request(port, "PUT", f"/{digest}", bytes_, headers={"Content-Encoding": coding}).status == 200
        assert request(port, "PUT", f"/{digest}", bytes_, headers={"Content-Encoding": coding}).status == 201
        assert path_of(place, digest).with_name(f"{digest}.{end}").read_bytes() == bytes_
    assert path_of(place, digest).with_name(f"{digest}.BUFFERLENGTH").read_text() == str(len(data))
    assert not path_of(place, digest).exists()
    for path in ("/has", "/has-now"):
        assert listed(port, path, [digest]) == [True]
    assert listed(port, "/buffer-length", [digest]) == [len(data)]
    cases = {
        "gzip": ("gzip", coded),
        "zstd, gzip;q=0.5": ("zstd", zst),
        "x-zstd": ("zstd", zst),
        "gzip;q=0.1, zstd;q=0": ("gzip", coded),
        "br": (None, data),
        "identity, gzip": (None, data),
        "": (None, data),
    }
    for accepted, (coding, body) in cases.items():
        for _ in range(2):
            got = request(port, "GET", f"/{digest}", headers={"Accept-Encoding": accepted})
            if accepted == "identity, gzip":
                assert (got.status, got.headers.get("content-encoding")) == (200, "gzip")  # there is no other
                continue
            assert (got.status, got.headers.get("content-encoding"), got.body) == (200, coding, body), (
                accepted
            )
            assert got.headers["vary"] == "Accept-Encoding"
            asking = {"Accept-Encoding": accepted, "If-None-Match": got.headers["etag"]}
            assert request(port, "GET", f"/{digest}", headers=asking).headers["vary"] == "Accept-Encoding"
    spoil_file(path_of(place, digest).with_name(f"{digest}.zst"))
    got = request(port, "GET", f"/{digest}", headers={"Accept-Encoding": "zstd"})
    assert got.body == data  # from the gzip, which is right
    assert request(port, "PUT", f"/{digest}", data).status == 200
    assert not path_of(place, digest).with_name(f"{digest}.BUFFERLENGTH").exists()
    assert request(port, "GET", f"/{digest}", headers={"Accept-Encoding": "identity"}).body == data


@pytest.mark.parametrize(
    ("header", "forms", "decoded"),
    [
        (None, (None,), True),
        ("", (None,), True),
        ("gzip, deflate", ("gzip", None), True),
        ("zstd;q=0.2, gzip;q=0.3", ("gzip", "zstd", None), True),
        ("gzip;q=0", (None,), True),
        ("identity;q=0, gzip", ("gzip",), False),
        ("*;q=0, zstd", ("zstd",), False),
        ("gzip;q=0.2, identity;q=0.5", (None, "gzip"), True),
        ("gzip;q=nonsense", (None,), True),
        ("gzip;q=nan, zstd;q=inf", ("zstd", None), True),
    ],
)
def test_accept_encoding_selects_accepted_forms(
    header: str | None, forms: tuple[str | None, ...], decoded: bool
) -> None:
    assert accepted_forms(header, ("zstd", "gzip")) == (forms, decoded)


# How it is started and how it ends


def test_idle_timeout_ends_server_only_when_idle(tmp_path: Path) -> None:
    with serving(str(tmp_path), "--writable", "--timeout", "1.5") as running:
        request(running.port, "PUT", f"/promise/{digest_of(b'x')}")
        reading = BackgroundRequest(running.port, "GET", f"/{digest_of(b'x')}")
        time.sleep(3)
        assert running.process.poll() is None  # somebody waits for what was promised
        request(running.port, "PUT", f"/{digest_of(b'x')}", b"x")
        assert reading.answer().body == b"x"
        assert running.ended().code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_server_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    status = tmp_path / "status.json"
    status.write_text('{"pid": 7, "status": "starting"}')
    (tmp_path / "blobs").mkdir()
    with serving(str(tmp_path / "blobs"), "--status-file", str(status)) as running:
        expected = {"pid": 7, "status": "running", "port": running.port}
        assert json.loads(status.read_text()) == expected
        assert status.read_text().endswith("}\n")
        running.process.send_signal(number)
        assert running.ended().code == 0
    assert json.loads(status.read_text()) == expected


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--port-range", "9000", "8000"], 1),
        (["--port-range", "1", "70000"], 1),
        (["--lock-timeout", "0"], 1),
        (["--timeout", "-1"], 1),
        (["--layout", "round"], 1),
        (["--port", "TAKEN"], 3),
        (["--port-range", "TAKEN", "TAKEN"], 1),
    ],
)
def test_failed_start_is_written_to_status_file(tmp_path: Path, words: list[str], code: int) -> None:
    status = tmp_path / "status.json"
    status.write_text('{"pid": 7}')
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "status.json.tmp").symlink_to(precious)  # another user's
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [word.replace("TAKEN", str(taken.getsockname()[1])) for word in words]
        with started(our_command(str(tmp_path), "--status-file", str(status), *words)) as running:
            ended = running.ended()
    assert ended.code == code
    assert "Error: " in ended.output
    assert json.loads(status.read_text()) == {"pid": 7, "status": "failed"}
    assert precious.read_text() == "precious"


@pytest.mark.parametrize("unfinished", ["", "\n", '{"pid": 7, '])
async def test_unwritten_status_file_is_awaited(unfinished: str, tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    status.write_text(unfinished)
    awaited = asyncio.ensure_future(StatusFile.wait_for_file(status))
    await asyncio.wait([awaited], timeout=0)
    status.write_text('{"pid": 7, "status": "starting"}')
    (await awaited).report_running(80)
    assert json.loads(status.read_text()) == {"pid": 7, "status": "running", "port": 80}


@pytest.mark.parametrize(
    ("text", "why"), [(None, "did not appear"), ("", "stayed empty"), ('{"pid"', "stayed unfinished")]
)
async def test_never_written_status_file_ends_the_start(text: str | None, why: str, tmp_path: Path) -> None:
    status = tmp_path / "status.json"
    if text is not None:
        status.write_text(text)
    with pytest.raises(NodeFailed, match=rf"status\.json {why} for 0\.01 s; write {{}} there"):
        await StatusFile.wait_for_file(status, patience=0.01)
    assert (status.read_text() if status.exists() else None) == text


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
async def test_invalid_timeout_is_refused(seconds: float, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"must be longer than 0 s, not {seconds:g} s"):
        StoreSettings(tmp_path, lock_seconds=seconds).check()
    with pytest.raises(UsageError, match=f"must be longer than 0 s, not {seconds:g} s"):
        async with StoreServer.running(StoreSettings(tmp_path), timeout=seconds):
            pass


def test_port_is_picked_from_range(tmp_path: Path) -> None:
    taken = bind_free_port("127.0.0.1", 49152, 65535)
    with contextlib.closing(taken):
        taken.sockets[0].listen()
        port = taken.port
        assert 49152 <= port <= 65535
        with pytest.raises(NodeFailed):
            bind_free_port("127.0.0.1", port, port)
    with pytest.raises(UsageError):
        bind_free_port("127.0.0.1", 5, 4)
    with pytest.raises(
        NodeFailed, match=r"can't listen on 192\.0\.2\.1"
    ):  # and not each port after the other
        bind_free_port("192.0.2.1", 49152, 65535)


def test_environment_configures_server() -> None:
    found = read_settings(
        {
            "HASHSERVER_DIRECTORY": "theirs",
            "SHARDCAST_STORE_DIRECTORY": "blobs",
            "HASHSERVER_WRITABLE": "True",
            "HASHSERVER_HASH_ALGORITHM": "sha3-256",
            "HASHSERVER_LAYOUT": "flat",
            "HASHSERVER_EXTRA_DIRS": " a ; b;; ''",
            "HASHSERVER_LOCK_TIMEOUT": "3.5",
        }
    )
    assert found == StoreSettings(
        Path("blobs"), "sha3-256", "flat", ("a", "b"), writable=True, lock_seconds=3.5
    )
    assert parse_directories("''") == parse_directories('""') == parse_directories("") == ()
    plain = read_settings({"HASHSERVER_DIRECTORY": "x", "HASHSERVER_WRITABLE": ""})
    assert plain == StoreSettings(Path("x"))
    for wrong in ({}, {"WRITABLE": "yes"}, {"HASH_ALGORITHM": "md5"}, {"LOCK_TIMEOUT": "x"}):
        named = {"HASHSERVER_DIRECTORY": "x"} if wrong else {}
        with pytest.raises(UsageError):
            read_settings({**named, **{f"HASHSERVER_{name}": value for name, value in wrong.items()}})


def test_server_runs_under_gunicorn(tmp_path: Path) -> None:
    pytest.importorskip("gunicorn")
    blobs, extra = tmp_path / "blobs", tmp_path / "extra"
    blobs.mkdir()
    extra.mkdir()
    (extra / digest_of(b"extra")).write_bytes(b"extra")
    words = ["-k", "aiohttp.GunicornWebWorker", "-w", "2", "-b", "127.0.0.1:0"]
    env = {
        "HASHSERVER_DIRECTORY": str(blobs),
        "HASHSERVER_WRITABLE": "1",
        "HASHSERVER_EXTRA_DIRS": str(extra),
    }
    command = [sys.executable, "-m", "gunicorn", *words, "shardcast.nodes.store_server:app()"]
    with started(command, env, cwd=Path(__file__).parents[2]) as running:
        assert running.port, running.output
        assert request(running.port, "GET", f"/{digest_of(b'extra')}").body == b"extra"
        digest = digest_of(gzip.compress(b"x"))  # kept as it came
        assert request(running.port, "PUT", f"/{LARGE_DIGEST}", LARGE).status == 200
        for _ in range(4):
            assert request(running.port, "GET", f"/{LARGE_DIGEST}").body == LARGE
        assert request(running.port, "GET", f"/{digest}").status == 404
        running.process.send_signal(signal.SIGTERM)
        assert running.ended().code == 0
    with started(command, {"HOME": str(tmp_path)}, cwd=Path(__file__).parents[2]) as running:
        ended = running.ended()
    assert ended.code != 0
    assert "HASHSERVER_DIRECTORY" in ended.output


# Whatever comes


def raw(port: int, data: bytes) -> bytes:
    """Send bytes as they are; what came back first. Who sends no more must not say so: aiohttp takes that for
    going away, and gives no answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(data)
        return connection.recv(4096)


@given(st.one_of(st.text(max_size=70), st.text("0123456789abcdefABCDEFgx ", min_size=60, max_size=66)))
def test_malformed_checksums_are_refused(text: str) -> None:
    try:
        digest = parse_checksum(text, "path", "checksum")
    except BadRequest as error:
        json.dumps(error.payload)
        assert len(text) != 64 or any(one not in "0123456789abcdefABCDEF" for one in text)
    else:
        assert bytes.fromhex(digest) == bytes.fromhex(text)
        assert len(digest) == 64


@given(st.one_of(st.binary(max_size=300), st.recursive(st.none() | st.text() | st.floats(), st.lists).map(
    lambda value: json.dumps(value).encode())))  # fmt: skip
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b"1" * 5000)
@example(b"\xff")
@example(b'["\\ud800"]')
@example(b"[[1e999]]")
def test_malformed_checksum_lists_are_refused(body: bytes) -> None:
    def is_no_json(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    try:
        assert all(len(digest) == 64 for digest in parse_checksums(body))
    except BadRequest as error:
        answer = json_response(error.payload, 400).body
        assert isinstance(answer, bytes)
        json.loads(answer, parse_constant=is_no_json)


QUIET = settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@QUIET
@given(
    path=st.one_of(
        st.binary(max_size=80),
        st.from_regex(rb"(promise/|has|%2e%2e/|\.\./){0,3}[0-9a-f]{62,66}", fullmatch=True),
    ),
    body=st.binary(max_size=100),
    method=st.sampled_from(["GET", "PUT", "HEAD", "POST", "OPTIONS", "DELETE", "PATCH"]),
    header=st.sampled_from(
        ["Range", "If-None-Match", "Accept-Encoding", "Content-Encoding", "If-Range", "Expect"]
    ),
    value=st.one_of(
        st.text("bytes=-0123456789, ", max_size=40),
        st.text("gzipstd;q=.,0*", max_size=30),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    ),
)
def test_any_request_is_answered_without_server_error(
    shared: tuple[int, Path], path: bytes, body: bytes, method: str, header: str, value: str
) -> None:
    port, place = shared
    path = bytes(byte for byte in path if byte > 32)
    lines = ["Host: x", "Connection: close", f"{header}: {value}", f"Content-Length: {len(body)}"]
    head = " HTTP/1.1\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    said = raw(port, method.encode() + b" /" + path + head.encode() + body)
    assert int(said.split(b" ")[1]) < 500, said
    assert request(port, "GET", "/healthcheck").status == 200
    assert parts(place) == []


@pytest.mark.parametrize("host", [b"[::x", b"\xff", b"a b", b"", b"x:99999999"])
def test_invalid_host_header_causes_no_server_error(shared: tuple[int, Path], host: bytes) -> None:
    port, _ = shared
    for path in (b"/has/", b"/" + b"0" * 64 + b"/"):
        said = raw(port, b"GET " + path + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
        assert int(said.split(b" ")[1]) in (307, 400), said


@pytest.mark.parametrize(("seconds", "told"), [(0, True), (1e12, False), (-1e12, False), (1e300, False)])
def test_file_may_have_any_time(seconds: float, told: bool) -> None:
    request = make_mocked_request("GET", "/")
    head = AnswerHead(request, "0" * 64, length=1, mtime=seconds, coding=None, ranges=True)
    assert ("Last-Modified" in head.headers) == told


@QUIET
@given(value=st.text("bytes=-0123456789,; xX", max_size=40), small=st.booleans())
def test_any_range_is_answered_without_server_error(
    shared: tuple[int, Path], value: str, small: bool
) -> None:
    port, place = shared
    data = b"0123456789" if small else LARGE[: 200 << 10]
    if not path_of(place, digest_of(data)).exists():
        place_file(place, data)
    got = request(port, "GET", f"/{digest_of(data)}", headers={"Range": value.strip()})
    if got.status == 206:
        begin, end = (int(one) for one in got.headers["content-range"][6:].split("/")[0].split("-"))
        assert got.body == data[begin : end + 1]
    elif got.status == 200:
        assert got.body == data
    else:
        assert got.status == 416


def test_too_long_list_is_refused(shared: tuple[int, Path]) -> None:
    port, _ = shared
    many = [digest_of(b"%d" % number) for number in range(3000)]
    assert listed(port, "/has", many) == [False] * 3000
    assert listed(port, "/buffer-length", many) == [0] * 3000
    with contextlib.suppress(ConnectionError):
        assert request(port, "GET", "/has", b" " * (17 << 20)).status == 413
    assert request(port, "GET", "/healthcheck").status == 200
