"""Faults in the content store, its maintenance and the hash registry."""

from __future__ import annotations

from fault import Fault

SURVEY = "shardcast/registry/survey.py"
FILE_IDENTITY = "shardcast/file_identity.py"

FAULTS = [
    Fault(
        name="changed-file-with-old-mtime-is-verified",
        file=FILE_IDENTITY,
        old="found.st_dev, found.st_ctime_ns)",
        new="found.st_dev, 0)",
        tests=["tests/unit/store/test_accounting.py"],
    ),
    Fault(
        name="file-of-the-same-looks-but-inode-is-verified",
        file=FILE_IDENTITY,
        old="return cls(found.st_ino,",
        new="return cls(0,",
        tests=["tests/unit/blobs/test_verifying.py"],
    ),
    Fault(
        name="part-of-a-stranger-is-deleted",
        file=SURVEY,
        old="elif _PART.fullmatch(name):",
        new="elif name.endswith(PART):",
        tests=["tests/integration/test_registry_gc.py::test_foreign_file_stays"],
    ),
    Fault(
        name="orphan-of-a-stranger-is-deleted",
        file=SURVEY,
        old="elif name.endswith(QUARANTINE_SUFFIX) and is_hash(name.removesuffix(QUARANTINE_SUFFIX)):",
        new="elif name.endswith(QUARANTINE_SUFFIX):",
        tests=["tests/integration/test_registry_gc.py::test_foreign_file_stays"],
    ),
    # Elsewhere
    Fault(
        name="content-is-not-compared",
        file="shardcast/registry/hash_registry.py",
        old="if digest is not None and hashlib.sha256(data).hexdigest() != digest:",
        new="if False:",
        tests=["tests/integration/test_registry.py"],
    ),
    Fault(
        name="young-content-is-set-aside",
        file="shardcast/registry/gc.py",
        old="path + QUARANTINE_SUFFIX, survey.now - self.min_age, survey.now\n",
        new="path + QUARANTINE_SUFFIX, survey.now, survey.now\n",
        tests=["tests/integration/test_registry_gc.py"],
    ),
    Fault(
        name="aside-is-deleted-at-once",
        file="shardcast/registry/gc.py",
        old="elif survey.age(aside) >= self.quarantine:",
        new="else:",
        tests=["tests/integration/test_registry_gc.py"],
    ),
    Fault(
        name="referenced-aside-stays-aside",
        file="shardcast/registry/gc.py",
        old="if survey.is_referenced(path) and survey.backend.bring_back(aside, path):",
        new="if False:",
        tests=["tests/integration/test_registry_gc.py"],
    ),
    Fault(
        name="left-over-goes-at-once",
        file="shardcast/registry/gc.py",
        old="if self.survey.age(path) >= _LEFT_OVER:",
        new="if True:",
        tests=[
            "tests/integration/test_registry_gc.py::test_leftovers_of_killed_puts_are_removed_after_a_day"
        ],
    ),
    Fault(
        name="links-are-listed",
        file="shardcast/registry/directory.py",
        old="if not file.is_symlink():",
        new="if True:",
        tests=["tests/integration/test_registry_gc.py::test_symbolic_link_is_not_collected_as_content"],
    ),
    Fault(
        name="absolute-reference-is-taken",
        file="shardcast/registry/references.py",
        old='or not path or path.startswith("/"):',
        new="or not path:",
        tests=["tests/integration/test_registry_gc.py"],
    ),
    Fault(
        name="lock-from-the-future-holds",
        file="shardcast/ages.py",
        old="return self._steady() - since",
        new="return 0.0",
        tests=["tests/unit/base/test_ages.py"],
    ),
    Fault(
        name="time-that-lies-ahead-stays",
        file="shardcast/ages.py",
        old="return then > now + CLOCK_SKEW",
        new="return False",
        tests=["tests/unit/base/test_ages.py"],
    ),
    Fault(
        name="each-request-hashes-for-itself",
        file="shardcast/blobs/directory/hashing.py",
        old="shared = self._shared.get(place)",
        new="shared = None",
        tests=["tests/unit/blobs/test_hang_ups.py::test_shard_is_hashed_once_for_concurrent_requests"],
    ),
    Fault(
        name="incoming-is-not-made-again",
        file="shardcast/blobs/directory/incoming_folder.py",
        old="if self._lock < 0 or is_at(self._lock, self._folder / _LOCK):",
        new="if True:",
        tests=["tests/unit/blobs/test_swept.py"],
    ),
    Fault(
        name="damaged-ledger-is-kept",
        file="shardcast/blobs/sqlite_file.py",
        old="self._move_aside()",
        new="pass",
        tests=["tests/faults/test_archive_disks.py"],
    ),
]
