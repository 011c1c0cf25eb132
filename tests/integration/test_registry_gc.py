"""Garbage collection of the registry: what is referenced stays, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from shardcast.errors import UsageError
from shardcast.registry import (
    InvalidName,
    MissingExternalFile,
    ReferencesUnreadable,
    Registry,
    StoreInaccessible,
    StoreNotConfigured,
    gc,
)
from tests.support import processes, registries
from tests.support.registries import DataJoint

datajoint = registries.datajoint
s3 = registries.s3

ROOT = Path(__file__).parents[2]
HOUR = 3600.0
DAY = 24 * HOUR


def hours_from_now(hours: float) -> Callable[[], float]:
    return lambda: time.time() + hours * HOUR


LATER = hours_from_now(2)
"""When what the tests put is old enough to be collected."""
DAYS_LATER = hours_from_now(50)
"""When what was set aside at LATER is deleted."""


@pytest.fixture(params=["file", "memory", "s3"])
def ours(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    """A registry over an empty store of each kind."""
    spec: dict[str, Any] = {"protocol": request.param, "location": str(tmp_path), "subfolding": [2]}
    if request.param == "s3":
        spec = request.getfixturevalue("s3").store(subfolding=[2])
    return Registry({"default": "main", "main": spec})


def collect(ours: Registry, *schemas: str, references: Any = (), **more: Any) -> dict[str, Any]:
    more = {"clock": LATER, "dry_run": False, **more}
    return gc.collect(*(schemas or ("lab",)), references=references, registry=ours, **more)


def scan(ours: Registry, *schemas: str, references: Any = (), **more: Any) -> dict[str, Any]:
    return gc.scan(*(schemas or ("lab",)), references=references, registry=ours, **{"clock": LATER, **more})


def files(ours: Registry) -> set[str]:
    return set(ours.get_store_backend().files("_hash"))


# --- the four ways in which the original loses data -------------------------------------------------------


def test_unnamed_schema_loses_nothing(ours: Registry) -> None:
    kept = [ours.put_hash(b"data", schema) for schema in ("other", "lab2", "la", "LAB")]
    orphan = ours.put_hash(b"data", "lab")
    done = collect(ours, "lab", quarantine=0)
    assert (done["stored"], done["orphaned"], done["deleted"]) == (1, 1, 1)
    assert files(ours) == {one["path"] for one in kept}
    assert collect(ours, "lab", "la", quarantine=0)["deleted"] == 1
    assert not ours.delete_path(orphan["path"])


@pytest.mark.parametrize("asked", [None, "main", "same"])
@pytest.mark.parametrize("noted", [None, "main", "same", "forgotten"])
def test_reference_protects_store_under_any_name(
    tmp_path: Path, asked: str | None, noted: str | None
) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    stores = {
        "default": "main",
        "main": {"protocol": "file", "location": str(tmp_path)},
        "same": {"protocol": "file", "location": str(tmp_path / "link")},
    }
    ours = Registry(stores)
    metadata = {**ours.put_hash(b"data", "lab"), "store": noted}
    assert collect(ours, references=[metadata], store_name=asked, quarantine=0)["deleted"] == 0
    assert ours.get_hash({**metadata, "store": None}) == b"data"


def test_reference_to_another_store_protects_nothing(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    stores: dict[str, Any] = {
        name: {"protocol": "file", "location": str(tmp_path / name)} for name in ("old", "new")
    }
    ours = Registry({**stores, "default": "old"})
    ours.put_hash(b"data", "lab")
    moved = ours.put_hash(b"data", "lab", "new")
    assert collect(ours, references=[moved], quarantine=0)["deleted"] == 1
    assert collect(ours, references=[moved], store_name="new", quarantine=0)["deleted"] == 0
    assert ours.get_hash(moved) == b"data"


def failing(rows: Iterable[Any]) -> Iterator[Any]:
    yield from rows
    raise sqlite3.OperationalError("no such table: files")


def unreadable() -> list[Any]:
    raise sqlite3.OperationalError("database is locked")


@pytest.mark.parametrize(
    ("references", "said"),
    [
        (lambda: failing([]), "OperationalError: no such table"),
        (unreadable, "OperationalError: database is locked"),
        (lambda: None, "TypeError"),
        (["{not json"], "no JSON"),
        (["[]"], "is list, and no metadata"),
        ([3], "is int, and no metadata"),
        ([{}], "its path is None"),
        ([{"hash": "l23dxo7ad3xnbe6lek5y6wwnym"}], "its path is None"),
        ([{"path": ""}], "its path is ''"),
        ([{"path": "/data/_hash/lab/x"}], "its path is '/data"),
        ([{"path": ["_hash"]}], "its path is \\["),
        ([{"path": "_hash/lab/x", "store": 3}], "its store is 3"),
    ],
)
def test_unreadable_references_delete_nothing(ours: Registry, references: Any, said: str) -> None:
    ours.put_hash(b"data", "lab")
    before = files(ours)
    with pytest.raises(ReferencesUnreadable, match=said):
        collect(ours, references=references, quarantine=0)
    assert files(ours) == before


def test_references_failing_midway_delete_nothing(ours: Registry) -> None:
    metadata = [ours.put_hash(data, "lab") for data in (b"one", b"two", b"three")]
    with pytest.raises(ReferencesUnreadable):
        collect(ours, references=lambda: failing(metadata[:1]), quarantine=0)
    assert files(ours) == {one["path"] for one in metadata}


def test_recent_content_without_row_is_not_collected(ours: Registry) -> None:
    metadata = ours.put_hash(b"data", "lab")
    done = collect(ours, clock=hours_from_now(0.9), quarantine=0)
    assert (done["orphaned"], done["hash_young"], done["deleted"]) == (0, 1, 0)
    assert ours.get_hash(metadata) == b"data"
    assert collect(ours, clock=hours_from_now(1.1), quarantine=0)["deleted"] == 1
    assert not files(ours)


def test_content_put_while_reading_references_stays(ours: Registry) -> None:
    """It is committed after its table was read: only that it was listed before saves it."""
    put: list[dict[str, Any]] = []

    def references() -> list[dict[str, Any]]:
        put.append(ours.put_hash(b"data", "lab"))
        return []

    assert collect(ours, references=references, min_age=0, quarantine=0)["deleted"] == 0
    assert ours.get_hash(put[0]) == b"data"


def test_exhausted_iterator_of_references_is_refused(ours: Registry) -> None:
    metadata = ours.put_hash(b"data", "lab")
    for iterator in (iter([metadata]), (row for row in [metadata]), map(dict, [metadata])):
        with pytest.raises(UsageError, match="give a list, or the function"):
            collect(ours, references=iterator)
    rows = (row for row in [metadata])
    assert scan(ours, references=lambda: rows)["orphaned"] == 0
    with pytest.raises(ReferencesUnreadable, match="read before"):
        collect(ours, references=lambda: rows, quarantine=0)
    assert ours.get_hash(metadata) == b"data"


# --- two phases -------------------------------------------------------------------------------------------


def test_orphan_is_quarantined_and_deleted_a_day_later(ours: Registry) -> None:
    kept, orphan = ours.put_hash(b"kept", "lab"), ours.put_hash(b"orphan", "lab")
    assert collect(ours, references=[kept], dry_run=True)["orphaned"] == 1
    assert files(ours) == {kept["path"], orphan["path"]}

    first = collect(ours, references=[kept])
    assert (first["hash_quarantined"], first["deleted"], first["bytes_freed"]) == (1, 0, 0)
    assert files(ours) == {kept["path"], orphan["path"] + ".orphan"}
    assert ours.get_hash(orphan) == b"orphan"

    # A file's time can be set, and is that of the collection, which was two hours from now.
    is_file = ours.get_store_backend().protocol == "file"
    soon = collect(ours, references=[kept], clock=hours_from_now(25 if is_file else 23))
    assert (soon["hash_quarantined"], soon["deleted"]) == (0, 0)
    assert scan(ours, references=[kept])["hash_quarantined"] == 1

    last = collect(ours, references=[kept], clock=DAYS_LATER)
    assert (last["hash_deleted"], last["deleted"], last["bytes_freed"], last["errors"]) == (1, 1, 6, 0)
    assert files(ours) == {kept["path"]}
    with pytest.raises(MissingExternalFile):
        ours.get_hash(orphan)


def test_content_referenced_again_is_restored(ours: Registry) -> None:
    metadata = ours.put_hash(b"data", "lab")
    collect(ours)
    assert collect(ours, references=[metadata], dry_run=True, clock=DAYS_LATER)["hash_restored"] == 0
    done = collect(ours, references=[metadata], clock=DAYS_LATER)
    assert (done["hash_restored"], done["deleted"]) == (1, 0)
    assert files(ours) == {metadata["path"]}
    assert ours.get_hash(metadata) == b"data"


def test_content_put_during_collection_is_not_quarantined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever put it relies on it, and has yet to write the row that refers to it."""
    spec = {"protocol": "file", "location": str(tmp_path)}
    ours = Registry({"default": "main", "main": spec})
    metadata = ours.put_hash(b"data", "lab")
    kind: Any = type(ours.get_store_backend())
    set_aside = kind.set_aside

    def put_again_before(backend: Any, path: str, *words: Any) -> bool:
        a_minute_before = LATER() - 60
        os.utime(tmp_path / path, (a_minute_before, a_minute_before))
        return bool(set_aside(backend, path, *words))

    monkeypatch.setattr(kind, "set_aside", put_again_before)
    collect(ours)
    assert files(ours) == {metadata["path"]}


def test_content_put_while_quarantined_exists_again(ours: Registry) -> None:
    metadata = ours.put_hash(b"data", "lab")
    collect(ours)
    assert ours.put_hash(b"data", "lab") == metadata
    assert files(ours) == {metadata["path"], metadata["path"] + ".orphan"}
    assert collect(ours, references=[metadata], clock=DAYS_LATER)["deleted"] == 1
    assert files(ours) == {metadata["path"]}
    assert ours.get_hash(metadata) == b"data"


def test_deleted_content_is_not_restored_from_quarantine(ours: Registry) -> None:
    metadata = ours.put_hash(b"data", "lab")
    collect(ours)
    assert ours.delete_path(metadata["path"])
    with pytest.raises(MissingExternalFile):
        ours.get_hash(metadata)


def test_put_at_the_moment_of_quarantine_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Registry({"default": "main", "main": {"protocol": "file", "location": str(tmp_path)}})
    metadata = ours.put_hash(b"data", "lab")
    from shardcast import file_moves

    def rename(part: Path, final: Path) -> None:
        assert ours.put_hash(b"data", "lab") == metadata  # it is there and right, so that it isn't written
        file_moves.rename(part, final)

    monkeypatch.setattr("shardcast.registry.directory.rename", rename)
    done = collect(ours, quarantine=0)
    assert (done["hash_quarantined"], done["deleted"]) == (0, 0)
    assert files(ours) == {metadata["path"]}


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_put_after_ages_were_read_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    ours = Registry({"default": "main", "main": {"protocol": protocol, "location": str(tmp_path)}})
    metadata = ours.put_hash(b"data", "lab")
    if protocol == "memory":
        fsspec.filesystem("memory").store[f"{tmp_path}/{metadata['path']}"].modified -= timedelta(hours=3)
    backend = type(ours.get_store_backend())
    real = backend.set_aside

    def set_aside(self: Any, *given: Any) -> bool:
        time.sleep(0.02)  # more than the grain of a file's time
        assert ours.put_hash(b"data", "lab") == metadata
        return real(self, *given)

    monkeypatch.setattr(backend, "set_aside", set_aside)
    time.sleep(0.02)
    done = collect(ours, clock=time.time, min_age=0, quarantine=0)
    assert (done["orphaned"], done["deleted"], done["errors"]) == (1, 0, 0)
    assert files(ours) == {metadata["path"]}


def test_object_put_at_the_moment_of_quarantine_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = Registry({"default": "main", "main": {"protocol": "memory", "location": str(tmp_path)}})
    metadata = ours.put_hash(b"data", "lab")
    memory = fsspec.filesystem("memory")
    memory.store[f"{tmp_path}/{metadata['path']}"].modified -= timedelta(hours=3)
    real = type(memory).cp_file

    def cp_file(self: Any, *names: str, **more: Any) -> None:
        real(self, *names, **more)
        ours.put_hash(b"data", "lab")

    monkeypatch.setattr(type(memory), "cp_file", cp_file)
    assert collect(ours, clock=time.time)["hash_quarantined"] == 0
    assert files(ours) == {metadata["path"]}


def test_concurrent_put_is_readable_during_collection(tmp_path: Path) -> None:
    """Even without a minimal age, since what is set aside is read too."""
    ours = Registry({"default": "main", "main": {"protocol": "file", "location": str(tmp_path)}})
    stop = threading.Event()

    def put_and_get() -> int:
        rounds = 0
        while not stop.is_set():
            for number in range(4):
                assert ours.get_hash(ours.put_hash(b"%d" % number, "lab")) == b"%d" % number
            rounds += 1
        return rounds

    collections = 0
    with ThreadPoolExecutor(1) as pool:
        putting = pool.submit(put_and_get)
        try:
            while collections < 60 and not putting.done():
                done = collect(ours, min_age=0, clock=time.time)
                assert done["errors"] == 0
                collections += bool(done["hash_quarantined"])
        finally:
            stop.set()
        assert putting.result(30) >= 10


class Collecting(RuleBasedStateMachine):
    """Rows come and go, their content is collected: whatever has a row can be read."""

    protocol = "file"

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.mkdtemp(prefix="collecting-")
        spec = {"protocol": self.protocol, "location": self.place}
        self.ours = Registry({"default": "main", "main": spec})
        self.rows: dict[int, dict[str, Any]] = {}
        self.contents: dict[int, bytes] = {}
        self.removed: list[tuple[int, bytes, dict[str, Any], float]] = []
        # Rows that came back without a put and that no collection has seen since, with when they had gone:
        # what goes again before one sees it was, for the collector, never back.
        self.unseen: dict[int, float] = {}
        self.hours = 2.0
        self.next = 0

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    def references(self) -> Iterator[Any]:
        for number, row in self.rows.items():
            yield json.dumps(row) if number % 2 else row
        yield None

    @rule(content=st.integers(0, 4), schema=st.sampled_from(["lab", "other"]))
    def insert(self, content: int, schema: str) -> None:
        self.contents[self.next] = b"content %d" % content
        self.rows[self.next] = self.ours.put_hash(self.contents[self.next], schema)
        self.next += 1

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        if self.rows:
            number = data.draw(st.sampled_from(sorted(self.rows)))
            row = self.rows.pop(number)
            gone = self.unseen.pop(number, self.hours)
            self.removed.append((number, self.contents[number], row, gone))

    @rule(data=st.data())
    def insert_again_without_a_put(self, data: st.DataObject) -> None:
        recent = [one for one in self.removed if self.hours - one[3] < 20]
        if recent:
            number, content, row, gone = data.draw(st.sampled_from(recent))
            self.rows[number], self.contents[number] = row, content
            self.unseen.setdefault(number, gone)

    @rule(hours=st.floats(1, 30))
    def wait(self, hours: float) -> None:
        self.hours += hours
        self.grow_older(hours)

    def grow_older(self, hours: float) -> None:
        """A file that is set aside has the time of the collection's clock: let that go on."""

    def clock(self) -> float:
        return hours_from_now(self.hours)()

    @rule(schemas=st.sampled_from([["lab"], ["other"], ["other", "lab"]]))
    def collect(self, schemas: list[str]) -> None:
        done = collect(self.ours, *schemas, references=self.references, clock=self.clock)
        assert done["errors"] == 0
        for number, row in self.rows.items():
            if row["schema"] in schemas:
                self.unseen.pop(number, None)

    @invariant()
    def whatever_has_a_row_can_be_read(self) -> None:
        for number, row in self.rows.items():
            assert self.ours.get_hash(row) == self.contents[number]


class CollectingInMemory(Collecting):
    protocol = "memory"

    def grow_older(self, hours: float) -> None:
        """An object has the time of its store, which is the real one: put it back."""
        for name, one in fsspec.filesystem("memory").store.items():
            if name.startswith(self.place):
                one.modified -= timedelta(hours=hours)

    def clock(self) -> float:
        return LATER()


class TestCollecting(Collecting.TestCase):
    settings = settings(deadline=None, max_examples=60, stateful_step_count=30)


class TestCollectingInMemory(CollectingInMemory.TestCase):
    settings = settings(deadline=None, max_examples=60, stateful_step_count=30)


# --- what is asked and said -------------------------------------------------------------------------------


def test_references_are_accepted_in_any_form(ours: Registry) -> None:
    rows = [ours.put_hash(data, "lab") for data in (b"one", b"two", b"three", b"four")]
    odd = {**rows[3], "path": rows[3]["path"].replace("/lab/", "/lab//./")}
    text = [rows[0], json.dumps(rows[1]), json.dumps(rows[2]).encode(), odd, None, "null"]
    for references in (text, tuple(text), lambda: text, lambda: iter(text), lambda: (row for row in text)):
        found = scan(ours, references=references)
        assert (found["referenced"], found["orphaned"]) == (4, 0)


def test_scan_reports_and_changes_nothing(ours: Registry) -> None:
    rows = [ours.put_hash(data, "lab") for data in (b"", b"12345", b"1234567")]
    elsewhere = ours.put_hash(b"x", "other")
    backend = ours.get_store_backend()
    for name in ("notes.txt", rows[0]["hash"] + ".manifest.json", rows[0]["hash"].upper(), "x" * 25):
        backend.put_buffer(b"not the registry's", f"_hash/lab/{name}")
    before = files(ours)
    found = scan(ours, references=[rows[0], elsewhere])
    assert found["orphaned_hashes"] == sorted(row["path"] for row in rows[1:])
    assert {key: value for key, value in found.items() if not isinstance(value, list)} == {
        "hash_referenced": 1, "hash_stored": 3, "hash_orphaned": 2, "hash_orphaned_bytes": 12,
        "schema_paths_referenced": 0, "schema_paths_stored": 0,
        "schema_paths_orphaned": 0, "schema_paths_orphaned_bytes": 0,
        "referenced": 1, "stored": 3, "orphaned": 2, "orphaned_bytes": 12,
        "hash_young": 0, "hash_quarantined": 0, "hash_quarantined_bytes": 0,
    }  # fmt: skip
    assert gc.collect("lab", references=[], registry=ours, clock=LATER)["dry_run"] is True
    assert files(ours) == before
    collect(ours, quarantine=0)
    assert files(ours) == before - {row["path"] for row in rows}


def test_empty_store_collects_nothing(ours: Registry) -> None:
    assert collect(ours)["stored"] == 0
    ours.get_store_backend().put_buffer(b"a file, and no folder", "_hash/lab")
    assert collect(ours)["stored"] == 0


@pytest.mark.parametrize(
    ("schemas", "more", "error"),
    [
        ((), {}, UsageError),
        (("",), {}, InvalidName),
        (("../other",), {}, InvalidName),
        (("lab",), {"min_age": -1}, UsageError),
        (("lab",), {"min_age": float("nan")}, UsageError),
        (("lab",), {"quarantine": "1h"}, UsageError),
        (("lab",), {"store_name": "other"}, StoreNotConfigured),
    ],
)
def test_invalid_arguments_are_refused(
    ours: Registry, schemas: tuple[str, ...], more: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        gc.collect(*schemas, references=[], registry=ours, **more)


def test_failed_listing_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Registry({"default": "main", "main": {"protocol": "file", "location": str(tmp_path)}})
    ours.put_hash(b"data", "lab")
    real = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).endswith("/lab"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(StoreInaccessible, match="could not list"):
        collect(ours, quarantine=0)
    monkeypatch.undo()
    assert len(files(ours)) == 1


def test_failing_file_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours = Registry({"default": "main", "main": {"protocol": "file", "location": str(tmp_path)}})
    stuck, other = ours.put_hash(b"stuck", "lab"), ours.put_hash(b"other", "lab")
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self.name == stuck["hash"]:
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    done = collect(ours, quarantine=0)
    assert (done["orphaned"], done["deleted"], done["errors"]) == (2, 1, 1)
    assert f"could not collect {stuck['path']}" in caplog.text
    assert files(ours) == {stuck["path"]}
    assert not ours.delete_path(other["path"])
    assert "failed       1 item; the log says why" in gc.format_stats(done)


def test_leftovers_of_killed_puts_are_removed_after_a_day(ours: Registry) -> None:
    ours.get_store_backend().put_buffer(b"half", "_hash/lab/l2/.0123456789abcdef.part")
    assert collect(ours, clock=hours_from_now(20))["leftovers_deleted"] == 0
    assert collect(ours, clock=hours_from_now(25), dry_run=True)["leftovers_deleted"] == 0
    assert files(ours)
    assert collect(ours, clock=hours_from_now(25))["leftovers_deleted"] == 1
    assert not files(ours)


@pytest.mark.parametrize("name", ["thesis.part", ".model.bin.part", ".0123456789abcde.part", "x.orphan"])
def test_foreign_file_stays(name: str, ours: Registry) -> None:
    """Somebody else's download, beside the contents."""
    ours.get_store_backend().put_buffer(b"theirs", f"_hash/lab/l2/{name}")
    done = collect(ours, clock=DAYS_LATER)
    assert (done["leftovers_deleted"], done["deleted"]) == (0, 0)
    assert files(ours) == {f"_hash/lab/l2/{name}"}


def test_symbolic_link_is_not_collected_as_content(tmp_path: Path) -> None:
    """What it leads to is theirs, whatever the link is called."""
    (tmp_path / "store").mkdir()
    ours = Registry({"default": "main", "main": {"protocol": "file", "location": str(tmp_path / "store")}})
    metadata = ours.put_hash(b"data", "lab")
    theirs, content = tmp_path / "theirs", tmp_path / "store" / metadata["path"]
    theirs.write_bytes(b"theirs")
    link = content.with_name(metadata["hash"][::-1])
    link.symlink_to(theirs)
    done = collect(ours, references=[metadata], clock=DAYS_LATER, quarantine=0)
    assert (done["stored"], done["orphaned"], done["deleted"]) == (1, 0, 0)
    assert link.read_bytes() == b"theirs"


def test_verbose_prints_each_step(ours: Registry, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "shardcast.registry.gc")
    metadata = ours.put_hash(b"data", "lab")
    collect(ours, verbose=True)
    collect(ours, verbose=True, clock=DAYS_LATER)
    said = [one.getMessage() for one in caplog.records if one.name == "shardcast.registry.gc"]
    assert said == [
        "store main: 1 item below _hash/lab",
        f"set aside {metadata['path']}",
        "store main: 0 items below _hash/lab",
        f"deleted {metadata['path']}.orphan (4 B)",
    ]


def test_report_is_readable(ours: Registry) -> None:
    kept = ours.put_hash(b"kept", "lab")
    ours.put_hash(b"o" * 1500, "lab")
    assert gc.format_stats(scan(ours, references=[kept])).splitlines() == [
        "stored       2 items",
        "referenced   1 item",
        "orphaned     1 item, 1.5 kB",
    ]
    young = scan(ours, references=[kept], clock=time.time)
    assert gc.format_stats(young).splitlines()[2:] == [
        "orphaned     0 items, 0 B",
        "too young    1 item without a reference yet",
    ]
    dry = gc.format_stats(collect(ours, references=[kept], dry_run=True))
    assert dry.endswith("dry run: nothing was touched; collect with dry_run=False")
    assert "set aside    1 item now" in gc.format_stats(collect(ours, references=[kept]))
    assert gc.format_stats(scan(ours, references=[kept])).endswith("set aside    1 item, 1.5 kB")
    last = gc.format_stats(collect(ours, references=[kept], clock=DAYS_LATER))
    assert last.endswith("deleted      1 item, 1.5 kB freed")


# --- DataJoint --------------------------------------------------------------------------------------------


def schema(name: str, rows: list[Any], store: str | None) -> Any:
    """A schema as DataJoint's collection meets it: one table with one column."""
    attribute = SimpleNamespace(codec=SimpleNamespace(name="hash"), store=store)
    table = SimpleNamespace(
        heading=SimpleNamespace(attributes={"content": attribute}), to_arrays=lambda name: rows
    )
    return SimpleNamespace(database=name, list_tables=lambda: ["table"], get_table=lambda name: table)


@pytest.fixture
def shared(datajoint: DataJoint, tmp_path: Path) -> Registry:
    """A store that DataJoint uses too."""
    stores = {
        "default": "main",
        "main": {"protocol": "file", "location": str(tmp_path), "subfolding": [2, 2]},
    }
    datajoint.configure(stores)
    return Registry(stores)


def test_figures_match_datajoint(datajoint: DataJoint, shared: Registry) -> None:
    rows = [datajoint.hash_registry.put_hash(b"%d" % number, "lab") for number in range(7)]
    referenced = [rows[0], json.dumps(rows[1]), None, rows[2]]
    theirs = datajoint.gc.scan(schema("lab", referenced, "main"))
    ours = scan(shared, references=referenced)
    assert {key: ours[key] for key in theirs} == theirs
    theirs = datajoint.gc.collect(schema("lab", referenced, "main"))
    ours = collect(shared, references=referenced, dry_run=True)
    assert {key: ours[key] for key in theirs} == theirs
    for key in ("hash_stored", "hash_orphaned", "deleted", "bytes_freed"):
        assert key in ours or key in scan(shared)
    ours = collect(shared, references=referenced, quarantine=0)
    for row in rows[3:]:
        datajoint.hash_registry.put_hash(b"%d" % rows.index(row), "lab")
    theirs = datajoint.gc.collect(schema("lab", referenced, "main"), dry_run=False)
    assert {key: ours[key] for key in theirs} == theirs
    assert shared.get_hash(rows[0]) == b"0"


def test_datajoint_ignores_our_quarantine(datajoint: DataJoint, shared: Registry) -> None:
    metadata = shared.put_hash(b"data", "lab")
    collect(shared)
    theirs = datajoint.gc.collect(schema("lab", [], "main"), dry_run=False)
    assert (theirs["stored"], theirs["deleted"]) == (0, 0)
    assert shared.get_hash(metadata) == b"data"
    assert collect(shared, references=[metadata])["hash_restored"] == 1
    assert datajoint.hash_registry.get_hash(metadata) == b"data"


def test_ours_keeps_content_that_datajoint_loses(datajoint: DataJoint, shared: Registry) -> None:
    """The same calls on the same store: this is why the tests above are here."""
    lab, other = shared.put_hash(b"data", "lab"), shared.put_hash(b"data", "other")
    lab["store"] = None  # as DataJoint notes it
    for store in (None, "main"):
        assert scan(shared, "lab", references=[lab], store_name=store)["orphaned"] == 0
    assert datajoint.gc.scan(schema("lab", [lab], "main"))["orphaned_hashes"] == [other["path"]]
    lost = datajoint.gc.scan(
        schema("lab", [lab], "main"), schema("other", [other], "main"), store_name="main"
    )
    assert lost["orphaned_hashes"] == [lab["path"]]


# --- the example ------------------------------------------------------------------------------------------


def test_sqlite_example_collects_content_without_row(tmp_path: Path) -> None:
    def example(*words: str) -> bytes:
        done = subprocess.run(
            [
                sys.executable,
                str(ROOT / "examples" / "registry_sqlite.py"),
                "--folder",
                str(tmp_path / "x"),
                *words,
            ],
            env=processes.environment(PYTHONPATH=str(ROOT)),
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    for name in ("one", "two"):
        (tmp_path / name).write_bytes(name.encode() * 1000)
    example("put", str(tmp_path / "one"), str(tmp_path / "two"))
    assert example("get", "two") == b"two" * 1000
    example("remove", "two")
    assert b"too young    1 item" in example("collect", "--delete")
    assert b"deleted      1 item, 3.0 kB freed" in example(
        "--min-age=0", "--quarantine=0", "collect", "--delete"
    )
    assert example("get", "one") == b"one" * 1000
    with contextlib.closing(sqlite3.connect(tmp_path / "x" / "lab.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM files").fetchone() == (1,)
