"""``shardcast store`` ls, stat, put, get, has, verify, pull, push: real processes on real directories."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import random
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shardcast.blobs.client.archive import ArchiveClient
from shardcast.blobs.copy import CopyProgress, copy, remote_store
from shardcast.blobs.directory.layout import OWN_FOLDER, Folder
from shardcast.blobs.directory.quarantine import Quarantine, put_back, take_out
from shardcast.blobs.maintenance.scrub import RateLimiter, Scrub
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.errors import BadAnswer
from tests.support.archives import put_blobs
from tests.support.memory_store import BlobsInMemory
from tests.support.payloads import random_bytes, sha256
from tests.support.processes import command, environment, node, run
from tests.support.stores import assert_refused, blob_file, content, damage, fill, random_blobs

ABSENT = "0" * 64
ANYWHERE: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "authorized_port": 0}


def store(*words: str | Path, code: int = 0, env: dict[str, str] | None = None) -> tuple[str, str]:
    """Run ``shardcast store WORDS…``, which is to end with this code; its stdout and stderr."""
    done = run("store", *map(str, words), env=env)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout, done.stderr


@contextlib.contextmanager
def serving(root: Path, *words: str) -> Iterator[str]:
    with node("store", "serve", str(root), "--port-range", "49152", "65535", *words) as running:
        yield running.url


# put, get, has, stat, ls


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[Path, str, bytes]]:
    """A store with a blob: where, its digest and its bytes."""
    root, data = tmp_path / "store", random_bytes(3_000_000)
    (digest,) = fill(root, data)
    yield root, digest, data


@pytest.mark.parametrize("kind", ["device", "pipe", "link to a device"])
def test_get_does_not_replace_a_non_file(kind: str, kept: tuple[Path, str, bytes], tmp_path: Path) -> None:
    root, digest, _ = kept
    output = tmp_path / "output"
    if kind == "pipe":
        os.mkfifo(output)
    elif kind == "link to a device":
        output.symlink_to("/dev/null")
    elif os.geteuid():
        pytest.skip("only root makes a device")
    else:
        os.mknod(output, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    before = output.lstat()
    _, err = store("get", "-d", root, digest, "-o", output, code=6)
    assert err == f"Error: could not write {output}: it exists and is not a file\n"
    assert os.path.samestat(output.lstat(), before)


def test_get_follows_link_but_not_planted_temporary(kept: tuple[Path, str, bytes], tmp_path: Path) -> None:
    root, digest, data = kept
    disk, output, precious = tmp_path / "disk", tmp_path / "output", tmp_path / "precious"
    disk.mkdir()
    precious.write_bytes(b"precious")
    output.symlink_to(disk / "blob")
    for planted in (".blob.part", ".blob.blob.part"):
        (disk / planted).symlink_to(precious)
    store("get", "-d", root, digest, "-o", output)
    assert (output.is_symlink(), (disk / "blob").read_bytes()) == (True, data)
    assert precious.read_bytes() == b"precious"


def test_get_does_not_use_open_file_of_another_user(kept: tuple[Path, str, bytes], tmp_path: Path) -> None:
    root, digest, data = kept
    planted = tmp_path / ".output.blob.part"  # the name until 0.4.0
    planted.touch()
    planted.chmod(0o666)
    with planted.open("r+b") as others:
        store("get", "-d", root, digest, "-o", tmp_path / "output")
        others.write(b"wrong")
        others.flush()
        assert (tmp_path / "output").read_bytes() == data


def test_get_returns_put_blob(tmp_path: Path) -> None:
    root, one, two = tmp_path / "new" / "store", tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"Hello!")
    two.write_bytes(random.Random(1).randbytes(3_000_000))
    digests = [sha256(one.read_bytes()), sha256(two.read_bytes())]
    out, err = store("put", "-d", root, one, two)
    assert out.split() == digests
    assert err == ""
    assert content(root) == dict(zip(digests, (one.read_bytes(), two.read_bytes()), strict=True))
    where = {"SHARDCAST_STORE_DIRECTORY": str(root)}
    assert sorted(store("ls", env=where)[0].split()) == sorted(digests)
    store("get", digests[1], "-o", tmp_path / "out", env=where)
    assert (tmp_path / "out").read_bytes() == two.read_bytes()
    assert store("get", digests[0].upper(), env=where)[0] == "Hello!"
    told = json.loads(store("stat", digests[0], "--json", env=where)[0])
    assert (told["size"], told["stored"], told["forms"]) == (6, 6, ["raw"])
    assert json.loads(store("has", digests[0], ABSENT, "--json", code=3, env=where)[0]) == {
        digests[0]: True,
        ABSENT: False,
    }
    assert store("has", *digests, env=where)[0].count("here") == 2
    assert [entry.name for entry in tmp_path.iterdir() if ".part" in entry.name] == []


def test_put_reads_whole_file_without_size(tmp_path: Path) -> None:
    file = Path("/proc/version")
    if not file.exists():
        pytest.skip("there is no /proc here")
    assert store("put", file, "-d", tmp_path)[0] == f"{sha256(file.read_bytes())}\n"


def test_put_reads_stdin_and_get_writes_empty_blob(tmp_path: Path) -> None:
    done = subprocess.run(
        command("store", "put", "-d", str(tmp_path), "-", "--json"),
        input=b"",
        capture_output=True,
        env=environment(),
        check=True,
    )
    assert json.loads(done.stdout) == {"file": "-", "digest": sha256(b""), "size": 0}
    assert store("get", sha256(b""), "-d", tmp_path)[0] == ""


def test_new_store_keeps_chosen_digest_and_layout(tmp_path: Path) -> None:
    file, flat = tmp_path / "file", tmp_path / "flat"
    file.write_bytes(b"Hello!")
    flat.mkdir()
    (digest,) = store("put", "-d", flat, file, "--algorithm", "sha3-256", "--layout", "flat")[0].split()
    assert (flat / digest).read_bytes() == b"Hello!"
    assert digest != sha256(b"Hello!")
    assert store("put", "-d", flat, file)[0].split() == [digest]
    assert "not sha256" in store("put", "-d", flat, file, "--algorithm", "sha256", code=2)[1]
    assert store("verify", flat)[0] == ""


NO_SENSE: list[tuple[list[str], int, str]] = [
    (["ls"], 2, "Missing argument"),
    (["ls", "{nowhere}"], 2, "is no directory"),
    (["ls", "{file}"], 2, "is no directory"),
    (["stat", "-d", "{store}", "0123"], 2, "64 hex digits"),
    (["stat", "-d", "{store}", "../../../etc/passwd"], 2, "64 hex digits"),
    (["stat", "-d", "{store}", ABSENT], 3, "is not in"),
    (["stat", ABSENT], 2, "Missing option"),
    (["has", "-d", "{store}"], 2, "name the blobs"),
    (["has", "-d", "{store}", "--from-file", "{file}"], 2, "line 2"),
    (["has", "-d", "{store}", "--from-file", "{binary}"], 2, "is no text"),
    (["has", "-d", "{store}", "--from-file", "{nowhere}"], 2, "No such file"),
    (["get", "-d", "{store}", ABSENT], 3, "is not in"),
    (["get", "-d", "{store}", "{digest}", "-o", "{nowhere}/out"], 6, "could not write"),
    (["get", "-d", "{store}", "{digest}", "-o", "{store}"], 2, "is a directory"),
    (["put", "-d", "{store}"], 2, "Missing argument"),
    (["put", "-d", "{store}", "{nowhere}"], 2, "does not exist"),
    (["put", "-d", "{file}", "{file}"], 2, "is no directory"),
    (["put", "-d", "{file}/below", "{file}"], 6, "could not make"),
    (["put", "-d", "{store}", "{store}"], 2, "is a directory"),
    (["put", "-d", "{store}", "--algorithm", "md5", "{file}"], 2, "no digest of a store"),
    (["put", "-d", "{store}", "--layout", "deep", "{file}"], 2, "layout"),
    (["put", "-d", "{nowhere}", "--algorithm", "md5", "{file}"], 2, "no digest of a store"),
    (["put", "-d", "{nowhere}", "--layout", "deep", "{file}"], 2, "layout"),
    (["put", "-d", "{store}", "--layout", "flat", "{file}"], 2, "is prefix, not flat"),
    (["put", "-d", "", "{file}"], 2, "it is empty"),
    (["get", "-d", "{store}", "{digest}", "-o", ""], 2, "it is empty"),
    (["verify", "{nowhere}"], 2, "is no directory"),
    (["verify", "{store}", "--rate", "fast"], 2, "is not a size"),
    (["verify", "{store}", "--rate", "0"], 2, "at least one byte"),
    (["verify", "{store}", "--repair-from", "ftp://x"], 2, "http"),
]


def test_dangling_links_hide_no_blobs(tmp_path: Path) -> None:
    """Whoever may put blobs there can make them."""
    digest, circle, dangling = fill(tmp_path, b"Hello!", b"circle", b"dangling")
    for name, to in ((circle, circle), (dangling, "nowhere")):
        blob_file(tmp_path, name).unlink()
        blob_file(tmp_path, name).symlink_to(to)
        store("get", "-d", tmp_path, name, code=3)
    assert store("ls", tmp_path)[0].split() == [digest]
    store("verify", tmp_path)
    store("gc", tmp_path)
    (tmp_path / OWN_FOLDER).mkdir(exist_ok=True)
    (tmp_path / OWN_FOLDER / "digest").write_bytes(b"\xff\xfe")
    assert "unknown to this shardcast" in store("ls", tmp_path, code=2)[1]


def test_invalid_arguments_are_refused_clearly(tmp_path: Path) -> None:
    root, file, binary = tmp_path / "store", tmp_path / "file", tmp_path / "binary"
    (digest,) = fill(root, b"Hello!")
    file.write_text(f"{ABSENT}\nnonsense\n")
    binary.write_bytes(b"\xff\xfe\x00")
    names = {"store": root, "file": file, "binary": binary, "nowhere": tmp_path / "nowhere", "digest": digest}
    assert_refused(NO_SENSE, names)
    assert content(root) == {digest: b"Hello!"}
    assert not (tmp_path / "nowhere").exists()


def test_get_refuses_damaged_blob(tmp_path: Path) -> None:
    (digest,) = fill(tmp_path / "s", b"Hello!")
    damage(blob_file(tmp_path / "s", digest))
    for words in (
        ["get", digest, "-d", tmp_path / "s"],
        ["get", digest, "-d", tmp_path / "s", "-o", tmp_path / "o"],
    ):
        assert "do not match its name" in store(*words, code=5)[1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]


def test_get_writes_compressed_blob_verbatim_with_note(tmp_path: Path) -> None:
    blob = b"again and again " * 1000
    (digest,) = fill(tmp_path, blob)
    plain = blob_file(tmp_path, digest)
    plain.unlink()
    plain.with_name(digest + ".gz").write_bytes(gzip.compress(blob))
    plain.with_name(digest + ".BUFFERLENGTH").write_text(str(len(blob)))
    assert store("get", digest, "-d", tmp_path)[0].encode() == blob
    told = json.loads(store("stat", digest, "-d", tmp_path, "--json")[0])
    assert (told["size"], told["forms"]) == (len(blob), ["gzip"])
    assert "all right" in store("verify", tmp_path)[1]
    damage(plain.with_name(digest + ".gz"), 30)
    assert "set aside" in store("verify", tmp_path, code=5)[0]


def test_help_is_not_truncated() -> None:
    listed = store("-h", env={"COLUMNS": "80"})[0].partition("Commands:")[2]
    assert "verify" in listed and "..." not in listed


def test_empty_store_lists_and_verifies_nothing(tmp_path: Path) -> None:
    assert store("ls", tmp_path) == ("", "")
    assert store("ls", "--quarantined", tmp_path) == ("", "")
    out, err = store("verify", tmp_path)
    assert (out, err) == ("", "0 files, 0 B: all right\n")
    assert list(tmp_path.iterdir()) == []


def test_long_list_takes_bounded_memory(tmp_path: Path) -> None:
    (tmp_path / ".HASHSERVER_PREFIX").write_text("1\n")
    original = tmp_path / "00"
    count = 50_000
    for first in range(256):
        (tmp_path / f"{first:02x}").mkdir()
    original = blob_file(tmp_path, sha256(b""))
    original.touch()
    for number in range(1, count):  # names alone are listed
        digest = sha256(b"%d" % number)
        try:
            os.link(original, blob_file(tmp_path, digest))
        except OSError:  # enough links
            original = blob_file(tmp_path, digest)
            original.touch()
    measure = (
        "import resource, sys; from shardcast.cli.main import shardcast;"
        "shardcast.main(['store', 'ls', sys.argv[1]], standalone_mode=False);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    (tmp_path / "empty").mkdir()

    def listed(root: Path) -> tuple[int, int]:
        done = subprocess.run(
            [command()[0], "-c", measure, str(root)],
            capture_output=True,
            text=True,
            env=environment(),
            check=True,
        )
        return len(done.stdout.split()), int(done.stderr.split()[-1])

    nothing, least = listed(tmp_path / "empty")
    everything, most = listed(tmp_path)
    assert (nothing, everything) == (0, count)
    assert most - least < 10_000, "kilobytes"


def test_list_ends_quietly_when_reader_closes_pipe(tmp_path: Path) -> None:
    fill(tmp_path, *random_blobs(10, 3000, 20))
    process = subprocess.Popen(
        command("store", "ls", "--long", str(tmp_path)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(30), said) == (1, b"")


# verify


def test_verify_ends_on_signal(tmp_path: Path) -> None:
    fill(tmp_path, *random_blobs(11, 100))
    process = subprocess.Popen(
        command("store", "verify", str(tmp_path), "--rate", "10kB"),
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)  # the rate is held
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 130
    assert process.stderr.read().endswith("Interrupted.\n")
    process.stderr.close()


def test_verify_reports_quarantined_blob_until_it_returns(tmp_path: Path) -> None:
    blobs = random_blobs(2, 20)
    digests = fill(tmp_path, *blobs)
    was = damage(blob_file(tmp_path, digests[3]), 0)
    assert digests[3] in store("verify", tmp_path, "--no-quarantine", code=5)[0]
    assert content(tmp_path)[digests[3]] == was
    found, summary = map(json.loads, store("verify", tmp_path, "--json", code=5)[0].splitlines())
    assert (found["digest"], found["outcome"]) == (digests[3], "set aside")
    assert (summary["files"], summary["set_aside"]) == (20, 1)
    assert content(tmp_path).keys() == {*digests} - {digests[3]}
    assert Path(found["detail"]).read_bytes() == was
    assert digests[3] in store("ls", "--quarantined", tmp_path)[0]
    assert "set aside" in store("verify", tmp_path, code=5)[0], "it is still lost"
    file = tmp_path / "again"
    file.write_bytes(blobs[3])
    store("put", "-d", tmp_path, file)
    store("verify", tmp_path)
    assert Path(found["detail"]).exists(), "what was set aside is never removed"


def test_verify_repairs_damaged_blob_from_server(tmp_path: Path) -> None:
    blobs = random_blobs(3, 10)
    here, there = tmp_path / "here", tmp_path / "there"
    digests = fill(here, *blobs)
    fill(there, *blobs[:5])
    damage(blob_file(there, digests[4]))
    for digest in digests[3:6]:
        damage(blob_file(here, digest))
    with serving(there) as url, serving(here) as own:
        out, _ = store("verify", here, "--repair-from", f"127.0.0.1:1,{url}", code=5)
        assert sorted(line.split()[1] for line in out.splitlines()) == ["repaired:", "set", "set"]
        assert content(here) == dict(zip(digests[:4] + digests[6:], blobs[:4] + blobs[6:], strict=True))
        done = run("store", "has", "-d", str(here), *digests)
        assert done.stdout.count("missing") == 2
        blob_file(there, digests[4]).unlink()
        fill(there, *blobs)
        store("verify", here, "--repair-from", url)
        assert own
    assert content(here) == dict(zip(digests, blobs, strict=True))


def test_quarantine_takes_only_the_file_that_was_read(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path), "prefix")
    (digest,) = fill(tmp_path, b"wrong")
    file = blob_file(tmp_path, digest)
    looks = file.stat()
    file.unlink()
    fill(tmp_path, b"wrong")  # somebody put it anew
    assert Quarantine(folder).set_aside(str(file), digest, looks, "wrong") is None
    assert content(tmp_path) == {digest: b"wrong"}
    assert list(Quarantine(folder).entries()) == []
    file.unlink()
    assert Quarantine(folder).set_aside(str(file), digest, looks, "wrong") is None


def test_quarantine_and_restore_of_a_blob(tmp_path: Path) -> None:
    name, place = tmp_path / "name", tmp_path / "place"
    name.write_bytes(b"old")
    assert take_out(name, place, lambda looks: True)
    name.write_bytes(b"new")
    assert not put_back(place, name), "what came meanwhile stays"
    assert name.read_bytes() == b"new"
    assert not place.exists()


def test_interrupted_quarantine_is_checked_again(tmp_path: Path) -> None:
    good, bad = fill(tmp_path, b"good", b"bad")
    place = tmp_path / OWN_FOLDER / "quarantine"
    place.mkdir(parents=True)
    for digest in (good, bad):  # a kill between the two steps
        blob_file(tmp_path, digest).rename(place / f"{digest}-00000000")
    damage(place / f"{bad}-00000000")
    assert bad in store("verify", tmp_path, code=5)[0]
    assert content(tmp_path) == {good: b"good"}
    assert [one.digest for one in Quarantine(Folder(str(tmp_path), "prefix")).entries()] == [bad]


def test_verify_killed_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    rng = random.Random(4)
    blobs = random_blobs(5, 300)
    digests = fill(tmp_path, *blobs)
    damaged = rng.sample(digests, 100)
    for digest in damaged:
        damage(blob_file(tmp_path, digest))
    whole = content(tmp_path)
    quarantine = Quarantine(Folder(str(tmp_path), "prefix"))
    for _ in range(6):
        process = subprocess.Popen(
            command("store", "verify", str(tmp_path), "-q"), env=environment(), stdout=-3
        )
        deadline, some = time.monotonic() + 30, len(list(quarantine.entries()))
        while process.poll() is None and len(list(quarantine.entries())) <= some + rng.randint(0, 10):
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    store("verify", tmp_path, code=5)
    assert content(tmp_path) == {digest: data for digest, data in whole.items() if digest not in damaged}
    aside = {one.digest: Path(one.file).read_bytes() for one in quarantine.entries()}
    assert aside == {digest: whole[digest] for digest in damaged}


@contextlib.contextmanager
def read_only(path: Path) -> Iterator[None]:
    """A folder that nobody can write to, root neither."""
    if os.geteuid() != 0:
        folders = [Path(folder) for folder, _, _ in os.walk(path)]
        for folder in folders:
            folder.chmod(0o555)
        try:
            yield
        finally:
            for folder in folders:
                folder.chmod(0o755)
        return
    bound = subprocess.run(["mount", "--bind", str(path), str(path)], capture_output=True, check=False)
    if bound.returncode:
        pytest.skip("can't mount here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(path)], check=True)
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_verify_reads_unwritable_store(tmp_path: Path) -> None:
    digests = fill(tmp_path, b"one", b"two")
    with read_only(tmp_path):
        store("verify", tmp_path)
        assert "would be marked" in store("gc", tmp_path, "--unreferenced-older-than", "0", "--grace", "0")[0]
        store("gc", tmp_path, "--delete", code=6)
        store("put", "-d", tmp_path, __file__, code=6)
        store("pin", "-d", tmp_path, digests[0], code=6)
    damage(blob_file(tmp_path, digests[0]))
    with read_only(tmp_path), serving(tmp_path) as url:
        out, _ = store("verify", tmp_path, code=5)
        assert "left: " in out
        assert "could not set aside" in out
        assert "left: " in store("verify", tmp_path, "--repair-from", url, code=5)[0]
        assert store("get", "-d", tmp_path, digests[1])[0] == "two"
        assert sorted(store("ls", tmp_path)[0].split()) == sorted(digests)


async def test_verify_keeps_to_its_rate() -> None:
    now, slept = 0.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    pace = RateLimiter(100, lambda: now, sleep)
    for _ in range(10):
        await pace.account(100)
    assert now == pytest.approx(10)
    now += 1000  # what was lost is not made up for but a moment of it
    for _ in range(10):
        await pace.account(100)
    assert now == pytest.approx(1019)
    assert len(slept) == 19


async def test_verify_rereads_file_replaced_while_reading(tmp_path: Path) -> None:
    blob = random.Random(6).randbytes(200_000)
    (digest,) = fill(tmp_path, blob)
    damage(blob_file(tmp_path, digest))

    class Meanwhile(RateLimiter):
        async def account(self, count: int) -> None:
            blob_file(tmp_path, digest).unlink(missing_ok=True)
            fill(tmp_path, blob)

    folder = Folder(str(tmp_path), "prefix")
    scrub = Scrub(folder, "sha256", quarantine=Quarantine(folder), pace=Meanwhile(None))
    found: list[Any] = [one async for one in scrub.run()]
    assert found == []
    assert content(tmp_path) == {digest: blob}
    await asyncio.sleep(0)


# pull and push


def test_pull_fetches_only_missing_blobs(tmp_path: Path) -> None:
    here, there, listed = tmp_path / "here", tmp_path / "there", tmp_path / "listed"
    blobs = [*random_blobs(7, 40), b""]
    digests = fill(there, *blobs)
    here.mkdir()
    listed.write_text("".join(f"{digest}  a name\n" for digest in digests))
    with serving(there) as url:
        out, err = store("pull", "-d", here, url, digests[0], ABSENT, code=3)
        assert out == f"{ABSENT}  missing\n"
        assert "1 blob," in err
        told = json.loads(store("pull", "-d", here, url, "--from-file", listed, "--json")[0])
        assert (told["copied"], told["there"]) == (40, 1)
        assert content(here) == dict(zip(digests, blobs, strict=True))
        damage(blob_file(there, digests[5]))
        blob_file(here, digests[5]).unlink()
        assert store("pull", "-d", here, url, *digests, code=3)[0] == f"{digests[5]}  missing\n"
        assert digests[5] not in content(here)
    assert "no connection" in store("pull", "-d", here, url, *digests, code=4)[1]


def test_push_to_hash_server_and_to_archive(tmp_path: Path) -> None:
    here, there, archive = tmp_path / "here", tmp_path / "there", tmp_path / "archive"
    blobs = random_blobs(8, 20)
    digests = fill(here, *blobs)
    damage(blob_file(here, digests[3]))
    there.mkdir()
    with serving(there, "--writable") as url:
        out, _ = store("push", "-d", here, url, *digests, ABSENT, code=5)
        assert sorted(line.split()[0] for line in out.splitlines()) == sorted([ABSENT, digests[3]])
        right = dict(zip(digests, blobs, strict=True))
        del right[digests[3]]
        assert content(there) == right
        told = json.loads(store("push", "-d", here, url, *digests[:3], "--json")[0])
        assert (told["copied"], told["there"]) == (0, 3)
    blob_file(there, digests[0]).unlink()
    with serving(there) as url:
        assert "405" in store("push", "-d", here, url, digests[0], code=1)[1]
    token = tmp_path / "token"
    token.write_text("secret\n")
    words = (
        "archive",
        "serve",
        str(archive),
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--token-file",
        str(token),
    )
    with node(*words) as running:
        store("push", "-d", here, running.url, digests[0], code=8)
        store("push", "-d", here, running.url, "--token-file", token, *digests[:3])
        assert content(archive) == {digest: right[digest] for digest in digests[:3]}
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        store("pull", "-d", elsewhere, running.url, *digests[:3])
        assert content(elsewhere) == content(archive)


async def test_push_batches_small_blobs_to_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests, push = 0, ArchiveClient.push

    async def counted(archive: ArchiveClient, blobs: Any) -> list[str]:
        nonlocal requests
        requests += 1
        return await push(archive, blobs)

    monkeypatch.setattr(ArchiveClient, "push", counted)
    blobs = [*(b"%d" % number for number in range(700)), random_bytes(100_000)]
    source, again = BlobsInMemory(), CopyProgress()
    digests = await put_blobs(source, *blobs)
    async with (
        ArchiveNode.on_directory(tmp_path, **ANYWHERE) as archive,
        remote_store(str(archive.push_url), "sha256") as there,
    ):
        state = CopyProgress()
        await copy(source, there, [*digests, ABSENT], state)
        assert (state.copied, state.present, state.missing) == (701, 0, [ABSENT])
        assert state.bytes == sum(map(len, blobs))
        assert requests == 3  # two of small ones, and the large one
        await copy(source, there, digests, again)
        assert (again.copied, again.present, requests) == (0, 701, 3)
    assert content(tmp_path) == dict(zip(digests, blobs, strict=True))


async def test_push_continues_after_blob_refused_by_archive(tmp_path: Path) -> None:
    source, state = BlobsInMemory(), CopyProgress()
    digests = await put_blobs(source, b"one", bytes(2000), b"two", bytes(50_000))
    async with (
        ArchiveNode.on_directory(tmp_path, max_blob=1000, **ANYWHERE) as archive,
        remote_store(str(archive.push_url), "sha256") as there,
    ):
        await copy(source, there, digests, state)
    assert (state.copied, sorted(state.failed)) == (2, sorted([digests[1], digests[3]]))
    assert content(tmp_path).keys() == {digests[0], digests[2]}


NO_SENSE_TO_COPY: list[tuple[list[str], int, str]] = [
    (["pull", "-d", "{store}", "ftp://x", ABSENT], 2, "http"),
    (["pull", "-d", "{store}", "http://127.0.0.1:1", ABSENT], 4, "no connection"),
    (["pull", "-d", "{store}", "http://127.0.0.1:1"], 2, "name the blobs"),
    (["pull", "-d", "{store}/nowhere", "http://127.0.0.1:1", ABSENT], 2, "is no directory"),
    (["push", "-d", "{store}", "http://127.0.0.1:1", ABSENT], 4, "no connection"),
    (["push", "-d", "{store}", "http://127.0.0.1:1", ABSENT, "--token-file", "nowhere"], 2, "not exist"),
    (
        ["push", "-d", "{store}", "http://127.0.0.1:1", ABSENT, "--token-file", "{binary}"],
        2,
        "one word of ASCII",
    ),
    (
        ["push", "-d", "{store}", "http://127.0.0.1:1", ABSENT, "--token-file", "{empty}"],
        2,
        "there is nothing",
    ),
]


def test_killed_copy_leaves_no_temporary_files(tmp_path: Path) -> None:
    root, out, temporary = tmp_path / "store", tmp_path / "out", tmp_path / "tmp"
    out.mkdir()
    temporary.mkdir()
    (digest,) = fill(root, random.Random(4).randbytes(48 << 20))

    def killed(*words: str, begun: Callable[[], bool]) -> None:
        quiet = subprocess.DEVNULL
        env = environment(TMPDIR=str(temporary))
        running = subprocess.Popen(command("store", *words), env=env, stdout=quiet, stderr=quiet)
        try:
            deadline = time.monotonic() + 20
            while not begun() and running.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.001)
        finally:
            running.kill()
            running.wait()

    for _ in range(3):
        killed("get", "-d", str(root), digest, "-o", str(out / "file"), begun=lambda: any(out.iterdir()))
    assert len(list(out.iterdir())) <= 1
    store("get", "-d", root, digest, "-o", out / "file")
    assert [one.name for one in out.iterdir()] == ["file"]
    (tmp_path / "there").mkdir()
    with serving(tmp_path / "there", "--writable") as url:
        incoming = tmp_path / "there" / OWN_FOLDER / "incoming"
        killed("push", "-d", str(root), url, digest, begun=lambda: len(list(incoming.rglob("*.part"))) > 0)
    assert list(temporary.iterdir()) == []


def test_invalid_copy_arguments_are_refused(tmp_path: Path) -> None:
    binary, empty = tmp_path / "binary", tmp_path / "empty"
    fill(tmp_path, b"one")
    binary.write_bytes(b"\xff\xfe")
    empty.write_bytes(b"\n")
    assert_refused(NO_SENSE_TO_COPY, {"store": tmp_path, "binary": binary, "empty": empty})


async def test_push_stops_at_server_that_refuses_everything(tmp_path: Path) -> None:
    class Refuses(BlobsInMemory):
        asked = 0

        def put(self, digest: str | None = None) -> Any:
            self.asked += 1
            raise BadAnswer("http://there", "no")

    source, target, state = BlobsInMemory(), Refuses(), CopyProgress()
    digests = await put_blobs(source, *random_blobs(9, 1000))
    with pytest.raises(BadAnswer):
        await copy(source, target, digests, state)
    assert target.asked <= 110
