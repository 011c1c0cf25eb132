from __future__ import annotations

import os
from pathlib import Path

import pytest

from shardcast.api.origin_settings import OriginSettings, option_value, options_to_start_again
from shardcast.control.running import RunningOrigin
from shardcast.errors import DataDirInUse, UsageError
from shardcast.nodes.child_process import pid_namespace

COMMAND = ("--data-dir", "/d", "--port", "0", "--keep", "3", "--max-bytes", "5", "--publish")
RUNNING = RunningOrigin("http://10.0.0.1:4711", 3, os.getppid(), pid_namespace(), COMMAND)
NAMED = RunningOrigin("http://10.0.0.1:4711", 3)


def test_no_version_to_keep_is_no_default() -> None:
    assert OriginSettings(None, 0, (), attach=False).words() == ["--keep", "0"]
    assert OriginSettings(None, None, (), attach=False).words() == ["--keep", "15"]


@pytest.mark.parametrize(
    "settings",
    [
        OriginSettings(None, None, (), attach=False),
        OriginSettings(0, 3, [("--max-bytes", "5"), ("--publish", None)], attach=False),
        OriginSettings(4711, None, (), attach=True),
    ],
)
def test_descendant_uses_origin_as_it_asks(settings: OriginSettings) -> None:
    settings.check(RUNNING, Path("/d"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (OriginSettings(8000, None, (), attach=True), "listens on port 4711, not on 8000"),
        (OriginSettings(None, 0, (), attach=True), "keeps 3 versions, not 0"),
        (OriginSettings(None, None, [("--max-bytes", "6")], attach=True), "has --max-bytes 5, not .* 6"),
        (OriginSettings(None, None, [("--tokens", "/t")], attach=True), "has no --tokens, not --tokens /t"),
    ],
)
def test_other_settings_are_named(settings: OriginSettings, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        settings.check(RUNNING, Path("/d"))


@pytest.mark.parametrize(
    "running",
    [
        NAMED,
        RunningOrigin("http://h:1", 3, os.getppid(), "another", COMMAND),
        RunningOrigin("http://h:1", 3, os.getpid(), pid_namespace(), COMMAND),
    ],
    ids=["a person's", "another container's", "its own"],
)
def test_only_descendants_use_an_origin_unasked(running: RunningOrigin) -> None:
    with pytest.raises(DataDirInUse, match="attach=True"):
        OriginSettings(None, None, (), attach=False).check(running, Path("/d"))
    OriginSettings(None, None, (), attach=True).check(running, Path("/d"))


@pytest.mark.parametrize("cut", range(len(COMMAND) + 1))
def test_command_cut_anywhere_is_read(cut: int) -> None:
    assert "--port" not in options_to_start_again(COMMAND[:cut])
    assert option_value(COMMAND[:cut], "--keep") == ("3" if cut > 5 else None)


def test_each_start_gives_directory_and_port_anew() -> None:
    assert options_to_start_again(COMMAND) == ["--keep", "3", "--max-bytes", "5", "--publish"]
