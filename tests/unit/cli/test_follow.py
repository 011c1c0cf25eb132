"""The options of following: what is refused before anything is begun, and what variables do."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.cli.follow import FollowOptions, Keep
from tests.unit.cli.test_sharing_options import BEGUN, begins_nothing, invoke

__all__ = ["begins_nothing"]

TOLD = {"SHARDCAST_VERSION": "v3", "SHARDCAST_NAME": "x"}


@pytest.mark.parametrize("keep", ["0", "-1", "many", "1.5", "", "٣", " 2", "ALL", "1" + "0" * 18])
def test_number_to_keep_that_is_none_is_refused(keep: str) -> None:
    result = invoke("--follow", "--keep", keep)
    assert result.exit_code == 2
    assert "or all" in result.output


@given(st.integers(1, 10**18 - 1))
def test_number_to_keep_is_read(number: int) -> None:
    kept = Keep().convert(str(number), None, None)
    assert kept == number


@given(st.text())
def test_text_to_keep_is_a_number_or_refused(text: str) -> None:
    try:
        kept = Keep().convert(text, None, None)
    except click.BadParameter:
        return
    assert kept is None if text == "all" else kept and kept >= 1


@pytest.mark.parametrize("first", ["v0", "3", "newest", "v01", ""])
def test_first_version_that_is_none_is_refused(first: str) -> None:
    with pytest.raises(click.UsageError, match="--from"):
        FollowOptions(first).check()


def test_following_keeps_two_unless_told_otherwise() -> None:
    assert FollowOptions().keep == 2
    assert invoke("--follow").exit_code == BEGUN
    assert invoke("--follow", SHARDCAST_KEEP="all").exit_code == BEGUN


def test_command_in_a_hook_takes_its_variables_for_no_option() -> None:
    assert "--files goes with --list" in invoke("--files", "v1", **TOLD).output
    assert "give one of --list" in invoke(**TOLD, SHARDCAST_IN_HOOK="1").output
