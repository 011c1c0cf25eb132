"""Faults in the content store, its maintenance and the hash registry."""

from __future__ import annotations

from fault import Fault

GC = "shardcast/registry/gc.py"
VERIFYING = "shardcast/store/blobs/verifying.py"

FAULTS = [
    Fault(
        name="changed-file-with-old-mtime-is-verified",
        file=VERIFYING,
        old="found.st_mtime_ns, found.st_ctime_ns",
        new="found.st_mtime_ns, 0",
        tests=["tests/test_accounting.py"],
    ),
    Fault(
        name="file-of-the-same-looks-but-inode-is-verified",
        file=VERIFYING,
        old="found.st_dev, found.st_ino,",
        new="found.st_dev, 0,",
        tests=["tests/test_verifying.py"],
    ),
    Fault(
        name="part-of-a-stranger-is-deleted",
        file=GC,
        old="elif _PART.fullmatch(name):",
        new="elif name.endswith(PART):",
        tests=["tests/test_registry_gc.py::test_file_that_the_registry_did_not_make_stays"],
    ),
    Fault(
        name="orphan-of-a-stranger-is-deleted",
        file=GC,
        old="elif name.endswith(ASIDE) and is_hash(name.removesuffix(ASIDE)):",
        new="elif name.endswith(ASIDE):",
        tests=["tests/test_registry_gc.py::test_file_that_the_registry_did_not_make_stays"],
    ),
]
