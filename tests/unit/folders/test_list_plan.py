"""How the list of a folder goes into its manifest, decided by its length."""

from __future__ import annotations

import pytest

from shardcast.folders import list_plan
from shardcast.folders.layout import FolderLayout
from shardcast.folders.list_plan import plan_list
from shardcast.folders.listing import DIGESTS_A_LINE, ListTooLong
from tests.support.folder_tables import table_of_files


def layout_of(count: int, size: int = 0, shard_size: int = 1 << 20) -> FolderLayout:
    return FolderLayout(table_of_files((f"{number:08}" for number in range(count)), size), shard_size)


def test_short_list_is_plain_with_digests_behind_each_shard() -> None:
    plan = plan_list(layout_of(10, 5))
    assert plan.for_all and plan.digest_batch == 1
    assert [b'"entries":[[' in line for line in plan.entry_lines] == [True]


def test_many_shards_share_lines_of_digests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_plan, "MAX_PLAIN_LINES", 3)
    plan = plan_list(layout_of(10, 5, shard_size=1024))
    assert plan.for_all and plan.digest_batch == DIGESTS_A_LINE


def test_long_list_is_packed_and_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_plan, "MAX_PLAIN_LINES", 2)
    plan = plan_list(layout_of(10_000))
    assert plan.for_all and [b'"entries":"' in line for line in plan.entry_lines] == [True]
    assert not list(plan.entry_lines)


@pytest.mark.parametrize(
    ("bound", "value", "says"),
    [("MAX_FOLDER_LINES", 1, " lines,"), ("MAX_MANIFEST", 1000, " bytes,"), ("MAX_SHARDS", 3, "shards;")],
)
def test_list_beyond_what_readers_take_is_refused(
    bound: str, value: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_plan, "MAX_PLAIN_LINES", 1)
    monkeypatch.setattr(list_plan, bound, value)
    with pytest.raises(ListTooLong, match=says):
        plan_list(layout_of(20_000, 5, 1 << 18))
