"""Clients in front of servers that answer wrong.

Alone the command says what is wrong and with whom, beside a good server it gets through.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import bad_answers as bad
from tests.support import processes
from tests.support.bad_servers import BadServer, Behaviour, dead_address

QUICK = {
    "SHARDCAST_HTTP_TIMEOUT": "4",
    "SHARDCAST_RETRY_ATTEMPTS": "3",
    "SHARDCAST_UNREACHABLE_ONCE_BEGUN": "4",
}
"""Not so quick that a right server on a busy machine is taken for one that stalls."""
BOUND = 40.0  # whatever a server does, a client with these settings has ended by then
DONE, FAILED, USAGE, NOT_OFFERED, UNREACHABLE, INTEGRITY, ACCESS_DENIED = 0, 1, 2, 3, 4, 5, 8

SHARD = 1_000_000
SIZE = 3_500_000
LIST = "/distribution.txt"
MANIFEST = "/v1/manifest.jsonl"
SHARDS = "/v1/shard_*.bin"
SECOND = "/v1/shard_002.bin"


@dataclass(frozen=True)
class Published:
    """A data directory with one version, and the payload that it holds."""

    data_dir: Path
    payload: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.payload).hexdigest()


def publish(where: Path, payload: bytes, shard_size: int = SHARD) -> Published:
    file = where / "payload.bin"
    file.write_bytes(payload)
    done = processes.run(
        "broadcast", str(file), "--data-dir", str(where / "data"), "--shard-size", str(shard_size)
    )
    assert (done.returncode, done.stdout) == (0, "v1\n"), done.stderr
    return Published(where / "data", payload)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish(tmp_path_factory.mktemp("published"), random.Random(1).randbytes(SIZE))


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """The same version number from another origin, with another payload of the same size."""
    return publish(tmp_path_factory.mktemp("other"), random.Random(2).randbytes(SIZE))


def client(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return processes.run("client", *words, env={**QUICK, **env}, timeout=BOUND)


def fetch(output: Path, *servers: str, version: str = "v1", **env: str) -> subprocess.CompletedProcess[str]:
    return client("--servers", ",".join(servers), "--version", version, "--output-file", str(output), **env)


def usual(published: Published) -> float:
    """Seconds that a client takes now, on this machine, which has nothing to wait for."""
    with BadServer(published.data_dir) as server:
        began = time.monotonic()
        done = client("--servers", server.address, "--version", "v9")
        took = time.monotonic() - began
    assert done.returncode == NOT_OFFERED, done.stderr
    return took


@dataclass(frozen=True)
class Background:
    """A client that runs beside the test."""

    process: subprocess.Popen[str]

    def finish(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end and return it with its output."""
        stdout, stderr = self.process.communicate(timeout=BOUND)
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, stdout, stderr)


@contextlib.contextmanager
def background(output: Path, server: str, **env: str) -> Iterator[Background]:
    """Start a client, and kill it at the end of the block if it still runs."""
    process = processes.Popen(
        processes.command("client", "--servers", server, "--version", "v1", "--output-file", str(output)),
        env=processes.environment(**{**QUICK, **env}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Background(process)
        finally:
            process.kill()


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What a command wrote on stderr, on one line, and nothing in it that only a developer can read."""
    text = " ".join(done.stderr.split())
    for noise in ("Traceback", "never retrieved", "never awaited", "Unclosed", "ResourceWarning"):
        assert noise not in text, done.stderr
    return text


def assert_fetched(done: subprocess.CompletedProcess[str], output: Path, payload: bytes) -> None:
    said(done)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(output.read_bytes()).digest() == hashlib.sha256(payload).digest()
    assert [file.name for file in output.parent.iterdir()] == [output.name], "something was left behind"


def assert_failed(done: subprocess.CompletedProcess[str], output: Path, code: int, *names: str) -> None:
    text = said(done)
    assert done.returncode == code, f"exit {done.returncode}, not {code}:\n{done.stderr}"
    assert done.stdout == "", "stdout is for results"
    assert not output.exists(), "nothing was fetched, yet the output has its final name"
    for name in names:
        assert re.search(name, text), f"the error does not name {name}:\n{done.stderr}"


def out_of(tmp_path: Path) -> Path:
    """An output alone in its directory, so that whatever is left behind shows."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "got.bin"


# Servers that make a client wait -----------------------------------------------------------------


def test_wait_for_stalled_server_ends(published: Published, tmp_path: Path) -> None:
    """What takes its time-outs to find out; several at once, because the machine is idle meanwhile."""

    checks: dict[str, Callable[[Published, Path], None]] = {
        "all-servers-dead": check_all_servers_dead,
        "silent-server": check_silent_server,
    }
    for name in sorted(WAITING & ANSWERS.keys()):
        checks[f"shard-{name}"] = functools.partial(check_answer_alone, name)
        checks[f"shard-{name}-beside-a-good-server"] = functools.partial(check_answer_beside, name)
    for name in sorted(WAITING & LISTS.keys()):
        checks[f"list-{name}"] = functools.partial(check_list_alone, name)
        checks[f"list-{name}-beside-a-good-server"] = functools.partial(check_list_beside, name)
    for name in checks:
        (tmp_path / name).mkdir()
    with ThreadPoolExecutor(8) as pool:
        ends = {name: pool.submit(check, published, tmp_path / name) for name, check in checks.items()}
    failures = [f"{name}: {end.exception()}" for name, end in ends.items() if end.exception()]
    assert not failures, "\n\n".join(failures)


def check_all_servers_dead(published: Published, tmp_path: Path) -> None:
    output = out_of(tmp_path)
    with dead_address() as one, dead_address() as two, dead_address() as three:
        more = usual(published)
        began = time.monotonic()
        done = fetch(output, one, two, three)
        took = time.monotonic() - began
        assert_failed(done, output, UNREACHABLE, *map(re.escape, (one, two, three)))
    assert took < 17 + more, f"it took {took:.1f} s to say that nobody is there"


def check_silent_server(published: Published, tmp_path: Path) -> None:
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as server:
        server.set("*", bad.silent())
        done = fetch(output, server.address)
        assert_failed(done, output, UNREACHABLE, re.escape(server.address))


# A shard is answered wrong -----------------------------------------------------------------------
#
# How the client ends with each when it has no other server.

ANSWERS: dict[str, tuple[Callable[[], Behaviour], int]] = {
    "wrong-first-byte": (lambda: bad.flipped(0), INTEGRITY),
    "wrong-middle-byte": (lambda: bad.flipped(300_000), INTEGRITY),
    "too-few-bytes": (lambda: bad.shorter(10), FAILED),
    "too-many-bytes": (lambda: bad.longer(10), FAILED),
    "empty-body": (lambda: bad.replaced(b""), FAILED),
    "length-too-large": (lambda: bad.claims(10), FAILED),
    "length-far-too-large": (lambda: bad.claims(10**15), FAILED),
    "length-too-small": (lambda: bad.claims(-10), FAILED),
    "always-cut": (lambda: bad.cut(1000), FAILED),
    "closed-at-once": (bad.closed, UNREACHABLE),
    "redirect-loop": (bad.redirect_loop, FAILED),
    "html": (bad.html, FAILED),
    "one-byte-a-second": (bad.trickle, FAILED),
    "stalls": (lambda: bad.stall(100_000), FAILED),
    "silent": (bad.silent, FAILED),
    "error-500": (bad.error, FAILED),
    "error-503": (lambda: bad.error(503, retry_after=1), UNREACHABLE),
    "missing": (lambda: bad.error(404), FAILED),
    "forbidden": (lambda: bad.error(403), ACCESS_DENIED),
    "endless": (bad.endless, INTEGRITY),
    "huge-headers": (bad.huge_headers, FAILED),
    "wrong-range": (bad.wrong_range, FAILED),
    "gzip-lie": (bad.gzip_lie, FAILED),
}
#: Those in which a client only waits, so that they are tried together (`test_wait_for_stalled_server_ends`).
WAITING = {"one-byte-a-second", "stalls", "silent", "closed-at-once", "error-503"}
#: Those that are no different from another one when there is a second server.
ALIKE = {"wrong-first-byte", "length-far-too-large", "empty-body", "forbidden"}

#: What is unusual, but right.
ODD: dict[str, Callable[[], Behaviour]] = {
    "cut-once": lambda: bad.first(bad.cut(300_000)),
    "error-once": lambda: bad.first(bad.error(500)),
    "busy-once": lambda: bad.first(bad.error(503, retry_after=1)),
    "silent-once": lambda: bad.first(bad.silent()),
    "chunked": bad.chunked,
    "ignores-range": bad.ignores_range,
    # Each answer brings two whole pieces, so each attempt gets further.
    "always-cut-after-progress": lambda: bad.cut(600_000),
}


@pytest.mark.parametrize("answer", sorted(ANSWERS.keys() - WAITING))
def test_wrong_answer_from_only_server_is_a_clear_error(
    answer: str, published: Published, tmp_path: Path
) -> None:
    check_answer_alone(answer, published, tmp_path)


def check_answer_alone(answer: str, published: Published, tmp_path: Path) -> None:
    behaviour, code = ANSWERS[answer]
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as server:
        server.set(SECOND, behaviour())
        done = fetch(output, server.address)
        asked, sent = server.requested(SECOND), server.sent_bytes(SECOND)
    assert_failed(done, output, code, re.escape(server.address), r"\bv1\b", r"(?i)shard[ _]?0*2\b")
    assert asked < 80, "asked in a loop"  # redirects are requests, so a loop of them may cost some
    # An endless answer is left at the latest when it has passed the shard's size by far.
    assert sent < 64 * 1024 * 1024, "read far more than a shard has"


@pytest.mark.parametrize("answer", sorted(ANSWERS.keys() - WAITING - ALIKE))
def test_wrong_answer_beside_good_server_costs_only_time(
    answer: str, published: Published, tmp_path: Path
) -> None:
    check_answer_beside(answer, published, tmp_path)


def check_answer_beside(answer: str, published: Published, tmp_path: Path) -> None:
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as wrong, BadServer(published.data_dir) as right:
        wrong.set(SHARDS, ANSWERS[answer][0]())
        done = fetch(output, wrong.address, right.address)
        assert_fetched(done, output, published.payload)
        assert wrong.requested(SHARDS), "the bad server was never asked, so nothing was tried"
        assert wrong.requested(SHARDS) < 200, "asked in a loop"


@pytest.mark.parametrize("oddity", ODD)
def test_unusual_but_correct_answer_is_read(oddity: str, published: Published, tmp_path: Path) -> None:
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as server:
        server.set(SHARDS, ODD[oddity]())
        assert_fetched(fetch(output, server.address), output, published.payload)


@pytest.mark.parametrize("keep_alive", [True, False], ids=["http-1.1", "http-1.0"])
@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no-ranges"])
def test_static_web_server_works_as_a_server(
    keep_alive: bool, ranges: bool, published: Published, tmp_path: Path
) -> None:
    output = out_of(tmp_path)
    with BadServer(published.data_dir, keep_alive=keep_alive, ranges=ranges) as server:
        assert_fetched(fetch(output, server.address), output, published.payload)


def test_static_web_server_with_own_etags_is_read(published: Published, tmp_path: Path) -> None:
    """nginx tags a file by its time and size, and answers 412 to the digest in If-Match."""
    output = out_of(tmp_path)
    with BadServer(published.data_dir, etags=True) as server:
        assert_fetched(fetch(output, server.address), output, published.payload)


def test_redirect_to_another_port_of_the_host_is_followed(published: Published, tmp_path: Path) -> None:
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as right, BadServer(published.data_dir) as front:
        front.set("*", bad.redirect(right.url))
        assert_fetched(fetch(output, front.address), output, published.payload)


# Without a manifest only the digest of the whole payload can tell ---------------------------------

BLIND = {
    "wrong-middle-byte": INTEGRITY,
    "too-few-bytes": INTEGRITY,
    "html": INTEGRITY,
    "always-cut": FAILED,
    "error-500": FAILED,
}


def without_manifest(server: BadServer) -> BadServer:
    return server.set("*manifest*", bad.error(404))


def test_old_server_is_read(published: Published, tmp_path: Path) -> None:
    output = out_of(tmp_path)
    with BadServer(published.data_dir, keep_alive=False, ranges=False) as server:
        without_manifest(server)
        assert_fetched(fetch(output, server.address), output, published.payload)


@pytest.mark.parametrize("answer", BLIND)
def test_wrong_answer_from_only_old_server_is_a_clear_error(
    answer: str, published: Published, tmp_path: Path
) -> None:
    output = out_of(tmp_path)
    with BadServer(published.data_dir, keep_alive=False, ranges=False) as server:
        without_manifest(server).set(SECOND, ANSWERS[answer][0]())
        done = fetch(output, server.address)
        # Which shard is wrong can't be known here when each of them arrives.
        assert_failed(done, output, BLIND[answer], re.escape(server.address), r"\bv1\b")
        assert server.requested(SECOND) < 20, "asked in a loop"


@pytest.mark.parametrize("answer", BLIND)
def test_wrong_answer_of_old_server_is_fetched_elsewhere(
    answer: str, published: Published, tmp_path: Path
) -> None:
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as wrong, BadServer(published.data_dir) as right:
        without_manifest(wrong).set(SHARDS, ANSWERS[answer][0]())
        without_manifest(right)
        assert_fetched(fetch(output, wrong.address, right.address), output, published.payload)


# The distribution list is answered wrong ---------------------------------------------------------

NO_VERSIONS = ["v0", "v01", "V1", "v１", "v-1", "../v1", "v1/..", "v1 v2", ""]
NO_COUNTS = ["-4", "４", "+4", "4.0", "4e0", "10000000", "9" * 5000, "four", "4|4"]
NO_ENDS = ["", "z", "ff", "０", " "]  # of a digest: 63 digits, no hex, 65, ...

LISTS: dict[str, tuple[Callable[[str], Behaviour], int]] = {
    "html": (lambda line: bad.html(), FAILED),
    "binary": (lambda line: bad.replaced(bytes(range(256)) * 40), FAILED),
    "empty": (lambda line: bad.replaced(b""), NOT_OFFERED),
    "two-mebibytes": (
        lambda line: bad.replaced(line.encode() + b"# filling\n" * (2 * 1024 * 1024 // 10)),
        FAILED,
    ),
    "one-long-line": (lambda line: bad.replaced(b"v1: " + b"a" * 2 * 1024 * 1024), FAILED),
    "no-versions": (
        lambda line: bad.replaced("".join(line.replace("v1", v) for v in NO_VERSIONS).encode()),
        FAILED,
    ),
    "no-counts": (
        lambda line: bad.replaced("".join(line.replace("|4", f"|{n}") for n in NO_COUNTS).encode()),
        FAILED,
    ),
    "no-digests": (
        lambda line: bad.replaced("".join(re.sub(r".\|", f"{end}|", line) for end in NO_ENDS).encode()),
        FAILED,
    ),
    "endless": (lambda line: bad.endless(), FAILED),
    "huge-headers": (lambda line: bad.huge_headers(), FAILED),
    "missing": (lambda line: bad.error(404), FAILED),
    "error-500": (lambda line: bad.error(), FAILED),
    "error-503": (lambda line: bad.error(503, retry_after=1), UNREACHABLE),
    "redirect-loop": (lambda line: bad.redirect_loop(), FAILED),
    "closed-at-once": (lambda line: bad.closed(), UNREACHABLE),
    "always-cut": (lambda line: bad.cut(20), FAILED),
    "silent": (lambda line: bad.silent(), UNREACHABLE),
    "one-byte-a-second": (lambda line: bad.trickle(), UNREACHABLE),
}


@pytest.mark.parametrize("listing", sorted(LISTS.keys() - WAITING))
def test_wrong_list_from_only_server_offers_nothing(
    listing: str, published: Published, tmp_path: Path
) -> None:
    check_list_alone(listing, published, tmp_path)


def check_list_alone(listing: str, published: Published, tmp_path: Path) -> None:
    behaviour, code = LISTS[listing]
    line = (published.data_dir / "distribution.txt").read_text()
    assert line == f"v1: {published.sha256}|4\n"
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as server:
        server.set(LIST, behaviour(line))
        done = fetch(output, server.address)
        assert_failed(done, output, code, re.escape(server.address))
        assert server.sent_bytes(SHARDS) == 0, "fetched what was not offered"
        assert server.sent_bytes(LIST) < 128 * 1024 * 1024, "read on in a list without end"


@pytest.mark.parametrize("listing", ["html", "two-mebibytes", "error-500", "endless", "huge-headers"])
def test_wrong_list_beside_good_server_costs_only_time(
    listing: str, published: Published, tmp_path: Path
) -> None:
    check_list_beside(listing, published, tmp_path)


def check_list_beside(listing: str, published: Published, tmp_path: Path) -> None:
    line = (published.data_dir / "distribution.txt").read_text()
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as wrong, BadServer(published.data_dir) as right:
        wrong.set(LIST, LISTS[listing][0](line))
        assert_fetched(fetch(output, wrong.address, right.address), output, published.payload)


def test_malformed_list_lines_do_not_hide_valid_ones(published: Published, tmp_path: Path) -> None:
    line = (published.data_dir / "distribution.txt").read_text()
    listing = f"v0: {published.sha256}|1\nnonsense\n\n{line}v2: {published.sha256[:-1]}|4\n"
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as server:
        server.set(LIST, bad.replaced(listing.encode()))
        listed = client("--servers", server.address, "--list")
        assert listed.returncode == 0, listed.stderr
        assert [words.split()[0] for words in listed.stdout.splitlines()] == ["v1"]
        assert published.sha256 in listed.stdout
        assert_fetched(fetch(output, server.address, version="latest"), output, published.payload)


def test_list_without_final_newline_is_read_when_it_stays(published: Published, tmp_path: Path) -> None:
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as server:
        server.set(LIST, bad.replaced(f"v1: {published.sha256}|4".encode()))
        assert_fetched(fetch(output, server.address), output, published.payload)


def test_half_written_list_is_read_again(tmp_path: Path) -> None:
    """An old server rewrites its list in place: ``|1`` may be the beginning of ``|12``."""
    whole = publish(tmp_path, random.Random(3).randbytes(12_000), shard_size=1000)
    line = f"v1: {whole.sha256}|12\n".encode()
    output = out_of(tmp_path)
    with BadServer(whole.data_dir) as server:
        without_manifest(server)
        server.set(LIST, bad.first(bad.replaced(line[:-2]), then=bad.replaced(line)))
        assert_fetched(fetch(output, server.address), output, whole.payload)


def test_listing_an_empty_list_succeeds(published: Published) -> None:
    with BadServer(published.data_dir) as server:
        server.set(LIST, bad.replaced(b""))
        listed = client("--servers", server.address, "--list", "--json")
        assert listed.returncode == 0, listed.stderr
        assert json.loads(listed.stdout) == []


# The manifest is answered wrong ------------------------------------------------------------------


def edited(published: Published, line: int, **changes: object) -> Behaviour:
    """The manifest with other values in one of its lines."""
    lines = (published.data_dir / "v1" / "manifest.jsonl").read_text().splitlines()
    changed = {**json.loads(lines[line]), **changes}
    assert changed.keys() == json.loads(lines[line]).keys(), "the manifest has no such key"
    lines[line] = json.dumps(changed)
    return bad.replaced("".join(f"{text}\n" for text in lines).encode())


MANIFESTS: dict[str, tuple[Callable[[Published], Behaviour], int]] = {
    "html": (lambda _: bad.html(), DONE),
    "half-with-the-right-length": (lambda _: bad.shorter(40), FAILED),
    "one-long-line": (lambda _: bad.replaced(b'{"format": 1, "name": "' + b"a" * 8 * 1024 * 1024), DONE),
    "endless": (lambda _: bad.endless(), DONE),
    "deeply-nested": (lambda _: bad.replaced(b"[" * 60_000 + b"\n"), DONE),
    "error-500": (lambda _: bad.error(), FAILED),
    "silent": (lambda _: bad.silent(), FAILED),
    "a-later-format": (lambda p: edited(p, 0, format=99), DONE),
    "another-size": (lambda p: edited(p, 0, size=10**15), FAILED),
    "a-huge-shard": (lambda p: edited(p, 1, size=10**15), FAILED),
    "a-shard-size-that-is-text": (lambda p: edited(p, 1, size="many"), FAILED),
    "a-shard-left-out": (lambda p: edited(p, 2, shard=3), FAILED),
    "a-wrong-shard-digest": (lambda p: edited(p, 2, sha256="0" * 64), DONE),
    "a-wrong-whole-digest": (lambda p: edited(p, -1, sha256="0" * 64), FAILED),
    "a-huge-piece-size": (lambda p: edited(p, 0, piece_size=10**15), DONE),
    "wrong-piece-digests": (lambda p: edited(p, 2, blake3="A" * 171 + "="), INTEGRITY),
    "no-piece-digests": (lambda p: edited(p, 2, blake3=""), FAILED),
}


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_wrong_manifest_is_rejected_without_a_wrong_byte(
    manifest: str, published: Published, tmp_path: Path
) -> None:
    """What is no manifest at all, or none that this client can read, is done without: the payload's digest
    stands in the list too. A manifest that is wrong is refused."""
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as server:
        behaviour, code = MANIFESTS[manifest]
        server.set(MANIFEST, behaviour(published))
        done = fetch(output, server.address)
        assert server.sent_bytes(MANIFEST) < 128 * 1024 * 1024, "read on in a manifest without end"
    if code == DONE:
        assert_fetched(done, output, published.payload)
    else:
        assert_failed(done, output, code, re.escape(server.address), r"\bv1\b")
    kept = sum(file.stat().st_blocks * 512 for file in output.parent.rglob("*"))
    assert kept <= 2 * SIZE, "took as much of the disk as a peer claimed"


@pytest.mark.parametrize("name", ["../../escaped.bin", "/tmp/escaped.bin", "a\u0000b", "x" * 5000, "é\n"])
def test_manifest_name_never_chooses_the_output_path(name: str, published: Published, tmp_path: Path) -> None:
    before = sorted(Path("/tmp").glob("escaped*"))
    with BadServer(published.data_dir) as server:
        server.set(MANIFEST, edited(published, 0, name=name))
        done = client(
            "--servers", server.address, "--version", "v1", "--output-dir", str(tmp_path / "a" / "downloads")
        )
        listed = client("--servers", server.address, "--list")
    said(done)
    files = [file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()]
    assert done.returncode == DONE
    assert files == [Path("a/downloads/download_v1.bin")]
    assert (tmp_path / files[0]).read_bytes() == published.payload
    assert sorted(Path("/tmp").glob("escaped*")) == before
    said(listed)
    assert len(listed.stdout.splitlines()) == 1, "a version is one line, whatever its name"


# Which servers there are -------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("--list",), ("--version", "v1")])
def test_missing_servers_are_a_usage_error(words: tuple[str, ...]) -> None:
    done = client(*words)
    assert done.returncode == 2
    assert "--servers" in said(done)
    assert "IP_ADDR_LIST" in said(done)


@pytest.mark.parametrize(
    "value",
    ["()", "   ", "127.0.0.1:port", "127.0.0.1:99999", "ftp://127.0.0.1", "http://", "[::1", "a b:c:d"],
)  # fmt: skip
def test_malformed_ip_addr_list_is_a_usage_error(value: str) -> None:
    done = client("--list", IP_ADDR_LIST=value)
    assert done.returncode == 2, done.stderr
    assert "IP_ADDR_LIST" in said(done)


@pytest.mark.parametrize("env", [{}, {"IP_ADDR_LIST": "127.0.0.1:99999"}], ids=["none", "malformed"])
def test_middle_without_upstreams_is_a_usage_error(env: dict[str, str], tmp_path: Path) -> None:
    done = processes.run("middle", "--data-dir", str(tmp_path), "--port", "0", env=env, timeout=BOUND)
    assert done.returncode == 2, done.stderr
    assert "IP_ADDR_LIST" in said(done)


@pytest.mark.parametrize("form", ['("{}" "{}")', "{}\n{}\n", "{},http://{}/"])
def test_ip_addr_list_is_read_in_every_form(form: str, published: Published, tmp_path: Path) -> None:
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as server, dead_address() as dead:
        done = client(
            "--version", "v1", "--output-file", str(output), IP_ADDR_LIST=form.format(server.address, dead)
        )
        assert_fetched(done, output, published.payload)


def test_one_dead_server_of_three_is_skipped(published: Published, tmp_path: Path) -> None:
    output = out_of(tmp_path)
    with dead_address() as dead, BadServer(published.data_dir) as one, BadServer(published.data_dir) as two:
        more = usual(published)
        began = time.monotonic()
        done = fetch(output, dead, one.address, two.address)
        assert time.monotonic() - began < 9 + more, "waited for the dead one"
        assert_fetched(done, output, published.payload)


def test_client_waits_for_a_server_that_starts_later(published: Published, tmp_path: Path) -> None:
    """Within the ten seconds: jobs start everywhere at once, and the server need not be the first."""
    output = out_of(tmp_path)
    with processes.reserved_port() as port, background(output, f"127.0.0.1:{port}") as running:
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(3)
        with BadServer(published.data_dir, port=port):
            assert_fetched(running.finish(), output, published.payload)


def test_client_waits_for_a_server_that_restarts(published: Published, tmp_path: Path) -> None:
    output = out_of(tmp_path)
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(processes.reserved_port())
        with BadServer(published.data_dir, port=port) as server:
            server.set(SHARDS, bad.throttled(2e6))
            running = stack.enter_context(background(output, server.address))
            processes.wait_until(lambda: server.sent_bytes(SHARDS) > SIZE // 3, what="a third")
        # More attempts than a failing server gets fit into this: one that is away is another matter.
        with pytest.raises(subprocess.TimeoutExpired):
            running.process.wait(3)
        with BadServer(published.data_dir, port=port):
            assert_fetched(running.finish(), output, published.payload)


def test_unknown_version_error_names_offered_versions(published: Published, tmp_path: Path) -> None:
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as server:
        for version in ("v7", "newest"):
            told = (rf"\b{version}\b", r"\bv1\b")
            assert_failed(fetch(output, server.address, version=version), output, NOT_OFFERED, *told)


@pytest.mark.parametrize("version", ["../x", "v1/..", "V1", "v0", "v01", "v-1", "v１", ""])
def test_malformed_version_is_a_usage_error(version: str, published: Published, tmp_path: Path) -> None:
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as server:
        done = fetch(output, server.address, version=version)
        assert_failed(done, output, USAGE)
        assert not server.requests, "asked a server for what can't be"


@pytest.mark.parametrize("swapped", [False, True], ids=["one-first", "other-first"])
def test_payloads_of_disagreeing_servers_are_not_mixed(
    swapped: bool, published: Published, other: Published, tmp_path: Path
) -> None:
    output = out_of(tmp_path)
    chosen, left_out = (other, published) if swapped else (published, other)
    with BadServer(chosen.data_dir) as server, BadServer(left_out.data_dir) as disagreeing:
        done = fetch(output, server.address, disagreeing.address)
        assert_fetched(done, output, chosen.payload)
        assert disagreeing.address in said(done), "says nothing of the server that it left out"
        assert disagreeing.sent_bytes(SHARDS) == 0


# A client is killed ------------------------------------------------------------------------------

CONNECTIONS = 4
PIECE = 256 * 1024


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_client_resumes(seed: int, tmp_path: Path) -> None:
    size = 16 * 1024 * 1024
    # Shards that are large against a piece: were only whole ones kept, it would show in the count.
    whole = publish(tmp_path, random.Random(4).randbytes(size), shard_size=4_000_000)
    chance = random.Random(seed)
    moments = sorted(chance.uniform(0.1, 0.8) * size for _ in range(3))
    output = out_of(tmp_path)
    env = {"SHARDCAST_MAX_CONCURRENT_DOWNLOADS": str(CONNECTIONS)}
    with BadServer(whole.data_dir) as server:
        server.set(SHARDS, bad.throttled(8e6))
        for moment in moments:
            with background(output, server.address, **env) as running:
                wait_for_bytes(server, moment)
                assert running.process.poll() is None, "it ended before it had everything"
            assert not output.exists()
        assert_fetched(fetch(output, server.address, **env), output, whole.payload)
        # Per kill and connection: the piece under way, and as much again in the buffers between the two.
        again = server.sent_bytes(SHARDS) - size
        assert again <= len(moments) * CONNECTIONS * 2 * PIECE, f"{again / 1e6:.1f} MB were fetched again"


def wait_for_bytes(server: BadServer, count: float) -> None:
    processes.wait_until(lambda: server.sent_bytes(SHARDS) >= count, what=f"{count:.0f} bytes")


def test_killed_client_resumes_from_another_server(tmp_path: Path) -> None:
    size = 8 * 1024 * 1024
    whole = publish(tmp_path, random.Random(5).randbytes(size), shard_size=2_000_000)
    output = out_of(tmp_path)
    with BadServer(whole.data_dir) as one, BadServer(whole.data_dir) as two:
        one.set(SHARDS, bad.throttled(8e6))
        with background(output, one.address, SHARDCAST_MAX_CONCURRENT_DOWNLOADS="2"):
            wait_for_bytes(one, size * 3 / 4)
        assert_fetched(fetch(output, two.address), output, whole.payload)
        assert two.sent_bytes(SHARDS) < size // 2, "what was there was fetched again"


def test_client_killed_before_its_first_byte_blocks_no_later_one(
    published: Published, tmp_path: Path
) -> None:
    output = out_of(tmp_path)
    with BadServer(published.data_dir) as server:
        server.set(SHARDS, bad.silent())
        with background(output, server.address):
            processes.wait_until(lambda: server.requested(SHARDS), what="the first request")
        server.set(SHARDS, bad.good())
        assert_fetched(fetch(output, server.address), output, published.payload)
