"""Faults in how folders are published."""

from __future__ import annotations

from fault import Fault

PAYLOAD = "shardcast/folders/payload.py"
REUSE = "shardcast/folders/reuse.py"
SURVEY = "shardcast/folders/survey.py"

NEXT = ["tests/unit/folders/test_next_version.py"]
PUBLISHING = ["tests/unit/folders/test_folder_publishing.py"]
WALK = ["tests/unit/folders/test_survey.py"]

FAULTS = [
    Fault(
        name="folder-is-not-looked-at-again",
        file="shardcast/folders/publishing.py",
        old="            source.check_unchanged()\n",
        new="",
        tests=PUBLISHING,
    ),
    Fault(
        name="file-that-grows-while-read-is-cut",
        file=PAYLOAD,
        old="if offset > end:",
        new="if False:",
        tests=PUBLISHING,
    ),
    Fault(
        name="entry-changed-since-the-walk-is-published",
        file=SURVEY,
        old="not same_size or not self.identities.agree(index, found):",
        new="not same_size:",
        tests=WALK,
    ),
    Fault(
        name="data-directory-is-published",
        file=SURVEY,
        old="if self._forbidden and os.path.samestat(self._forbidden, found):",
        new="if False:",
        tests=PUBLISHING,
    ),
    Fault(
        name="file-changed-within-a-tick-is-taken-for-unchanged",
        file=REUSE,
        old="return ctime < settled - (_TICK if ctime % _SECOND else COARSE)",
        new="return True",
        tests=NEXT,
    ),
    Fault(
        name="shard-with-another-header-is-linked",
        file=REUSE,
        old="if shard.offset < body and not layout.table.has_same(index, before.table, other):",
        new="if False:",
        tests=NEXT,
    ),
    Fault(
        name="shard-of-a-changed-file-is-linked",
        file=REUSE,
        old="if size and shard.offset < body + size and body < end and not entries.unchanged[index]:",
        new="if False:",
        tests=NEXT,
    ),
    Fault(
        name="record-that-lies-is-believed-where-bytes-are-read",
        file="shardcast/sharding/cutter.py",
        old="if (length, pieces) != (known.size, known.pieces):",
        new="if False:",
        tests=NEXT,
    ),
]
