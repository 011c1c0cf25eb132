"""Faults in what keeps versions and outputs on the disk."""

from __future__ import annotations

from fault import Fault

LANDING = "shardcast/store/landing.py"
ROOM = "shardcast/store/quota.py"
OUTPUT = "shardcast/store/output_file.py"

FAULTS = [
    # Cancelling and races
    Fault(
        name="cancelled-write-counts-as-ended",
        file=LANDING,
        old="return await asyncio.shield(under_way)",
        new="return await under_way",
        tests=["tests/faults/test_cancelling.py"],
    ),
    Fault(
        name="landing-is-closed-under-its-thread",
        file=LANDING,
        old="if self.descriptor >= 0 and not self._at_work:",
        new="if self.descriptor >= 0:",
        tests=["tests/faults/test_cancelling.py"],
    ),
    Fault(
        name="landing-stays-open-after-its-thread",
        file=LANDING,
        old="        if self._closing:\n            self.close()\n",
        new="",
        tests=["tests/faults/test_cancelling.py"],
    ),
    Fault(
        name="completing-goes-on-after-an-interrupt",
        file=OUTPUT,
        old="await asyncio.wait([under_way])  # the thread uses the file, which is closed next",
        new="pass",
        tests=["tests/faults/test_cancelling.py"],
    ),
    Fault(
        name="completing-is-cancelled-with-who-waits",
        file=OUTPUT,
        old="await asyncio.shield(under_way)",
        new="await under_way",
        tests=["tests/faults/test_cancelling.py"],
    ),
    Fault(
        name="lines-reach-the-disk-unchecked",
        file="shardcast/store/manifest_file.py",
        old="""            self._live.add(lines)
            append(self.path, lines)
""",
        new="""            append(self.path, lines)
            self._live.add(lines)
""",
        tests=["tests/faults/test_cancelling.py"],
    ),
    Fault(
        name="cancelled-thread-is-not-waited-for",
        file="shardcast/concurrency.py",
        old="while not task.done():  # the caller may be cancelled again while it waits",
        new="if not task.done():",
        tests=["tests/unit/base/test_concurrency.py"],
    ),
    Fault(
        name="unwanted-result-is-not-undone",
        file="shardcast/concurrency.py",
        old="if task.exception() is None and undo:",
        new="if False:",
        tests=["tests/unit/base/test_concurrency.py"],
    ),
    Fault(
        name="resuming-needs-room-for-all-of-it",
        file=OUTPUT,
        old="if room.f_bavail * room.f_frsize + written < self._live.size:",
        new="if room.f_bavail * room.f_frsize < self._live.size:",
        tests=["tests/unit/store/test_accounting.py"],
    ),
    Fault(
        name="own-claim-counts-twice",
        file=ROOM,
        old="bounds = await self._decisions.bounds(self._inventory.open.get(number))",
        new="bounds = await self._decisions.bounds(None)",
        tests=["tests/unit/store/test_accounting.py"],
    ),
    Fault(
        name="room-is-not-checked",
        file=OUTPUT,
        old="                self._check_room()\n",
        new="",
        tests=["tests/unit/store/test_accounting.py"],
    ),
    # Elsewhere in the store
    Fault(
        name="wrong-piece-is-written",
        file="shardcast/store/landing.py",
        old="if not self._is_right((start + good) // self.piece_size, piece):",
        new="if False:",
        tests=["tests/unit/store/test_landing.py"],
    ),
    Fault(
        name="prefix-goes-beyond-a-hole",
        file="shardcast/store/piece_map.py",
        old="following = self._landed.find(0, self._prefix)",
        new="following = self._landed.find(0, self._prefix + 1)",
        tests=["tests/unit/store/test_landing.py"],
    ),
    Fault(
        name="pieces-of-holes-are-right",
        file="shardcast/store/landing.py",
        old="if index in present and self._is_right(",
        new="if index in present or self._right(",
        tests=["tests/unit/store/test_landing.py"],
    ),
    Fault(
        name="readers-are-never-uncounted",
        file="shardcast/store/landing.py",
        old="                self.readers -= 1\n",
        new="                pass\n",
        tests=["tests/unit/store/test_landing.py"],
    ),
    Fault(
        name="closed-landing-wakes-nobody",
        file="shardcast/store/piece_map.py",
        old="            self._closed = True\n            self._advanced.notify_all()\n",
        new="            self._closed = True\n",
        tests=["tests/unit/store/test_landing.py"],
    ),
    Fault(
        name="longer-part-is-not-cut",
        file="shardcast/store/output_file.py",
        old="            os.ftruncate(self._part.descriptor, manifest.size)\n",
        new="",
        tests=["tests/unit/store/test_output.py"],
    ),
    Fault(
        name="foreign-seed-is-taken",
        file="shardcast/store/output_file.py",
        old="if piece_digest(piece) == shard.pieces[:PIECE_DIGEST_SIZE]:",
        new="if True:",
        tests=["tests/unit/store/test_output.py"],
        explained="only more is read: each piece of a seed is verified before it counts",
    ),
    Fault(
        name="number-is-given-again",
        file="shardcast/store/data_dir.py",
        old="number = max(self._next(), min_number, max(self.numbers(), default=0) + 1)",
        new="number = max(min_number, max(self.numbers(), default=0) + 1)",
        tests=["tests/unit/store/test_data_dir.py"],
    ),
    Fault(
        name="first-number-is-not-looked-at",
        file="shardcast/store/data_dir.py",
        old="number = max(self._next(), min_number, max(self.numbers(), default=0) + 1)",
        new="number = max(self._next(), max(self.numbers(), default=0) + 1)",
        tests=["tests/unit/store/test_data_dir.py", "tests/integration/test_origin_restart.py"],
    ),
    Fault(
        name="reading-holds-nothing",
        file="shardcast/store/holds.py",
        old="                version.last_read = self._clock()\n",
        new="                pass\n",
        tests=["tests/unit/store/test_holds.py"],
    ),
    Fault(
        name="bytes-of-a-reader-are-lost",
        file="shardcast/store/holds.py",
        old="            version.sent += reader.sent\n",
        new="",
        tests=["tests/unit/store/test_holds.py"],
    ),
    Fault(
        name="pinned-version-retires",
        file="shardcast/store/holds.py",
        old="free = [number for number in surplus if number not in self.pinned]",
        new="free = list(surplus)",
        tests=["tests/unit/store/test_holds.py", "tests/integration/test_pins.py"],
    ),
    Fault(
        name="surplus-time-is-never-reset",
        file="shardcast/store/holds.py",
        old="            if number not in surplus:\n                version.surplus_since = None\n",
        new="            pass\n",
        tests=["tests/unit/store/test_holds.py"],
    ),
    Fault(
        name="linked-shard-is-written-into",
        file="shardcast/store/shard_files.py",
        old="if final.stat().st_nlink > 1:",
        new="if False:",
        explained="a temporary file with another link is copied before it is written to",
        tests=["tests/integration/test_unnoticed.py"],
    ),
    Fault(
        name="missing-shard-is-no-obstacle",
        file="shardcast/store/open_version.py",
        old="if shard.number not in self.verified_shards and not self.adopted.has(shard.number):",
        new="if False:",
        tests=[
            "tests/unit/store/test_versions.py",
            "tests/integration/test_live.py::test_wrong_piece_of_open_version_is_never_stored",
        ],
    ),
    Fault(
        name="forgotten-line-is-highest",
        file="shardcast/store/line_record.py",
        old="highest=max(top, self.highest)",
        new="highest=top",
        tests=["tests/unit/store/test_line_record.py"],
    ),
    Fault(
        name="withdrawal-of-other-bytes-counts",
        file="shardcast/store/line_record.py",
        old="if found is not None and found.digest in digests:",
        new="if found is not None:",
        tests=["tests/unit/store/test_line_record.py", "tests/unit/store/test_withdrawn_versions.py"],
    ),
    Fault(
        name="path-of-a-plan-leads-out",
        file="shardcast/store/line_change.py",
        old='if path.is_absolute() or ".." in path.parts or not path.parts:',
        new="if path.is_absolute() or not path.parts:",
        tests=["tests/unit/store/test_changing_lines.py", "tests/integration/test_put_aside.py"],
    ),
    Fault(
        name="nodes-below-without-a-bound",
        file="shardcast/server/downstream.py",
        old="if len(self._nodes) >= MAX_NODES:",
        new="if False:",
        tests=["tests/unit/protocol/test_report.py"],
    ),
    Fault(
        name="older-report-counts",
        file="shardcast/server/downstream.py",
        old="if node.node == self._node_id or (known and known.at > reported_at):",
        new="if node.node == self._node_id:",
        tests=["tests/unit/protocol/test_report.py"],
    ),
    Fault(
        name="line-without-a-bound",
        file="shardcast/protocol/lines.py",
        old="if length > self._max_length:",
        new="if False:",
        tests=["tests/unit/protocol/test_lines.py", "tests/unit/protocol/test_manifest.py"],
    ),
    Fault(
        name="shards-with-a-gap",
        file="shardcast/protocol/manifest_reader.py",
        old='if _integer(values, "shard", 1, MAX_SHARDS) != number:',
        new="if False:",
        tests=["tests/unit/protocol/test_manifest.py"],
    ),
    Fault(
        name="closing-line-with-another-size",
        file="shardcast/protocol/manifest_reader.py",
        old="if named != size or header.size not in (None, size):",
        new="if named != size:",
        tests=["tests/unit/protocol/test_manifest.py"],
    ),
    Fault(
        name="boolean-is-a-number",
        file="shardcast/protocol/manifest_reader.py",
        old="or isinstance(value, bool) or",
        new="or",
        tests=["tests/unit/protocol/test_manifest.py"],
    ),
]
