"""Ours beside the real hashserver 1.0.2: the same requests, in the same states, to both.

What they answer and leave on the disk is the same, but for the differences that ``docs/compatibility.md``
lists, each under the name that it has here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.blob_stores import digest_of
from tests.support.hash_servers import (
    UVICORN,
    Answer,
    BackgroundRequest,
    Running,
    hashserver_command,
    our_command,
    request,
    started,
    uploading,
    wait_until,
)
from tests.support.legacy import DIRECTLY, ROOT, installed_peer

pytestmark = [pytest.mark.legacy, pytest.mark.xdist_group("hashserver")]

HEADERS = (
    "content-type", "content-length", "content-disposition", "content-range", "accept-ranges", "location",
    "access-control-allow-origin", "access-control-allow-methods", "access-control-max-age",
    "access-control-allow-headers",
)  # fmt: skip
"""The headers that are compared. ETag is ours on purpose; Last-Modified is the file's time in both."""
LOCK_SECONDS = 1.5


@pytest.fixture(scope="module")
def hashserver() -> Path:
    return installed_peer("hashserver")


@dataclass
class Side:
    """One of the two servers, and the directories that it has."""

    port: int
    root: Path
    layout: str
    algorithm: str

    @property
    def place(self) -> Path:
        return self.root / "blobs"

    def digest(self, data: bytes) -> str:
        return digest_of(data, self.algorithm)

    def file(self, digest: str) -> Path:
        parent = self.place / digest[:2] if self.layout == "prefix" else self.place
        parent.mkdir(exist_ok=True)
        return parent / digest

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Seen:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.seen(request(self.port, method, path, body, headers=named))

    def seen(self, answer: Answer) -> Seen:
        body = answer.body.replace(str(self.root).encode(), b"ROOT")
        kept = {name: answer.headers[name] for name in HEADERS if name in answer.headers}
        if "location" in kept:
            kept["location"] = kept["location"].replace(f":{self.port}/", ":PORT/")
        if body != answer.body:
            kept.pop("content-length", None)
        return Seen(answer.status, body, kept)

    def files(self) -> dict[str, object]:
        """Everything in the directory: its mode, and a file's bytes."""
        found: dict[str, object] = {}
        for one in [self.place, *self.place.rglob("*")]:
            name = str(one.relative_to(self.root))
            if ".shardcast-store" not in name:
                data = hashlib.md5(one.read_bytes()).hexdigest() if one.is_file() else "folder"
                found[name] = (oct(one.stat().st_mode), data)
        return found


@dataclass(frozen=True)
class Seen:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def both(
    folder: Path, place: Path, layout: str, algorithm: str, *words: str
) -> contextlib.AbstractContextManager[tuple[Side, Side]]:
    @contextlib.contextmanager
    def run() -> Iterator[tuple[Side, Side]]:
        with contextlib.ExitStack() as stack:
            running: list[tuple[Running, Path]] = []
            for name, begin in (("ours", our_command), ("them", lambda *w: hashserver_command(folder, *w))):
                root = place / name
                for one in ("blobs", "flat", "prefix"):
                    (root / one).mkdir(parents=True)
                (root / "prefix" / ".HASHSERVER_PREFIX").write_text("1\n")
                extra = ["--extra-dirs", f"{root / 'flat'};{root / 'prefix'}"]
                settings = ["--layout", layout, "--hash-algorithm", NAMES[algorithm], *words, *extra]
                command = begin(str(root / "blobs"), "--lock-timeout", str(LOCK_SECONDS), *settings)
                running.append((stack.enter_context(started(command, DIRECTLY)), root))
            for one, _ in running:
                assert one.port, one.output
            first, second = (Side(one.port, root, layout, algorithm) for one, root in running)
            yield first, second

    return run()


NAMES = {"sha256": "sha-256", "sha3-256": "sha3-256"}


@pytest.fixture(
    scope="module", params=[("prefix", "sha256"), ("flat", "sha3-256")], ids=["prefix-sha256", "flat-sha3"]
)
def pair(
    request: pytest.FixtureRequest, hashserver: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Side, Side]]:
    layout, algorithm = request.param
    place = tmp_path_factory.mktemp(f"pair-{layout}")
    with both(hashserver, place, layout, algorithm, "--writable") as sides:
        yield sides


# The states that a blob can be in. Each is brought about at one side, for the blob with these bytes.

State = Callable[[Side, bytes], contextlib.AbstractContextManager[object]]


@contextlib.contextmanager
def missing(side: Side, data: bytes) -> Iterator[None]:
    yield


@contextlib.contextmanager
def present(side: Side, data: bytes) -> Iterator[None]:
    side.file(side.digest(data)).write_bytes(data)
    yield


@contextlib.contextmanager
def corrupt(side: Side, data: bytes) -> Iterator[None]:
    side.file(side.digest(data)).write_bytes(b"something else")
    yield


@contextlib.contextmanager
def directory(side: Side, data: bytes) -> Iterator[None]:
    side.file(side.digest(data)).mkdir()
    yield


@contextlib.contextmanager
def in_flat(side: Side, data: bytes) -> Iterator[None]:
    (side.root / "flat" / side.digest(data)).write_bytes(data)
    yield


@contextlib.contextmanager
def in_prefix(side: Side, data: bytes) -> Iterator[None]:
    digest = side.digest(data)
    (side.root / "prefix" / digest[:2]).mkdir(exist_ok=True)
    (side.root / "prefix" / digest[:2] / digest).write_bytes(data)
    yield


@contextlib.contextmanager
def promised(side: Side, data: bytes) -> Iterator[None]:
    assert side.ask("PUT", f"/promise/{side.digest(data)}").status == 202
    yield


@contextlib.contextmanager
def promised_and_present(side: Side, data: bytes) -> Iterator[None]:
    with present(side, data), promised(side, data):
        yield


@contextlib.contextmanager
def locked(side: Side, data: bytes) -> Iterator[None]:
    file = side.file(side.digest(data))
    file.with_name(f"{file.name}.LOCK").touch()
    yield


@contextlib.contextmanager
def present_and_locked(side: Side, data: bytes) -> Iterator[None]:
    with present(side, data), locked(side, data):
        yield


@contextlib.contextmanager
def corrupt_and_locked(side: Side, data: bytes) -> Iterator[None]:
    with corrupt(side, data), locked(side, data):
        yield


STATES: dict[str, State] = {
    state.__name__: state
    for state in (
        missing, present, corrupt, directory, in_flat, in_prefix, promised, promised_and_present, locked,
        present_and_locked, corrupt_and_locked,
    )
}  # fmt: skip

Request = Callable[[Side, bytes], Seen]
REQUESTS: dict[str, Request] = {
    "GET": lambda side, data: side.ask("GET", f"/{side.digest(data)}"),
    "GET upper": lambda side, data: side.ask("GET", f"/{side.digest(data).upper()}?query=1"),
    "PUT right": lambda side, data: side.ask("PUT", f"/{side.digest(data)}", data),
    "PUT wrong": lambda side, data: side.ask("PUT", f"/{side.digest(data)}", b"wrong"),
    "PUT empty": lambda side, data: side.ask("PUT", f"/{side.digest(data)}"),
    "promise": lambda side, data: side.ask("PUT", f"/promise/{side.digest(data)}"),
    "has": lambda side, data: side.ask("GET", "/has", json.dumps([side.digest(data)] * 2).encode()),
    "has-now": lambda side, data: side.ask("GET", "/has-now", json.dumps([side.digest(data)]).encode()),
    "buffer-length": lambda side, data: side.ask(
        "GET", "/buffer-length", json.dumps([side.digest(data)]).encode()
    ),
}

STATE_DIFFERENCES = {
    "corrupt file repaired": {("corrupt", "PUT right"), ("corrupt_and_locked", "PUT right"),
                              ("corrupt", "PUT wrong"), ("corrupt_and_locked", "PUT wrong"),
                              ("corrupt", "PUT empty"), ("corrupt_and_locked", "PUT empty")},
    "directory is no blob": {("directory", one) for one in (
        "PUT right", "PUT wrong", "PUT empty", "has", "has-now", "buffer-length")},
    "prefix extra directories": {("in_prefix", one) for one in ("has", "has-now", "buffer-length")},
    "known size of a promised blob": {("promised_and_present", "buffer-length")},
}  # fmt: skip
AWAITED = {"locked", "corrupt_and_locked"}
ELSEWHERE_TESTED = {("promised", "GET"), *((state, "GET upper") for state in ("promised", *AWAITED))}
"""Those that last as long as a promise, which have a test of their own, or wait as another does."""


@pytest.mark.parametrize("state", STATES)
def test_each_request_in_each_state_answers_alike(pair: tuple[Side, Side], state: str) -> None:
    for name, sent in REQUESTS.items():
        if (state, name) in ELSEWHERE_TESTED:
            continue
        data = f"{state} {name}".encode() if name != "PUT empty" or state != "missing" else b""

        def at(side: Side, request: Request = sent, data: bytes = data) -> tuple[Seen, bool]:
            with STATES[state](side, data):
                begun = time.monotonic()
                return request(side, data), time.monotonic() - begun > LOCK_SECONDS / 2

        with ThreadPoolExecutor(2) as pool:
            (one, one_waited), (other, other_waited) = pool.map(at, pair)
        known = [difference for difference, rows in STATE_DIFFERENCES.items() if (state, name) in rows]
        if known:
            assert one != other, f"{state}, {name}: no difference any more; take it off the list"
        else:
            assert one == other, f"{state}, {name}"
            assert one_waited == other_waited == (name == "GET" and state in AWAITED), f"{state}, {name}"


def test_files_on_disk_are_alike_afterwards(pair: tuple[Side, Side]) -> None:
    """Blobs, folders, their modes, the marker; and nothing else."""
    found = []
    for side in pair:
        names = set()
        for number in range(5):
            data = b"kept %d" % number
            assert side.ask("PUT", f"/{side.digest(data)}", data).status == 200
            assert side.ask("PUT", f"/{side.digest(data)}", b"").status == 201
            names.add(side.digest(data))
        by_hand = side.file(side.digest(b"by hand"))
        by_hand.write_bytes(b"by hand")
        assert side.ask("PUT", f"/{by_hand.name}", b"by hand").status == 201
        wrong = side.digest(b"wrong afterwards")
        assert side.ask("PUT", f"/{wrong}", b"other").status == 400
        names |= {by_hand.name, wrong}
        folders = {f"blobs/{name[:2]}" for name in names - {wrong}} | {"blobs", "blobs/.HASHSERVER_PREFIX"}
        files = side.files().items()
        found.append({name: one for name, one in files if name in folders or name[-64:] in names})
    assert found[0] == found[1]
    assert len(found[0]) >= 7


# Requests whose answer depends on nothing

DIGEST = "ab" * 32
PLAIN: dict[str, tuple[str, str, bytes | None, dict[str, str]]] = {
    "healthcheck": ("GET", "/healthcheck", None, {}),
    "root": ("GET", "/", None, {}),
    "two parts": ("GET", "/a/b", None, {}),
    "a slash in disguise": ("GET", "/a%2Fb", None, {}),
    "another name": ("GET", "/stats", None, {}),
    "put another name": ("PUT", "/has", b"x", {}),
    "odd": ("GET", "/" + DIGEST[:-1], None, {}),
    "short": ("GET", "/" + DIGEST[:50], None, {}),
    "long": ("GET", "/" + DIGEST + "00", None, {}),
    "no hex": ("GET", "/" + "zz" * 32, None, {}),
    "no hex later": ("PUT", "/" + "ab" * 31 + "aq", b"", {}),
    "not ASCII": ("GET", "/%C3%A9%C3%A9", None, {}),
    "promise of nonsense": ("PUT", "/promise/nonsense", None, {}),
    "promise of no hex": ("PUT", "/promise/zz", None, {}),
    "get a promise": ("GET", f"/promise/{DIGEST}", None, {}),
    "a promise of nothing": ("PUT", "/promise/", None, {}),
    "post": ("POST", f"/{DIGEST}", b"x", {}),
    "delete": ("DELETE", f"/{DIGEST}", None, {}),
    "options": ("OPTIONS", f"/{DIGEST}", None, {}),
    "preflight": ("OPTIONS", f"/{DIGEST}", None, {
        "Origin": "http://a", "Access-Control-Request-Method": "PUT",
        "Access-Control-Request-Headers": "X-A"}),
    "preflight of nonsense": ("OPTIONS", f"/{DIGEST}", None, {
        "Origin": "http://a", "Access-Control-Request-Method": "FOO"}),
    "from another origin": ("GET", f"/{DIGEST}", None, {"Origin": "http://a"}),
    "nonsense from another origin": ("GET", "/x", None, {"Origin": "http://a"}),
    "slash at the end": ("GET", f"/{DIGEST}/?x=1", None, {}),
    "has with a slash": ("GET", "/has/", b"[]", {}),
    "post has": ("POST", "/has", b"[]", {}),
}  # fmt: skip
BODIES: dict[str, bytes | None] = {
    "none": None, "empty list": b"[]", "no list": b"{}", "text": b'"a"', "number": b"1", "null": b"null",
    "no JSON": b"x", "cut short": b"[", "cut short later": b'["a", ', "blank": b" ", "null in it": b"[null]",
    "odd in it": b'["abc"]', "no hex in it": b'["zz"]', "second": json.dumps([DIGEST, "a", "zz"]).encode(),
    "upper case": json.dumps([DIGEST.upper()]).encode(), "twice": json.dumps([DIGEST] * 2).encode(),
    "not UTF-8": b"[\xff]", "huge": b"[" * 100_000, "true in it": b"[true]", "number in it": b"[7]",
    "list in it": b"[[]]", "object in it": b"[{}]",
}  # fmt: skip
PLAIN |= {
    f"{path} {name}": ("GET", path, body, {})
    for path in ("/has", "/has-now", "/buffer-length")
    for name, body in BODIES.items()
}
PLAIN_DIFFERENCES = {
    "HEAD": {"head"},
    "no documentation pages": {"docs", "openapi", "redoc"},
    "list of other things": {
        f"{path} {name}"
        for path in ("/has", "/has-now", "/buffer-length")
        for name in ("true in it", "number in it", "list in it", "object in it")
    },
    "media type of a list": {"has of a form"},
}
PLAIN |= {
    "head": ("HEAD", f"/{DIGEST}", None, {}),
    "docs": ("GET", "/docs", None, {}),
    "openapi": ("GET", "/openapi.json", None, {}),
    "redoc": ("GET", "/redoc", None, {}),
    "has of a form": ("GET", "/has", b"[]", {"Content_Type": "application/x-www-form-urlencoded"}),
}


@pytest.mark.parametrize("name", PLAIN)
def test_stateless_requests_answer_alike(pair: tuple[Side, Side], name: str) -> None:
    method, path, body, headers = PLAIN[name]
    one, other = (side.ask(method, path, body, **headers) for side in pair)
    if any(name in rows for rows in PLAIN_DIFFERENCES.values()):
        assert one != other, "no difference any more; take it off the list"
        assert one.status < 500
    else:
        assert one == other


@pytest.mark.parametrize("size", [0, 1, 3000, 100_000, 3_000_000])
def test_blobs_and_ranges_of_all_sizes_answer_alike(pair: tuple[Side, Side], size: int) -> None:
    data = b"x" * size
    asked = ["bytes=0-0", "bytes=2-5", "bytes=-3", "bytes=1-", f"bytes=0-{size + 9}"]
    for side in pair:
        side.ask("PUT", f"/{side.digest(data)}", data)
    one, other = (side.ask("GET", f"/{side.digest(data)}") for side in pair)
    assert one == other
    for value in asked if size else []:  # of nothing there is no part
        one, other = (side.ask("GET", f"/{side.digest(data)}", Range=value) for side in pair)
        if size == 1 and value != "bytes=0-0" and not value.startswith("bytes=0-"):  # listed: "Range"
            assert (one.status, other.status) == (206 if value == "bytes=-3" else 416, 416)
        else:
            assert one == other, value


@pytest.mark.parametrize("value", ["x", "bytes=0-1,4-5", "bytes=5-2", "chunks=0-1"])
def test_documented_range_differences_are_exactly_these(pair: tuple[Side, Side], value: str) -> None:
    """Listed as "Range": what hashserver refuses or joins together, ours passes over."""
    data = b"0123456789"
    for side in pair:
        side.ask("PUT", f"/{side.digest(data)}", data)
    one, other = (side.ask("GET", f"/{side.digest(data)}", Range=value) for side in pair)
    assert (one.status, one.body) == (200, data)
    assert one != other


def test_promised_blob_is_waited_for_alike(pair: tuple[Side, Side]) -> None:
    for state in ("right", "found"):
        seen = []
        for side in pair:
            data = f"promised, then {state}".encode()
            digest = side.digest(data)
            assert side.ask("PUT", f"/promise/{digest}").status == 202
            reading = BackgroundRequest(side.port, "GET", f"/{digest}")
            time.sleep(0.3)
            assert side.ask("PUT", f"/{digest}", b"wrong").status == 400
            time.sleep(0.3)
            assert reading.running
            if state == "found":
                side.file(digest).write_bytes(data)
            put = side.ask("PUT", f"/{digest}", data)
            seen.append((put.status, side.seen(reading.answer())))
        assert seen[0] == seen[1]
        assert seen[0][0] == (200 if state == "right" else 201)


def test_blob_being_uploaded_answers_alike(pair: tuple[Side, Side]) -> None:
    """Others who put it are told so at once; readers, and who asks for its length, wait for it."""
    seen = []
    for side in pair:
        data = b"uploading" * 100_000
        digest = side.digest(data)
        asked = json.dumps([digest]).encode()
        with uploading(side.port, digest, len(data)) as upload:
            upload.send(data[:-1])
            wait_until(lambda: side.ask("GET", "/has", asked).body == b"[true]", "the upload")  # noqa: B023
            again = side.ask("PUT", f"/{digest}", data)
            now = side.ask("GET", "/has-now", asked).body
            reading, length = (
                BackgroundRequest(side.port, "GET", f"/{digest}"),
                BackgroundRequest(side.port, "GET", "/buffer-length", asked),
            )
            time.sleep(0.3)
            assert reading.running
            assert length.running
            upload.send(data[-1:])
            assert upload.status() == 200
        seen.append((again, side.seen(reading.answer()), side.seen(length.answer())))
        assert now == (b"[false]" if side is pair[0] else b"[true]")  # listed: "has-now of an upload"
    assert seen[0] == seen[1]
    assert seen[0][0].status == 202


def test_read_only_server_answers_alike(hashserver: Path, tmp_path: Path) -> None:
    with both(hashserver, tmp_path, "prefix", "sha256") as sides:
        for method, path in (
            ("PUT", f"/{DIGEST}"),
            ("PUT", f"/promise/{DIGEST}"),
            ("PUT", "/has"),
            ("GET", "/promise/x"),
            ("GET", f"/{DIGEST}"),
        ):
            one, other = (side.ask(method, path, b"x") for side in sides)
            assert one == other, (method, path)
        assert sides[0].files() == sides[1].files()  # the marker is there, and the mode is set


# Starting

STARTS: dict[str, tuple[list[str], str | None]] = {
    "no directory": ([], None),
    "a directory that isn't there": (["MISSING"], None),
    "a file": (["STATUS"], "{}"),
    "another algorithm": (["DIR", "--hash-algorithm", "md5"], None),
    "another layout": (["DIR", "--layout", "round"], None),
    "a port and a range": (["DIR", "--port", "9", "--port-range", "1", "2"], None),
    "an empty range": (["DIR", "--port-range", "9000", "8000"], None),
    "a range beyond": (["DIR", "--port-range", "1", "70000"], None),
    "no lock timeout": (["DIR", "--lock-timeout", "0"], None),
    "no timeout": (["DIR", "--timeout", "0"], None),
    "an unknown flag": (["DIR", "--unknown"], None),
    "a status file that is no JSON": (["DIR", "--status-file", "STATUS"], "nonsense"),
    "a status file that is no object": (["DIR", "--status-file", "STATUS"], "[1]"),
    "an empty range and a status file": (
        ["DIR", "--status-file", "STATUS", "--port-range", "9", "8"],
        '{"a": 1}',
    ),
    "idle": (["DIR", "--status-file", "STATUS", "--port", "0", "--timeout", "1"], '{"a": 1, "status": "x"}'),
}
START_DIFFERENCES = {"status file of a failed start": {"an empty range and a status file"}}


def test_starts_end_with_the_same_code_and_leave_the_same_status_file(
    hashserver: Path, tmp_path: Path
) -> None:
    begun: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
    quiet = subprocess.DEVNULL
    for name, (words, status) in STARTS.items():
        for who, begin in (("ours", our_command), ("them", lambda *w: hashserver_command(hashserver, *w))):
            root = tmp_path / name / who
            (root / "blobs").mkdir(parents=True)
            if status is not None:
                (root / "status").write_text(status)
            paths = {"DIR": root / "blobs", "STATUS": root / "status", "MISSING": root / "missing"}
            command = begin(*(str(paths.get(word, word)) for word in words))
            begun[name, who] = processes.Popen(
                command, env=processes.environment(**DIRECTLY), stdout=quiet, stderr=quiet
            )  # fmt: skip
    ends: dict[tuple[str, str], tuple[int, object]] = {}
    try:
        for (name, who), process in begun.items():
            code, file = process.wait(60), tmp_path / name / who / "status"
            left: object = file.read_text() if file.exists() else None
            with contextlib.suppress(ValueError, TypeError):
                left = json.loads(str(left))
            if isinstance(left, dict) and "port" in left:
                left["port"] = "some"
            ends[name, who] = (code, left)
    finally:
        for process in begun.values():
            if process.poll() is None:
                process.kill()
            process.wait(10)
    for name in STARTS:
        if any(name in rows for rows in START_DIFFERENCES.values()):
            assert ends[name, "ours"] != ends[name, "them"]
        else:
            assert ends[name, "ours"] == ends[name, "them"], name


def test_settings_from_the_environment(hashserver: Path, tmp_path: Path) -> None:
    """hashserver under uvicorn, ours under gunicorn, with the same variables. That hashserver reads no extra
    directory then is listed: "extra directories in the environment"."""
    pytest.importorskip("gunicorn")
    with contextlib.ExitStack() as stack:
        sides = []
        for who in ("ours", "them"):
            root = tmp_path / who
            for one in ("blobs", "flat"):
                (root / one).mkdir(parents=True)
            env = {
                "HASHSERVER_DIRECTORY": str(root / "blobs"),
                "HASHSERVER_WRITABLE": "TRUE",
                "HASHSERVER_LAYOUT": "flat",
                "HASHSERVER_HASH_ALGORITHM": "sha3-256",
                "HASHSERVER_EXTRA_DIRS": str(root / "flat"),
                "HOME": str(root),
            }
            if who == "ours":
                words = ["-m", "gunicorn", "-k", "aiohttp.GunicornWebWorker", "-b", "127.0.0.1:0"]
                words.append("shardcast.nodes.store_server:app()")
            else:
                words = ["-I", "-c", UVICORN, str(hashserver), "--port", "0", "hashserver:app"]
            running = stack.enter_context(started([sys.executable, *words], env | DIRECTLY, cwd=ROOT))
            assert running.port, running.output
            sides.append(Side(running.port, root, "flat", "sha3-256"))
        for side in sides:
            digest, extra = side.digest(b"data"), side.digest(b"extra")
            (side.root / "flat" / extra).write_bytes(b"extra")
            assert side.ask("PUT", f"/{digest}", b"data").status == 200
            assert side.ask("GET", f"/{digest}").body == b"data"
            assert (side.place / digest).read_bytes() == b"data"
            assert side.ask("GET", f"/{extra}").status == (200 if side is sides[0] else 404)
        assert sides[0].files() == sides[1].files()


ELSEWHERE = {"Range", "has-now of an upload", "extra directories in the environment"}


def test_every_difference_is_documented() -> None:
    text = (ROOT / "docs" / "compatibility.md").read_text()
    known = {*STATE_DIFFERENCES, *PLAIN_DIFFERENCES, *START_DIFFERENCES, *ELSEWHERE}
    assert {one for one in known if f"**{one}**" not in text} == set()
