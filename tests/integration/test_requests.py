"""Requests to a running origin: the right answers to good ones, and nothing of value to bad ones."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import random
import re
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support import processes

SECRET = b"this is nobody's business"
SHARD = 1000


@dataclass(frozen=True)
class Answer:
    """What came back: status 0 where the connection was closed without an answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def refused(self) -> bool:
        """Whether it says that this is no request to answer; closing the connection says so too."""
        return self.status == 0 or 400 <= self.status < 500


def exchange(port: int, request: bytes, head: bool = False) -> Answer:
    """Send bytes as they are, and read one answer; fails when there is none within ten seconds."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        # It may well answer, and close, before it has read everything.
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            while not _is_whole(received, head) and (data := connection.recv(64 * 1024)):
                received += data
    before, found, body = bytes(received).partition(b"\r\n\r\n")
    if not found:
        return Answer(0)
    first, *lines = before.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split(" ")[1]), headers, body)


def _is_whole(received: bytearray, head: bool) -> bool:
    before, found, body = bytes(received).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", before)
    return bool(found) and (head or (length is not None and len(body) >= int(length[1])))


@dataclass(frozen=True)
class Origin:
    """A running origin, and everything in its data directory that is for everybody."""

    node: processes.Node
    data_dir: Path
    public: Mapping[str, bytes]

    def ask(
        self,
        path: str | bytes,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        """A request as it is written: nothing in the path is normalised or encoded on the way."""
        raw = path if isinstance(path, bytes) else path.encode()
        lines = {"Host": "127.0.0.1", "Connection": "close", **(headers or {})}
        if body:
            lines["Content-Length"] = str(len(body))
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items()).encode(
            "utf-8", "surrogateescape"
        )
        request = method.encode() + b" " + raw + b" HTTP/1.1\r\n" + head + b"\r\n" + body
        return exchange(self.node.port, request, head=method == "HEAD")

    def assert_gave_nothing_away(self, answer: Answer) -> None:
        """No answer has a secret, or is a failure of ours; one with content has a public file's."""
        assert SECRET not in answer.body
        assert b"root:" not in answer.body
        assert answer.status < 500 or answer.status == 505, f"{answer.status}: {self.node.log}"
        if answer.status == 200:
            assert answer.body in self.public.values(), answer

    def assert_lives(self, log_from: int = 0) -> None:
        """It answers, and what it logged since is for those who run it, not for those who wrote it."""
        assert self.ask("/healthcheck").body == b"OK"
        assert "Traceback" not in (log := self.node.log[log_from:]), log


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Origin]:
    where = tmp_path_factory.mktemp("served")
    data_dir = where / "data"
    with processes.origin(data_dir) as node:
        for number, size in ((1, 2500), (2, 3000)):
            file = where / f"payload-{number}.bin"
            file.write_bytes(random.Random(number).randbytes(size))
            done = processes.run(
                "broadcast", str(file), "--data-dir", str(data_dir), "--shard-size", str(SHARD)
            )
            assert (done.returncode, done.stdout) == (0, f"v{number}\n"), done.stderr
        files = [
            data_dir / "distribution.txt",
            *data_dir.glob("v*/manifest.jsonl"),
            *data_dir.glob("v*/shard_*.bin"),
        ]
        public = {f"/{file.relative_to(data_dir)}": file.read_bytes() for file in files}
        assert len(public) == 1 + 2 + 6
        # What lies around and is for nobody.
        for private in (
            "../secret.txt",
            "notes.txt",
            "v1/notes.txt",
            "v1/.hidden",
            ".shardcast/secret",
            "v3/a.bin",
        ):
            file = data_dir / private
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(SECRET)
        yield Origin(node, data_dir, public)


@pytest.fixture
def origin(running: Origin) -> Iterator[Origin]:
    """The origin, which is well after each test."""
    log_from = len(running.node.log)
    yield running
    running.assert_lives(log_from)


# Good requests -----------------------------------------------------------------------------------


def test_list_has_the_form_of_0_1_0(origin: Origin) -> None:
    answer = origin.ask("/distribution.txt")
    wanted = [
        f"v{number}: {hashlib.sha256(random.Random(number).randbytes(size)).hexdigest()}|3\n"
        for number, size in ((1, 2500), (2, 3000))
    ]
    assert (answer.status, answer.body) == (200, "".join(wanted).encode())


def test_every_public_file_is_served_verbatim(origin: Origin) -> None:
    for path, content in origin.public.items():
        answer = origin.ask(path)
        assert (answer.status, answer.body) == (200, content), path
        assert answer.headers["content-length"] == str(len(content))
        assert "content-encoding" not in answer.headers


@pytest.mark.parametrize("accept", ["gzip", "br", "gzip, deflate, br, zstd", "*"])
def test_shards_are_never_compressed(accept: str, origin: Origin) -> None:
    answer = origin.ask("/v1/shard_001.bin", headers={"Accept-Encoding": accept})
    assert "content-encoding" not in answer.headers
    assert answer.body == origin.public["/v1/shard_001.bin"]


def test_shard_has_digest_headers(origin: Origin) -> None:
    content = origin.public["/v1/shard_002.bin"]
    digest = hashlib.sha256(content)
    for method in ("GET", "HEAD"):
        answer = origin.ask("/v1/shard_002.bin", method)
        assert answer.status == 200
        assert answer.headers["etag"] == f'"{digest.hexdigest()}"'
        assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
        assert answer.headers["content-length"] == str(len(content))
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.body == (content if method == "GET" else b"")


@pytest.mark.parametrize("path", ["/distribution.txt", "/v1/manifest.jsonl", "/healthcheck", "/status"])
def test_head_has_no_body(path: str, origin: Origin) -> None:
    answer = origin.ask(path, "HEAD")
    assert (answer.status, answer.body) == (200, b"")


def test_healthcheck_and_status_answer(origin: Origin) -> None:
    health, status = origin.ask("/healthcheck"), origin.ask("/status")
    assert (health.status, health.body) == (200, b"OK")
    assert status.status == 200
    assert status.headers["content-type"].startswith("application/json")
    assert isinstance(json.loads(status.body), dict)
    assert str(origin.data_dir.parent) not in status.body.decode(), (
        "tells everybody where it lies on the disk"
    )


def test_requests_of_0_3_are_answered(origin: Origin) -> None:
    """Names of five digits, and a file to measure a server by."""
    for number in (1, 2, 3):
        answer = origin.ask(f"/v2/shard_{number:05}.bin")
        assert (answer.status, answer.body) == (200, origin.public[f"/v2/shard_{number:03}.bin"])
    answer = origin.ask("/data1.bin")
    assert (answer.status, len(answer.body)) == (200, 1024 * 1024)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [("bytes=0-", 0, 1000), ("bytes=0-0", 0, 1), ("bytes=500-", 500, 1000), ("bytes=999-", 999, 1000),
     ("bytes=10-19", 10, 20), ("bytes=900-5000", 900, 1000), ("bytes=-5", 995, 1000),
     ("bytes=-5000", 0, 1000)],
)  # fmt: skip
def test_range_is_answered_with_that_part(asked: str, start: int, stop: int, origin: Origin) -> None:
    content = origin.public["/v1/shard_001.bin"]
    answer = origin.ask("/v1/shard_001.bin", headers={"Range": asked})
    assert (answer.status, answer.body) == (206, content[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(content)}"
    assert answer.headers["content-length"] == str(stop - start)
    assert answer.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'


@pytest.mark.parametrize("asked", ["bytes=1000-", "bytes=999999999999-", "bytes=1000-2000"])
def test_range_beyond_the_end_gets_416(asked: str, origin: Origin) -> None:
    answer = origin.ask("/v1/shard_001.bin", headers={"Range": asked})
    assert answer.status == 416
    assert answer.headers["content-range"] == "bytes */1000"


@pytest.mark.parametrize(
    "asked",
    ["bytes=abc", "bytes=5-2", "bytes=0-0,2-3", "bytes=", "bytes=-", "bytes=--5", "bytes=-0", "lines=1-2",
     "0-5", "bytes=0-5-9", f"bytes={10**30}-", "bytes=+1-5", "bytes=0x0-0x5", "bytes= 0 - 5 ", "bytes=٠-٥",
     "bytes=1e2-", "bytes=" + "0-0," * 1500],
)  # fmt: skip
def test_malformed_range_gets_all_or_is_refused(asked: str, origin: Origin) -> None:
    """Never another part than one that was asked for, and never a failure of ours."""
    content = origin.public["/v1/shard_001.bin"]
    answer = origin.ask("/v1/shard_001.bin", headers={"Range": asked})
    if answer.status == 200:
        assert answer.body == content
    elif answer.headers.get("content-type", "").startswith("multipart/byteranges"):
        assert answer.status == 206
    elif answer.status == 206:
        # Some of these can be read as a range with good will.
        found = re.fullmatch(r"bytes (\d+)-(\d+)/1000", answer.headers["content-range"])
        assert found
        assert answer.body == content[int(found[1]) : int(found[2]) + 1]
    else:
        assert answer.refused


def test_if_match_of_other_digest_gets_412(origin: Origin) -> None:
    """A reader that goes on in a shard learns when it is another version's by now."""
    content = origin.public["/v1/shard_001.bin"]
    right, wrong = (hashlib.sha256(data).hexdigest() for data in (content, b"other"))
    for tag, status in ((f'"{right}"', 206), (f'"{wrong}"', 412), (f'"{wrong}", "{right}"', 206), ("*", 206)):
        answer = origin.ask("/v1/shard_001.bin", headers={"If-Match": tag, "Range": "bytes=10-19"})
        assert answer.status == status, tag
        assert answer.body == content[10:20] if status == 206 else content[10:20] not in answer.body


def test_one_connection_serves_many_requests(origin: Origin) -> None:
    content = origin.public["/v1/shard_001.bin"]
    request = b"GET /v1/shard_001.bin HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", origin.node.port), timeout=10) as connection:
        for _ in range(20):
            connection.sendall(request)
            received = bytearray()
            while not _is_whole(received, head=False):
                data = connection.recv(64 * 1024)
                assert data, "closed a connection that may be kept"
                received += data
            assert received.endswith(content)


# Bad requests ------------------------------------------------------------------------------------


def climbing() -> list[str]:
    """``../../…/etc/passwd`` and a file beside the data directory, written in every way."""
    targets = ["etc/passwd", "secret.txt"]
    # Once and twice encoded, in overlong UTF-8, and with what a careless check is blind behind.
    ups = ["..", "%2e%2e", "%2E.", ".%2e", "%252e%252e", "%c0%ae%c0%ae", "%u002e%u002e", "..%00", "....",
           "..;"]  # fmt: skip
    slashes = ["/", "%2f", "%252f", "\\", "%5c", "//", "%c0%af", "/./"]
    paths = []
    for target in targets:
        for up in ups:
            for slash in slashes:
                climb = (up + slash) * 12 if target.startswith("etc") else up + slash
                paths += [f"/{climb}{target}", f"/v1/{up}{slash}{climb}{target}"]
    return paths


def test_path_cannot_leave_the_data_directory(origin: Origin) -> None:
    for path in climbing():
        answer = origin.ask(path)
        assert answer.refused, f"{path} was answered with {answer.status}"
        origin.assert_gave_nothing_away(answer)


@pytest.mark.parametrize(
    "target",
    ["http://127.0.0.1/../../etc/passwd", "http://127.0.0.1/%2e%2e/secret.txt",
     "http://example.org/../secret.txt", "file:///etc/passwd", "//etc/passwd", "///etc/passwd",
     "/%2fetc%2fpasswd", "/v1//etc/passwd", "/v1/%2fetc%2fpasswd", "*", "etc/passwd", "../secret.txt", "",
     "/\\\\host\\share", "127.0.0.1:80"],
)  # fmt: skip
def test_other_target_forms_cannot_leave_the_data_directory(target: str, origin: Origin) -> None:
    answer = origin.ask(target)
    assert answer.status != 200, answer
    origin.assert_gave_nothing_away(answer)


def test_absolute_target_is_read_as_its_path(origin: Origin) -> None:
    """The form that a request to a proxy has; a server must take it too."""
    answer = origin.ask(f"{origin.node.url}/v1/shard_001.bin")
    assert answer.body == origin.public["/v1/shard_001.bin"]


@pytest.mark.parametrize(
    "path",
    ["/v1/../v2/shard_001.bin", "/v1/./shard_001.bin", "/v1//shard_001.bin", "//v1/shard_001.bin",
     "/v1/%2e/shard_001.bin", "/v1/%2e%2e/v2/shard_001.bin", "/v1%2fshard_001.bin", "/v1/shard_001.bin/",
     "/v1/shard_001.bin/.", "/v1/shard_001.bin/../shard_002.bin", "/v1\\shard_001.bin",
     "/./distribution.txt", "/v1/../distribution.txt", "/%76%31/shard%5f001.bin",
     "/v1/shard_001.bin?x=/../..", "/v1/shard_001.bin#x"],
)  # fmt: skip
def test_dotted_path_leads_to_public_file_or_404(path: str, origin: Origin) -> None:
    answer = origin.ask(path)
    assert answer.status == 200 or 300 <= answer.status < 400 or answer.refused
    origin.assert_gave_nothing_away(answer)


@pytest.mark.parametrize(
    "path",
    ["/.shardcast/lock", "/.shardcast/", "/.shardcast", "/.shardcast/secret", "/%2eshardcast/secret",
     "/v1/.hidden", "/v1/.anything", "/v1/notes.txt", "/notes.txt", "/v3/a.bin", "/v3/manifest.jsonl",
     "/v3/shard_001.bin", "/blobs", "/blobs/", "/blobs/..", "/v1/..", "/v1/.", "/favicon.ico"],
)  # fmt: skip
def test_private_files_get_404(path: str, origin: Origin) -> None:
    answer = origin.ask(path)
    assert answer.status != 200
    assert answer.refused or 300 <= answer.status < 400
    origin.assert_gave_nothing_away(answer)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v2/"])
def test_folder_listing_shows_nothing_private(path: str, origin: Origin) -> None:
    answer = origin.ask(path)
    assert answer.status < 500
    for name in (SECRET, b"notes.txt", b".hidden", b".shardcast"):
        assert name not in answer.body


@pytest.mark.parametrize(
    "name",
    ["shard_0001.bin", "shard_1.bin", "shard_01.bin", "shard_000.bin", "shard_00000.bin", "shard_-01.bin",
     "shard_+01.bin", "shard_004.bin", "shard_999.bin", "shard_1000.bin", "shard_1e0.bin", "shard_0x1.bin",
     "shard_001.BIN", "Shard_001.bin", "shard_001", "shard_001.bin%20", "%20shard_001.bin",
     "shard_001.bin%00", "shard_001%00.bin", "%00shard_001.bin", "shard_001.bin%0a",
     "shard_001.bin%0d%0aX:%20y", "shard_٠٠١.bin", "shard_%D9%A0%D9%A0%D9%A1.bin",
     "shard_%EF%BC%90%EF%BC%90%EF%BC%91.bin", "shard_00%C2%B9.bin", "shard_.bin", "shard_001.bin.tmp",
     "shard_001.bin~", "shard_001_.bin", "shard_0_1.bin", "shard_" + "0" * 5000 + "1.bin",
     "shard_" + "9" * 5000 + ".bin", "manifest.json", "manifest.jsonl.tmp", "manifest.jsonl%00",
     "distribution.txt"],
)  # fmt: skip
def test_other_names_of_a_shard_are_refused(name: str, origin: Origin) -> None:
    answer = origin.ask(f"/v1/{name}")
    assert answer.refused, f"answered with {answer.status}"
    origin.assert_gave_nothing_away(answer)


@pytest.mark.parametrize(
    "version",
    ["v0", "v01", "V1", "v-1", "v+1", "v", "1", "v1.0", "v1%20", "%20v1", "v%31%00", "v١", "v%D9%A1",
     "v%EF%BC%91", "v1e0", "v" + "9" * 5000, "v1_0", "latest"],
)  # fmt: skip
def test_other_names_of_a_version_are_refused(version: str, origin: Origin) -> None:
    for name in ("shard_001.bin", "manifest.jsonl"):
        answer = origin.ask(f"/{version}/{name}")
        assert answer.refused, f"answered with {answer.status}"


@pytest.mark.parametrize(
    "raw",
    [b"/v1/shard_001.bin\x00", b"/\x00/distribution.txt", b"/\xff\xfe", b"/v1/\xc3\x28", b"/%", b"/%zz",
     b"/%2", b"/%ff", b"/%00", b"/v1/%00", b"/\x7f", b"/\x1b[31m"],
)  # fmt: skip
def test_undecodable_path_is_refused(raw: bytes, origin: Origin) -> None:
    answer = origin.ask(raw)
    assert answer.refused, f"answered with {answer.status}"


@pytest.mark.parametrize(
    "path",
    ["/" + "a" * 100_000, "/" + "../" * 33_000, "/v1/" + "%2e%2e%2f" * 11_000,
     "/v1/shard_" + "0" * 100_000 + ".bin", "/" + "a/" * 50_000, "/distribution.txt?" + "x" * 100_000],
    ids=["name", "ups", "encoded-ups", "shard", "folders", "query"],
)  # fmt: skip
def test_path_of_100_kb_is_refused(path: str, origin: Origin) -> None:
    answer = origin.ask(path)
    assert answer.refused, f"answered with {answer.status}"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "PROPFIND", "MKCOL"])
@pytest.mark.parametrize(
    "path", ["/v1/shard_001.bin", "/distribution.txt", "/v1/manifest.jsonl", "/healthcheck"]
)
def test_writing_methods_are_refused(method: str, path: str, origin: Origin) -> None:
    before = {name: (origin.data_dir / name[1:]).read_bytes() for name in origin.public}
    answer = origin.ask(path, method, body=b"mine now")
    assert answer.status == 405
    assert "GET" in answer.headers["allow"]
    assert {name: (origin.data_dir / name[1:]).read_bytes() for name in origin.public} == before


@pytest.mark.parametrize("method", ["BREW", "get", "GETGET", "X" * 5000, "CONNECT", "TRACE", "OPTIONS"])
def test_unknown_method_is_refused(method: str, origin: Origin) -> None:
    answer = origin.ask("/distribution.txt", method)
    # A parser may refuse what is no method at all before it knows the path.
    assert answer.refused or answer.status == 501


GET_LIST = b"GET /distribution.txt HTTP/1.1\r\nHost: x\r\n"


BLANK, HTTP_09 = b"\r\n\r\n", b"GET /distribution.txt\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [BLANK, b"GET\r\n\r\n", HTTP_09, b"GET / HTTP/9.9\r\n\r\n",
     b"GET / FTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
     bytes(range(256)) * 4, b"GET " + b"A" * 200_000,
     GET_LIST + b"Content-Length: -1\r\nConnection: close\r\n\r\n",
     GET_LIST + b"Content-Length: 1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n",
     GET_LIST + "Content-Length: ١\r\n\r\n".encode(),
     GET_LIST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
     GET_LIST + b"X-Fill: " + b"a" * 1_000_000 + b"\r\n\r\n", GET_LIST + b"X-Many: a\r\n" * 50_000 + b"\r\n",
     GET_LIST + b": no name\r\n\r\n",
     GET_LIST + b"Range: bytes=0-1\r\nRange: bytes=2-3\r\nConnection: close\r\n\r\n"],
    ids=["nothing", "no-target", "http-0.9", "http-9.9", "no-http", "tls", "bytes", "endless-target",
     "negative-length", "two-lengths", "unicode-length", "broken-chunk", "large-header", "many-headers",
     "nameless-header", "two-ranges"],
)  # fmt: skip
def test_malformed_request_is_refused(request_: bytes, origin: Origin) -> None:
    with socket.create_connection(("127.0.0.1", origin.node.port), timeout=10) as connection:
        with contextlib.suppress(OSError):  # it may have closed by now, having read enough
            connection.sendall(request_)
            if request_ == BLANK:  # a request may still follow
                connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(64 * 1024):
                received += data
    found = re.match(rb"HTTP/1\.[01] (\d{3}) ", received)
    if found:
        status = int(found[1])
        assert status in (200, 206) or 400 <= status < 500 or status in (501, 505)
    else:
        # The connection is cut at once, and with so much unread an answer can get lost on its way.
        assert (received == b"" and request_ in (BLANK, HTTP_09)) or len(request_) > 100_000
    assert SECRET not in received


def test_idle_connections_do_not_block_others(origin: Origin) -> None:
    """Two hundred that connect and say nothing, or half of something."""
    with contextlib.ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", origin.node.port), timeout=10)
            )
            connection.sendall((b"", b"G", b"GET /v1/shard_001.bin HTTP/1.1\r\nHost:")[number % 3])
        answer = origin.ask("/v1/shard_001.bin")
        assert answer.body == origin.public["/v1/shard_001.bin"]


def test_stopped_reader_does_not_block_others(origin: Origin) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", origin.node.port), timeout=10)
            )
            connection.sendall(b"GET /data1.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = origin.ask("/v2/shard_003.bin")
        assert answer.body == origin.public["/v2/shard_003.bin"]


# Any request -------------------------------------------------------------------------------------

WORDS = [
    "", "..", ".", "%2e%2e", "..%2f..", "%00", "%2f", "%5c", "~", "%", "%c0%af",
    "v1", "v2", "v9", "shard_001.bin", "shard_003.bin", "manifest.jsonl", "distribution.txt", "status",
    "data1.bin", "healthcheck", "blobs", ".shardcast", "lock", "etc", "passwd", "secret.txt", "notes.txt",
]  # fmt: skip
NAMES = [
    "Range", "If-Match", "If-None-Match", "If-Range", "If-Modified-Since", "Accept-Encoding", "Accept",
    "Host", "Shardcast-Accept", "X-Anything", "Cookie", "Expect", "Upgrade", "Authorization", "Content-Type",
]  # fmt: skip
VALUES = ["*", '"x"', "gzip", "landing", "100-continue", "websocket", "Thu, 01 Jan 1970 00:00:00 GMT"]
SEGMENTS = st.one_of(
    st.sampled_from(WORDS),
    st.text(st.characters(codec="utf-8", exclude_characters=" \r\n"), max_size=20),
    st.from_regex(r"\Ashard_[0-9]{1,6}\.bin\Z"),
    st.from_regex(r"\Av[0-9]{1,3}\Z"),
)
HEADERS = st.dictionaries(
    st.sampled_from(NAMES),
    st.one_of(
        st.sampled_from(VALUES),
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=40),
        st.from_regex(r"\Abytes=[0-9]{0,12}-[0-9]{0,12}(,[0-9]{0,3}-[0-9]{0,3})?\Z"),
    ),
    max_size=3,
)
#: Answers that stay open as long as somebody reads them.
LIVE = ("feed", "have", "lease")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    segments=st.lists(SEGMENTS, max_size=6),
    method=st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "DELETE", "OPTIONS"]),
    headers=HEADERS,
)
@example(segments=["v1", "shard_001.bin"], method="GET", headers={"Range": "bytes=0-5", "If-Range": '"x"'})
@example(segments=["..", "secret.txt"], method="GET", headers={})
def test_random_requests_get_nothing_private_and_no_500(
    origin: Origin, segments: list[str], method: str, headers: dict[str, str]
) -> None:
    path = "/" + "/".join(segment for segment in segments if segment not in LIVE)
    answer = origin.ask(path, method, headers)
    assert SECRET not in answer.body
    assert b"root:" not in answer.body
    assert answer.status < 500 or answer.status in (501, 505), f"{method} {path} {headers}: {answer.status}"
    own = re.split(r"[?#]", path)[0].endswith(("status", "healthcheck", "data1.bin"))
    if method == "GET" and answer.status == 200 and not own:
        assert answer.body in origin.public.values(), f"{path}: {answer.body[:100]!r}"
