"""Collecting what nobody refers to: nothing that is referred to, or was put, is ever lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from hypothesis import given
from hypothesis import strategies as st

from shardcast.blobs.access_stats import archive_folder, stats_file
from shardcast.blobs.directory.blob_directory import BlobDirectory
from shardcast.blobs.directory.layout import OWN_FOLDER, Folder
from shardcast.blobs.directory.marks import count_as_put, is_marked
from shardcast.blobs.directory.quarantine import folder_lock
from shardcast.blobs.maintenance import gc_roots as roots
from shardcast.blobs.maintenance.gc import GarbageCollection, GcResult
from shardcast.blobs.maintenance.gc_policy import Blob, Decision, Rules, decide
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.errors import DataDirInUse, LocalDiskError, UsageError
from tests.support.archives import http, parse_answer, pull_body, push_body
from tests.support.payloads import sha256
from tests.support.processes import command, environment, origin, run
from tests.support.stores import assert_refused, blob_file, content, fill, random_blobs

HOUR, DAY = 3600.0, 86400.0
TIMES = st.integers(0, 12).map(float)
LENGTHS = st.integers(0, 6).map(float)
BLOBS = st.builds(lambda a, b, marked: Blob(min(a, b), max(a, b), marked), TIMES, TIMES, st.booleans())
RULES = st.builds(Rules, LENGTHS, LENGTHS)


# What is decided


@given(BLOBS, RULES, TIMES)
def test_referenced_blob_stays(blob: Blob, rules: Rules, now: float) -> None:
    assert decide(blob, True, rules, now) in (Decision.KEEP, Decision.UNMARK)


@given(BLOBS, LENGTHS, TIMES)
def test_decision_without_age_never_deletes(blob: Blob, grace: float, now: float) -> None:
    assert decide(blob, False, Rules(None, grace), now) in (Decision.KEEP, Decision.UNMARK)


@given(BLOBS, RULES, TIMES)
def test_only_blobs_marked_a_grace_time_ago_are_deleted(blob: Blob, rules: Rules, now: float) -> None:
    decision = decide(blob, False, rules, now)
    if decision is Decision.REMOVE:
        assert blob.marked
        assert blob.touched <= now - rules.grace
        assert rules.older_than is not None
        assert blob.written <= now - rules.older_than
    assert (decision is Decision.MARK) <= (not blob.marked and blob.touched <= now - rules.grace)
    assert (decision in (Decision.UNMARK, Decision.WAIT)) <= blob.marked


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["gc", "put", "name", "unname"]), st.sampled_from([0, 600, 1800, 3600, 7200])
        ),
        max_size=30,
    )
)
def test_put_or_referenced_blob_survives_grace_time_in_any_order(
    steps: list[tuple[str, float]],
) -> None:
    rules, now, named = Rules(0, HOUR), 0.0, False
    blob: Blob | None = None
    safe_until = 0.0
    for step, seconds in steps:
        now += seconds
        if step == "put":
            blob, safe_until = Blob(now, now, False), now + HOUR
        elif step == "name" and blob:
            named = True
        elif step == "unname":
            named = False
        elif step == "gc" and blob:
            decision = decide(blob, named, rules, now)
            if decision is Decision.REMOVE:
                assert not named
                assert now >= safe_until
                blob = None
            elif decision is Decision.MARK:
                blob = Blob(blob.written, now, True)
            elif decision is Decision.UNMARK:
                blob = Blob(blob.written, now, False)
        if named:
            assert blob is not None


def test_age_and_grace_bounds_are_exact() -> None:
    """A blob goes from the second on at which its time is over, and not before."""
    rules, now = Rules(older_than=7200.0, grace=HOUR), 100_000.0
    assert decide(Blob(now - 7200, now - 7200, False), False, rules, now) is Decision.MARK
    assert decide(Blob(now - 7199, now - 7199, False), False, rules, now) is Decision.KEEP
    assert decide(Blob(now - 9000, now - 7199, False), False, rules, now) is Decision.KEEP
    assert decide(Blob(now - 9000, now - HOUR, True), False, rules, now) is Decision.REMOVE
    assert decide(Blob(now - 9000, now - HOUR + 1, True), False, rules, now) is Decision.WAIT


@given(TIMES, RULES)
def test_unreferenced_blob_is_deleted_by_second_run(put: float, rules: Rules) -> None:
    assert rules.older_than is not None
    first = put + max(rules.older_than, rules.grace) + 1
    assert decide(Blob(put, put, False), False, rules, first) is Decision.MARK
    assert decide(Blob(put, first, True), False, rules, first + rules.grace + 1) is Decision.REMOVE


# What is done


def collect(root: Path, *named: str, later: float = 0.0, delete: bool = True, **rules: Any) -> GcResult:
    """One run, as if so many seconds had passed."""
    said: dict[str, float | None] = {"older_than": 0.0, "grace": HOUR} | rules
    referenced = set(map(bytes.fromhex, named))
    collection = GarbageCollection(
        Folder(str(root), "prefix"),
        referenced,
        Rules(said["older_than"], said["grace"] or 0),
        now=time.time() + later,
        delete=delete,
    )
    for _ in collection.run():
        pass
    return collection.result


def test_command_deletes_unreferenced_blobs_in_two_runs(tmp_path: Path) -> None:
    blobs = random_blobs(1, 10)
    digests = fill(tmp_path, *blobs)
    kept, lost = digests[:4], digests[4:]
    for digest in digests:
        os.utime(blob_file(tmp_path, digest), (0, 0))
    size = sum(len(blob) for blob in blobs[4:])
    would = collect(tmp_path, *kept, later=2 * HOUR, delete=False)
    assert (would.marked.blobs, would.marked.bytes, would.removed.blobs) == (6, size, 0)
    assert not (tmp_path / OWN_FOLDER).exists(), "a dry run changes nothing"
    first = collect(tmp_path, *kept, later=2 * HOUR)
    assert (first.marked.blobs, first.removed.blobs, first.referenced.blobs) == (6, 0, 4)
    assert content(tmp_path).keys() == {*digests}, "they can be read still"
    assert collect(tmp_path, *kept, later=HOUR - 60).waiting.blobs == 6
    would = collect(tmp_path, *kept, later=2 * HOUR, delete=False)
    assert (would.removed.blobs, would.removed.bytes) == (6, size)
    assert content(tmp_path).keys() == {*digests}
    assert collect(tmp_path, *kept, later=2 * HOUR).removed.bytes == size
    assert content(tmp_path) == dict(zip(kept, blobs[:4], strict=True))
    assert lost[0] not in content(tmp_path)


def test_recent_blob_is_not_marked(tmp_path: Path) -> None:
    (digest,) = fill(tmp_path, b"one")
    os.utime(blob_file(tmp_path, digest), (0, 0))  # as copied with its time
    assert collect(tmp_path).marked.blobs == 0
    assert collect(tmp_path, later=HOUR - 60).marked.blobs == 0
    assert collect(tmp_path, later=3 * DAY, older_than=7 * DAY).marked.blobs == 0
    assert collect(tmp_path, later=8 * DAY, older_than=7 * DAY).marked.blobs == 1


def test_without_age_nothing_is_deleted(tmp_path: Path) -> None:
    (digest,) = fill(tmp_path, b"one")
    assert collect(tmp_path, later=2 * HOUR).marked.blobs == 1
    result = collect(tmp_path, later=9 * HOUR, older_than=None)
    assert (result.unmarked.blobs, result.unreferenced.blobs) == (1, 1)
    assert not is_marked(blob_file(tmp_path, digest).stat())
    assert blob_file(tmp_path, digest).stat().st_mode & 0o777 == 0o444


def test_blob_referenced_again_stays(tmp_path: Path) -> None:
    digests = fill(tmp_path, b"one", b"two")
    collect(tmp_path, later=2 * HOUR)
    result = collect(tmp_path, digests[0], later=4 * HOUR)
    assert (result.unmarked.blobs, result.removed.blobs) == (1, 1)
    assert content(tmp_path) == {digests[0]: b"one"}


@pytest.mark.parametrize("how", ["anew", "as it is"])
async def test_blob_put_again_stays(tmp_path: Path, how: str) -> None:
    (digest,) = fill(tmp_path, b"one")
    collect(tmp_path, later=2 * HOUR)
    store = BlobDirectory(tmp_path, writable=True)
    if how == "anew":
        async with store.put() as writer:
            await writer.write(b"one")
            await writer.commit()
    else:  # as the hash server does with what is there
        count_as_put(store.folder, digest)
    await store.close()
    assert collect(tmp_path, later=HOUR - 60).removed.blobs == 0
    assert content(tmp_path) == {digest: b"one"}
    assert collect(tmp_path, later=2 * HOUR).removed.blobs == 0


def test_blob_put_at_the_moment_of_deletion_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (digest,) = fill(tmp_path, b"one")
    collect(tmp_path, later=2 * HOUR)
    rename = Path.rename

    def put_just_before(self: Path, target: Path) -> Path:
        if self.name == digest:
            self.chmod(0o444)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", put_just_before)
    assert collect(tmp_path, later=4 * HOUR).removed.blobs == 0
    assert content(tmp_path) == {digest: b"one"}


def test_all_forms_of_a_blob_are_deleted_together(tmp_path: Path) -> None:
    (digest,) = fill(tmp_path, b"one")
    for end in (".gz", ".BUFFERLENGTH"):
        blob_file(tmp_path, digest).with_name(digest + end).write_bytes(b"3")
    collect(tmp_path, later=2 * HOUR)
    assert collect(tmp_path, later=4 * HOUR).removed.bytes == 4
    assert list((tmp_path / digest[:2]).iterdir()) == []


def test_killed_deletion_is_undone_and_decided_anew(tmp_path: Path) -> None:
    digests = fill(tmp_path, b"one", b"two")
    collect(tmp_path, later=2 * HOUR)
    trash = tmp_path / OWN_FOLDER / "gc" / "trash"
    for digest in digests:
        blob_file(tmp_path, digest).rename(trash / digest)
    collect(tmp_path, digests[0], later=2 * HOUR)
    assert content(tmp_path)[digests[0]] == b"one"
    assert list(trash.iterdir()) == []


def test_only_one_run_at_a_time(tmp_path: Path) -> None:
    fill(tmp_path, b"one")
    collect(tmp_path)
    with folder_lock(tmp_path / OWN_FOLDER / "gc"), pytest.raises(DataDirInUse, match="another gc"):
        collect(tmp_path)


# Roots


def named(root: roots.Root) -> set[str]:
    return {digest.hex() for digest in roots.read_all([root], "sha256")}


def test_data_directory_root_references_shards_of_all_versions(tmp_path: Path) -> None:
    data, payloads = tmp_path / "data", [random.Random(n).randbytes(2500) for n in (1, 2)]
    with origin(data, "--shard-size", "1000") as node:
        for number, payload in enumerate(payloads):
            (tmp_path / f"{number}").write_bytes(payload)
            done = run("broadcast", "--data-dir", str(data), str(tmp_path / f"{number}"))
            assert done.returncode == 0, done.stderr
        expected = {sha256(payload[at : at + 1000]) for payload in payloads for at in (0, 1000, 2000)}
        expected |= set(map(sha256, payloads))
        assert named(roots.data_dir(data)) == expected, "beside the node that works on it"
        assert node.stop() == 0
    # an open version: whole lines, and one that is being written
    lines = (data / "v2" / "manifest.jsonl").read_bytes().splitlines(keepends=True)
    (data / "v3").mkdir()
    (data / "v3" / "manifest.jsonl").write_bytes(
        lines[0].replace(b'"v2"', b'"v3"') + lines[1] + lines[2][:30]
    )
    assert named(roots.data_dir(data)) == expected
    aside = data / ".shardcast" / "lines" / "none" / "v2-0123456789abcdef"
    aside.parent.mkdir(parents=True)
    (data / "v2").rename(aside)  # what was put aside may come back
    (data / "distribution.txt").write_text(
        "".join((data / "distribution.txt").read_text().splitlines(True)[:1])
    )
    assert named(roots.data_dir(data)) == expected
    aside.rename(data / "v2")
    (data / "distribution.txt").write_text(f"v2: {sha256(payloads[1])}|3\n")
    (data / "v2" / "manifest.jsonl").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(LocalDiskError, match="closing line"):
        named(roots.data_dir(data))
    (data / "v2" / "manifest.jsonl").unlink()
    with pytest.raises(LocalDiskError, match="is missing"):
        named(roots.data_dir(data))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (roots.snapshot, f"{'0' * 64}\nnonsense\n"),
        (roots.snapshot, None),
        (
            roots.registry_references,
            '{"sha256": "' + "0" * 64 + '"}\n{"hash": "l23dxo7ad3xnbe6lek5y6wwnym"}\n',
        ),
        (roots.registry_references, '{"sha256": "'),
        (roots.registry_references, '["0"]'),
        (roots.registry_references, None),
        (roots.data_dir, None),
        (roots.data_dir, "a file"),
    ],
)
def test_unreadable_or_malformed_root_ends_the_run(tmp_path: Path, make: Any, text: str | None) -> None:
    file = tmp_path / "root"
    if text is not None:
        file.write_text(text)
    with pytest.raises(LocalDiskError, match="root"):
        named(make(file))


def test_roots_yield_referenced_digests(tmp_path: Path) -> None:
    file, folder, digests = tmp_path / "root", Folder(str(tmp_path), "prefix"), [sha256(b"1"), sha256(b"2")]
    file.write_text(f"# mine\n\n{digests[0].upper()}  a name\n{digests[1]}\n")
    assert named(roots.snapshot(file)) == {*digests}
    file.write_text(json.dumps({"hash": "x", "path": "y", "sha256": digests[0]}) + "\nnull\n\n")
    assert named(roots.registry_references(file)) == {digests[0]}
    roots.pin(folder, digests[1])
    assert named(roots.pins(folder)) == {digests[1]}
    assert roots.unpin(folder, digests[1])
    assert not roots.unpin(folder, digests[1])
    assert named(roots.pins(folder)) == set()
    with pytest.raises(UsageError, match="sha3-256"):
        roots.read_all([roots.registry_references(file)], "sha3-256")


# The command


def gc(root: Path, *words: str | Path, code: int = 0) -> dict[str, Any]:
    done = run("store", "gc", str(root), "--json", *map(str, words))
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout) if code == 0 else {"said": done.stderr}


NOW = ("--unreferenced-older-than", "0", "--grace", "0")


def test_command_keeps_blobs_of_its_roots(tmp_path: Path) -> None:
    root, snapshot = tmp_path / "store", tmp_path / "snapshot"
    digests = fill(root, b"one", b"two", b"three")
    snapshot.write_text(digests[0])
    done = run("store", "pin", "-d", str(root), digests[1])
    assert done.returncode == 0, done.stderr
    assert gc(root, "--snapshot", snapshot, *NOW)["dry_run"] is True
    assert gc(root, "--snapshot", snapshot, "--delete")["unreferenced"]["blobs"] == 1
    assert gc(root, "--snapshot", snapshot, *NOW, "--delete")["marked"]["blobs"] == 1
    assert gc(root, "--snapshot", snapshot, *NOW, "--delete")["removed"] == {"blobs": 1, "bytes": 5}
    assert content(root) == {digests[0]: b"one", digests[1]: b"two"}
    said = gc(root, *NOW, "--delete", code=2)["said"]
    assert f"snapshot {snapshot}" in said, "who was asked the last time is asked again"
    snapshot.write_text("nonsense")
    gc(root, "--snapshot", snapshot, *NOW, "--delete", code=6)
    snapshot.unlink()
    gc(root, "--snapshot", snapshot, *NOW, "--delete", code=6)
    assert content(root).keys() == {digests[0], digests[1]}
    gc(root, "--forget-root", f"snapshot {snapshot}", *NOW, "--delete")
    gc(root, *NOW, "--delete")
    assert content(root) == {digests[1]: b"two"}
    assert run("store", "unpin", "-d", str(root), digests[0]).returncode == 3


async def test_archive_forgets_only_deleted_blobs(tmp_path: Path) -> None:
    kept, lost = [b"kept", b"kept too"], [b"lost %d" % number for number in range(1500)]
    options: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "authorized_port": 0}
    async with ArchiveNode.on_directory(tmp_path, **options) as node, http() as session:
        for blobs in (kept, lost):
            async with session.post(f"{node.push_url}/v1/push", data=push_body(blobs)) as answer:
                assert answer.status == 200
        asked = [*kept, *lost[:50]]
        async with session.post(f"{node.url}/v1/pull", data=pull_body(asked)) as answer:
            found = parse_answer(await answer.read(), {sha256(blob): len(blob) for blob in asked})
            assert len(found) == len(asked)
        async with session.get(f"{node.url}/stats") as answer:
            assert sha256(lost[0]) in await answer.text()
        for blob in kept:
            roots.pin(Folder(str(tmp_path), "prefix"), sha256(blob))
        before = await metadata(session, node, kept[0])
        assert (await asyncio.to_thread(gc, tmp_path, *NOW, "--delete"))["marked"]["blobs"] == 1500
        assert (await asyncio.to_thread(gc, tmp_path, *NOW))["removed"]["blobs"] == 1500  # that would be
        assert len(known(tmp_path, "content")) == 1502
        assert (await asyncio.to_thread(gc, tmp_path, *NOW, "--delete"))["removed"]["blobs"] == 1500
        assert known(tmp_path, "content") == known(tmp_path, "access") == set(map(sha256, kept))
        async with session.get(f"{node.url}/stats") as answer:
            page = await answer.text()
            assert all(sha256(blob) in page for blob in kept)
            assert sha256(lost[0]) not in page
        async with session.get(f"{node.url}/") as answer:
            page = await answer.text()
            assert any(sha256(blob) in page for blob in kept)
        assert await metadata(session, node, kept[0]) == before


async def metadata(session: ClientSession, node: ArchiveNode, blob: bytes) -> Any:
    async with session.get(f"{node.url}/v1/metadata/{sha256(blob)}") as answer:
        return await answer.json()


def known(root: Path, table: str) -> set[str]:
    """The keys in a table of an archive's ledger."""
    with contextlib.closing(sqlite3.connect(stats_file(archive_folder(root)))) as database:
        return {key.hex() for (key,) in database.execute(f"SELECT key FROM {table}")}


def test_unreadable_root_deletes_nothing(tmp_path: Path) -> None:
    root, bad, data = tmp_path / "store", tmp_path / "bad", tmp_path / "data"
    fill(root, b"one", b"two")
    assert gc(root, *NOW, "--delete")["marked"]["blobs"] == 2
    (data / ".shardcast").mkdir(parents=True)
    (data / "distribution.txt").write_text(f"v1: {'0' * 64}|1\n")

    def looks() -> dict[Path, tuple[int, int]]:
        return {file: (file.stat().st_mode, file.stat().st_mtime_ns) for file in root.rglob("*")}

    pins, before = root / OWN_FOLDER / "pinned", looks()
    cases: list[tuple[str, str, Path]] = [
        ("--snapshot", "0" * 63, bad),
        ("--registry-references", '{"sha256": "' + "0" * 64 + '"}\n{"sha256": ', bad),
        ("--data-dir", "", data),
        ("--unreferenced-older-than", "", pins),  # a file, where the folder of pins belongs
    ]
    for option, text, file in cases:
        if file is not data:
            file.write_text(text)
        words = (option, file) if file is not pins else ()
        assert str(file) in gc(root, *words, *NOW, "--delete", code=6)["said"]
        pins.unlink(missing_ok=True)
        assert looks().keys() == before.keys()
        assert all(looks()[one] == before[one] for one in before if one.is_file())
    assert gc(root, *NOW, "--delete")["removed"]["blobs"] == 2


NO_SENSE: list[tuple[list[str], int, str]] = [
    (["--unreferenced-older-than", "soon"], 2, "no length of time"),
    (["--grace", "-1h"], 2, "no length of time"),
    (["--data-dir", "nowhere"], 6, "no data directory"),
    (["--registry-references", "nowhere"], 6, "could not read"),
]


def test_invalid_arguments_are_refused_clearly(tmp_path: Path) -> None:
    fill(tmp_path, b"one")
    assert_refused(
        [(["gc", "{store}", "--delete", *words], *rest) for words, *rest in NO_SENSE], {"store": tmp_path}
    )
    assert len(content(tmp_path)) == 1


def test_empty_store_has_nothing_to_delete(tmp_path: Path) -> None:
    assert gc(tmp_path, *NOW, "--delete")["all"] == {"blobs": 0, "bytes": 0}


def files(root: Path) -> int:
    """How many there are now, while some of them go."""
    return sum(len(names) for _, _, names in os.walk(root))


def test_gc_killed_at_any_moment_loses_no_referenced_blob(tmp_path: Path) -> None:
    rng, root, snapshot = random.Random(7), tmp_path / "store", tmp_path / "snapshot"
    blobs = random_blobs(8, 2000, 50)
    digests = fill(root, *blobs)
    whole = content(root)
    kept = {*rng.sample(digests, 500)}
    snapshot.write_text("\n".join(kept))
    arguments = command("store", "gc", str(root), "--snapshot", str(snapshot), *NOW, "--delete", "-q")
    done = subprocess.run(arguments, env=environment(), capture_output=True, check=True)
    for _ in range(6):
        process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.DEVNULL)
        here, deadline = files(root), time.monotonic() + 30
        while process.poll() is None and files(root) == here:
            assert time.monotonic() < deadline
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        now = content(root)
        assert kept <= now.keys()
        assert all(now[digest] == whole[digest] for digest in now)
    for _ in range(3):  # what the killed one was about to remove goes back, and its grace time begins anew
        done = subprocess.run(arguments, env=environment(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    assert content(root) == {digest: whole[digest] for digest in kept}


GRACE = 0.4
PUTTING = """
import asyncio, os, random, sys, time
from pathlib import Path
from shardcast.blobs.directory.blob_directory import BlobDirectory

async def main():
    root, seconds, grace, rng = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), random.Random(9)
    store, begun, put = BlobDirectory(root, writable=True), time.time(), {}
    while time.time() < begun + seconds:
        blob = b"%d" % min(rng.randrange(300), rng.randrange(300))
        now = time.time()
        try:  # as the hash server does with what is there
            os.chmod(put[blob][1], 0o444)
            put[blob] = now, put[blob][1]
        except (KeyError, FileNotFoundError):
            async with store.put() as writer:
                await writer.write(blob)
                put[blob] = now, Path(store.folder.path(await writer.commit()))
        for known, (when, path) in put.items():
            if not path.exists():
                time.sleep(0.02)  # it may be on its way back
                if not path.exists() and time.time() < when + grace:
                    print("lost", known, time.time() - when, flush=True)
    print("put", len(put))
    await store.close()

asyncio.run(main())
"""


def test_blob_put_while_gc_runs_stays(tmp_path: Path) -> None:
    fill(tmp_path)
    arguments = [sys.executable, "-c", PUTTING, str(tmp_path), "4", str(GRACE)]
    process = subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, text=True)
    removed = 0
    try:
        while process.poll() is None:
            removed += collect(tmp_path, grace=GRACE).removed.blobs
        said, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait(30)
    assert said.startswith("put "), said
    assert process.returncode == 0
    assert removed > 10
    assert all(sha256(blob) == digest for digest, blob in content(tmp_path).items())
