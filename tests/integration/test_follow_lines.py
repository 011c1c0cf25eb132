"""Following when a publisher begins anew, comes back, or takes a version back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from shardcast.cli.announcer import Announcer
from shardcast.concurrency import cancel
from shardcast.errors import LocalDiskError
from shardcast.nodes.client import Client
from shardcast.nodes.followed_folder import FollowedFolder
from shardcast.nodes.hook import Hook
from shardcast.nodes.outputs import OutputFolder, resume_point
from shardcast.nodes.release import Release
from shardcast.nodes.release_folder import can_resume, finish_announcing, restore_latest, start_announcing
from shardcast.policy.standing import Patience
from shardcast.protocol.distribution import Listing, Withdrawal
from shardcast.protocol.manifest import Header, Manifest
from tests.integration.test_follow import ASKING as OFTEN
from tests.integration.test_follow import Follower, files
from tests.integration.test_follow import follower as any_follower
from tests.support.bad_servers import BadServer
from tests.support.published import Published, publish, random_bytes, sha256
from tests.unit.nodes.test_outputs import ONE, OTHER, digest, listing, put

SIZE = 300_000
ASKING = {**OFTEN, "SHARDCAST_LISTS_CONFIRMED": "0.3", "SHARDCAST_LINE_PAUSE": "0.1"}
"""For a follower that asks often and believes soon that another line has begun."""


def follower(
    servers: str, folder: Path, *words: str, env: Mapping[str, str] = ASKING
) -> contextlib.AbstractContextManager[Follower]:
    return any_follower(servers, folder, *words, env=env)


@dataclass
class Trainer:
    """Publishes into data directories, all of which are served at one address, one at a time."""

    folder: Path
    server: BadServer
    directory: str = ""

    @property
    def served(self) -> Path:
        return self.folder / "served"

    def begin(self, directory: str) -> None:
        """Serve another directory: a fresh one, or one that was there before."""
        if self.directory:
            self.served.rename(self.folder / self.directory)
        (self.folder / directory).mkdir(exist_ok=True)
        (self.folder / directory).rename(self.served)
        self.directory = directory

    def publish(self, seed: int) -> Published:
        return publish(self.served, random_bytes(SIZE, seed), SIZE // 3)

    def origin(self) -> str:
        return (self.served / ".shardcast" / "origin").read_text().strip()


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Trainer]:
    (tmp_path / "served").mkdir()
    with BadServer(tmp_path / "served") as server:
        (tmp_path / "served").rmdir()
        one = Trainer(tmp_path, server)
        one.begin("first")
        yield one


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "here" / "downloads"


HOOK = "echo {version} ${SHARDCAST_NEW_LINE-no} $(readlink %s/latest) >> %s"


# Real followers --------------------------------------------------------------------------------------


def test_new_line_is_followed_from_its_newest_version(trainer: Trainer, folder: Path, tmp_path: Path) -> None:
    hook = HOOK % (folder, tmp_path / "hooked")
    words = ("--exec", hook, "--keep", "2")
    env = {**ASKING, "SHARDCAST_NEW_LINE": "a hook's own"}
    for seed in range(1, 4):
        trainer.publish(seed)
    first = trainer.origin()
    with follower(trainer.server.url, folder, "--from", "v1", "--every", *words, env=env) as one:
        one.wait_for("v1", "v2", "v3")
        assert [(told["origin"], told["new_line"]) for told in one.said] == [(first, False)] * 3
        assert one.end() == 0
    trainer.begin("second")
    right = [trainer.publish(11)]
    second = trainer.origin()
    assert second != first
    with follower(trainer.server.url, folder, *words, env=env) as one:
        one.wait_for("v1")
        assert (one.said[0]["origin"], one.said[0]["new_line"]) == (second, True)
        assert f"v1 is of another line of versions than those before it (origin id {second})" in one.log
        assert (folder / "latest").readlink() == Path("download_v1.bin")
        right.append(trainer.publish(12))
        one.wait_for("v1", "v2")
        assert one.said[1]["new_line"] is False
    assert (tmp_path / "hooked").read_text().splitlines() == [
        *(f"v{number} no download_v{number}.bin" for number in (1, 2, 3)),
        f"v1 {second} download_v1.bin",
        "v2 no download_v2.bin",
    ]
    assert files(folder) == {"download_v1.bin", "download_v2.bin", "download_v3.bin", "latest"}
    for one in right:
        assert sha256(folder / f"download_{one.version}.bin") == one.sha256


def test_lower_number_of_another_line_is_announced(trainer: Trainer, folder: Path) -> None:
    for seed in range(1, 7):
        trainer.publish(seed)
    with follower(trainer.server.url, folder) as one:
        one.wait_for("v6")
        assert one.end() == 0
    trainer.begin("second")
    for seed in range(11, 16):
        trainer.publish(seed)
    with follower(trainer.server.url, folder) as one:
        one.wait_for("v5")
        assert one.end() == 0
    with follower(trainer.server.url, folder) as one:
        trainer.publish(16)
        one.wait_for("v6")
        assert one.said[0]["new_line"] is False


def test_returning_line_is_announced_without_fetching(trainer: Trainer, folder: Path) -> None:
    trainer.publish(1)
    right = trainer.publish(2)
    with follower(trainer.server.url, folder, "--from", "v1", "--every") as one:
        one.wait_for("v1", "v2")
        assert one.end() == 0
    trainer.begin("mistyped")
    trainer.publish(11)
    with follower(trainer.server.url, folder) as one:
        one.wait_for("v1")
        assert one.end() == 0
    trainer.begin("first")
    sent = trainer.server.sent_bytes("/v2/shard_*")
    with follower(trainer.server.url, folder) as one:
        one.wait_for("v2")
        assert one.said[0]["new_line"] is True
    assert trainer.server.sent_bytes("/v2/shard_*") == sent
    assert (folder / "latest").readlink() == Path("download_v2.bin")
    assert sha256(folder / "latest") == right.sha256


@pytest.mark.parametrize("lost", ["records", "one record", "lines"])
def test_follower_continues_without_records(lost: str, trainer: Trainer, folder: Path) -> None:
    """As after an update of shardcast, or a kill between a file's name and its record."""
    for seed in (1, 2):
        trainer.publish(seed)
    with follower(trainer.server.url, folder, "--from", "v1", "--every") as one:
        one.wait_for("v1", "v2")
        assert one.end() == 0
    gone = {"records": ".*.record", "one record": ".download_v1.bin.record", "lines": ".shardcast-lines"}
    for record in folder.glob(gone[lost]):
        record.unlink()
    if lost == "records":
        (folder / ".shardcast-lines").unlink()
    with follower(trainer.server.url, folder, "--keep", "2") as one:
        trainer.publish(3)
        one.wait_for("v3")
        assert one.said[0]["new_line"] is False
    stay = set() if lost == "lines" else {"download_v1.bin"}  # no record of v1 or v2 says who made it
    assert files(folder) == {"download_v2.bin", "download_v3.bin", "latest"} | stay


def test_file_of_unknown_version_is_never_removed(trainer: Trainer, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "download_v1.bin").write_bytes(b"mine")
    for seed in (1, 2, 3):
        trainer.publish(seed)
    with follower(trainer.server.url, folder, "--from", "v2", "--every", "--keep", "1") as one:
        one.wait_for("v2", "v3")
    assert files(folder) == {"download_v1.bin", "download_v3.bin", "latest"}
    assert (folder / "download_v1.bin").read_bytes() == b"mine"


def test_damaged_records_are_logged_and_following_continues(trainer: Trainer, folder: Path) -> None:
    trainer.publish(1)
    with follower(trainer.server.url, folder) as one:
        one.wait_for("v1")
        assert one.end() == 0
    for record in (".download_v1.bin.record", ".shardcast-lines"):
        (folder / record).write_bytes(b"\xff{")
    with follower(trainer.server.url, folder) as one:
        trainer.publish(2)
        one.wait_for("v2")
        for record in (".download_v1.bin.record", ".shardcast-lines"):
            assert f"ignored {folder}/{record}" in one.log


async def test_program_resumes_and_sees_new_line(
    trainer: Trainer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon = Patience(lists=0.3, pause=0.1)  # as in ASKING, for this process
    monkeypatch.setattr("shardcast.policy.line_tracker.Patience", lambda: soon)

    async def take(expected: str, resume: bool = True) -> Release:
        async with Client([trainer.server.url], folder) as client:
            releases = client.follow(check_interval=0.1, resume=resume)
            release = await anext(releases)
            assert release.version == expected
            publishing = asyncio.ensure_future(anext(releases))  # it has had the first
            await asyncio.sleep(0.3)
            await cancel([publishing])  # more than once: before Python 3.12 ``wait_for`` may swallow it
            await releases.aclose()
        return release

    await asyncio.to_thread(trainer.publish, 1)
    release = await take("v1")
    assert (release.origin, release.new_line) == (trainer.origin(), False)
    await asyncio.to_thread(trainer.publish, 2)
    await take("v2")
    await take("v2", resume=False)
    async with Client([trainer.server.url], folder) as client:
        releases = client.follow(check_interval=0.1, resume=True)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(releases), 1)
        await releases.aclose()
    await asyncio.to_thread(trainer.begin, "second")
    await asyncio.to_thread(trainer.publish, 11)
    release = await take("v1")
    assert (release.origin, release.new_line) == (trainer.origin(), True)


async def test_download_to_named_file_leaves_no_record(trainer: Trainer, tmp_path: Path) -> None:
    await asyncio.to_thread(trainer.publish, 1)
    (tmp_path / "mine").mkdir()
    async with Client([trainer.server.url], tmp_path / "out") as client:
        await client.download("v1", tmp_path / "mine" / "model.bin")
        await client.download("v1")
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["model.bin"]
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["download_v1.bin"]


# Announcing, without a network -----------------------------------------------------------------------


@pytest.fixture
def outputs(tmp_path: Path) -> OutputFolder:
    (tmp_path / "out").mkdir()
    return OutputFolder(tmp_path / "out")


def release(outputs: OutputFolder, number: int, origin: str | None = ONE, new_line: bool = False) -> Release:
    """A version that has just come."""
    path = put(outputs.folder, number, origin)
    outputs.record(path, origin, number, digest(number, origin))
    header = Header(f"v{number}", origin, "model.bin")
    manifest = Manifest(header, (), {"sha256": digest(number, origin)})
    return Release(f"v{number}", path, manifest, 0.1, {}, new_line)


def announce_all(outputs: OutputFolder, *numbers: int, origin: str = ONE, keep: int | None = None) -> None:
    for number in numbers:
        one = release(outputs, number, origin)
        assert start_announcing(outputs, one)
        finish_announcing(outputs, one, keep)


def latest(outputs: OutputFolder) -> str | None:
    link = outputs.folder / "latest"
    return link.readlink().name if link.is_symlink() else None


def withdraw(outputs: OutputFolder, number: int, origin: str | None = ONE) -> tuple[int, Path] | None:
    outputs.lines.mark_withdrawn(origin, number, digest(number, origin))
    return restore_latest(outputs, Withdrawal(f"v{number}", digest(number, origin)))


def test_keep_counts_versions_of_each_line(outputs: OutputFolder) -> None:
    announce_all(outputs, 4, 5, 6, 7, keep=2)
    announce_all(outputs, 1, 2, 3, origin=OTHER, keep=2)
    assert set(outputs.digests(ONE)) == {6, 7}
    assert set(outputs.digests(OTHER)) == {2, 3}
    names = {f"download_v{number}.bin" for number in (2, 3, 6, 7)}
    assert files(outputs.folder) == names | {"latest"}
    records = {f".{name}.record" for name in names}
    assert {entry.name for entry in outputs.folder.iterdir()} == names | records | {
        "latest",
        ".shardcast-lines",
        ".shardcast-lines.lock",
    }


def test_latest_names_newest_version_of_last_announced_line(outputs: OutputFolder) -> None:
    announce_all(outputs, 7, 6)
    assert latest(outputs) == "download_v7.bin", "a relay may have an earlier one later"
    announce_all(outputs, 2, 1, origin=OTHER)
    assert latest(outputs) == "download_v2.bin"
    announce_all(outputs, 5)
    assert latest(outputs) == "download_v5.bin"


def test_keep_removes_neither_latest_nor_announced_version(outputs: OutputFolder) -> None:
    announce_all(outputs, 8, 9)
    withdraw(outputs, 9)
    assert latest(outputs) == "download_v8.bin"
    announce_all(outputs, 5, 6, keep=1)
    assert latest(outputs) == "download_v8.bin"
    assert set(outputs.digests(ONE)) == {6, 8, 9}


def test_file_replaced_by_another_line_is_not_removed(outputs: OutputFolder) -> None:
    one = release(outputs, 1)
    record = outputs.version_at(one.path)
    assert record
    release(outputs, 1, OTHER)
    outputs.remove(one.path, record)
    assert set(outputs.digests(OTHER)) == {1}


def test_records_of_missing_files_are_removed(outputs: OutputFolder) -> None:
    announce_all(outputs, 1, 2)
    (outputs.folder / "download_v1.bin").unlink()
    (outputs.folder / ".download_v2.bin.record.part").touch()  # a kill while a record was written
    announce_all(outputs, 3)
    records = {entry.name for entry in outputs.folder.iterdir() if ".record" in entry.name}
    assert records == {".download_v2.bin.record", ".download_v3.bin.record"}


def test_leftovers_of_earlier_and_old_versions_are_removed(outputs: OutputFolder) -> None:
    names = [f".download_v{number}.bin.part" for number in (1, 8, 9)]
    for name in names:
        (outputs.folder / name).touch()
    os.utime(outputs.folder / names[2], (0, time.time() - 2 * 86400))
    announce_all(outputs, 5)
    assert {entry.name for entry in outputs.folder.iterdir()} & set(names) == {names[1]}


def test_latest_goes_back_to_newest_good_version_on_withdrawal(outputs: OutputFolder) -> None:
    announce_all(outputs, 5, 6, 7)
    assert withdraw(outputs, 7) == (6, outputs.folder / "download_v6.bin")
    assert latest(outputs) == "download_v6.bin"
    assert withdraw(outputs, 5) == (6, outputs.folder / "download_v6.bin")
    assert withdraw(outputs, 6) is None
    assert latest(outputs) is None
    assert set(outputs.digests(ONE)) == {5, 6, 7}, "the files stay"


def test_latest_stays_when_older_version_is_withdrawn(outputs: OutputFolder) -> None:
    announce_all(outputs, 6, 7)
    assert withdraw(outputs, 6) == (7, outputs.folder / "download_v7.bin")
    assert latest(outputs) == "download_v7.bin"


def test_latest_does_not_go_back_to_another_line(outputs: OutputFolder) -> None:
    announce_all(outputs, 6)
    announce_all(outputs, 1, origin=OTHER)
    assert withdraw(outputs, 1, OTHER) is None
    assert latest(outputs) is None


def test_latest_does_not_advance_to_unannounced_version(outputs: OutputFolder) -> None:
    announce_all(outputs, 6, 7)
    release(outputs, 8)
    assert withdraw(outputs, 7) == (6, outputs.folder / "download_v6.bin")
    assert resume_point(outputs, ONE) == 6


def test_version_withdrawn_before_announcement_is_skipped(outputs: OutputFolder) -> None:
    announce_all(outputs, 6)
    one = release(outputs, 7)
    withdraw(outputs, 7)
    assert start_announcing(outputs, one) is False
    assert latest(outputs) == "download_v6.bin"
    assert not (outputs.folder / ".latest-under-way").is_symlink()


def test_withdrawn_version_is_removed_by_keep(outputs: OutputFolder) -> None:
    announce_all(outputs, 6, 7)
    withdraw(outputs, 7)
    announce_all(outputs, 8, 9, keep=2)
    assert set(outputs.digests(ONE)) == {8, 9}


def test_run_resumes_only_with_valid_latest_link(outputs: OutputFolder) -> None:
    assert not can_resume(outputs.folder)
    announce_all(outputs, 1)
    assert can_resume(outputs.folder)
    (outputs.folder / "download_v1.bin").unlink()
    assert not can_resume(outputs.folder)


# Telling ---------------------------------------------------------------------------------------------


async def test_withdrawal_of_downloaded_version_is_announced_once(outputs: OutputFolder) -> None:
    announce_all(outputs, 6, 7)
    told: list[Withdrawal] = []
    withdrawal = Withdrawal("v7", digest(7), "loss was NaN")
    followed = await FollowedFolder.open(outputs.folder, told.append)
    await followed.note_withdrawal(ONE, withdrawal)
    await followed.note_withdrawal(ONE, withdrawal)
    again = await FollowedFolder.open(outputs.folder, told.append)
    await again.note_withdrawal(ONE, withdrawal)
    assert told == [withdrawal]


async def test_withdrawal_of_unknown_version_is_not_announced(outputs: OutputFolder) -> None:
    announce_all(outputs, 6)
    told: list[Withdrawal] = []
    followed = await FollowedFolder.open(outputs.folder, told.append)
    await followed.note_withdrawal(ONE, Withdrawal("v7", digest(7)))
    await followed.note_withdrawal(OTHER, Withdrawal("v6", digest(6)))
    await followed.note_withdrawal(ONE, Withdrawal("v6", digest(6, OTHER)))
    assert told == []
    assert [number for number, _ in outputs.good_versions(ONE)] == [6]


async def test_withdrawal_is_announced_when_hook_moved_the_file(outputs: OutputFolder) -> None:
    announce_all(outputs, 7)
    (outputs.folder / "download_v7.bin").rename(outputs.folder / "model.bin")
    told: list[Withdrawal] = []
    followed = await FollowedFolder.open(outputs.folder, told.append)
    await followed.note_withdrawal(ONE, Withdrawal("v7", digest(7)))
    assert [one.version for one in told] == ["v7"]


async def test_interrupted_withdrawal_announcement_is_repeated(outputs: OutputFolder) -> None:
    announce_all(outputs, 7)
    told = 0

    async def cut_off(_: Withdrawal) -> None:
        nonlocal told
        told += 1
        if told == 1:
            raise asyncio.CancelledError

    followed = await FollowedFolder.open(outputs.folder, cut_off)
    with pytest.raises(asyncio.CancelledError):
        await followed.note_withdrawal(ONE, Withdrawal("v7", digest(7)))
    for _ in range(2):
        await followed.note_withdrawal(ONE, Withdrawal("v7", digest(7)))
    assert told == 2


async def test_entering_line_identifies_files_and_resume_point(outputs: OutputFolder) -> None:
    put(outputs.folder, 4)
    put(outputs.folder, 5)
    (outputs.folder / "latest").symlink_to("download_v4.bin")
    followed = await FollowedFolder.open(outputs.folder)
    assert await followed.enter(ONE, [listing(4), listing(5)], {4, 5}) == 4
    assert outputs.lines.listed(ONE) == {4: digest(4), 5: digest(5)}
    assert set(outputs.digests(ONE)) == {4, 5}
    restored = [listing(3), Listing("v4", digest(4, OTHER), 1)]
    assert await followed.enter(ONE, restored, {one.number for one in restored}) is None, (
        "v4 of the restored directory is news"
    )


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHARDCAST_WITHDRAWN", "SHARDCAST_WITHDRAWN_REASON", "SHARDCAST_NEW_LINE"):
        monkeypatch.setenv(name, "inherited")


WITHDRAWN = 'echo "{version} {path} ${SHARDCAST_WITHDRAWN-no} ${SHARDCAST_WITHDRAWN_REASON-no}" >> %s'


@pytest.mark.usefixtures("environment")
async def test_hook_and_json_announce_withdrawal(
    outputs: OutputFolder,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = outputs.folder
    announcer = Announcer(out, None, Hook(WITHDRAWN % (tmp_path / "hooked"), out))
    for number in (6, 7):
        await announcer.announce_release(release(outputs, number))
    capfd.readouterr()
    for number, reason in ((7, "loss was NaN; $(id)"), (6, "")):
        outputs.lines.mark_withdrawn(ONE, number, digest(number))
        await announcer.announce_withdrawal(Withdrawal(f"v{number}", digest(number), reason))
    assert (tmp_path / "hooked").read_text().splitlines() == [
        f"v6 {out}/download_v6.bin no no",
        f"v7 {out}/download_v7.bin no no",
        f"v6 {out}/download_v6.bin v7 loss was NaN; $(id)",
        f"v6 {out}/download_v6.bin v6 ",
    ]
    assert [json.loads(line) for line in capfd.readouterr().out.splitlines()] == [
        {"withdrawn": "v7", "reason": "loss was NaN; $(id)", "latest": "v6"},
        {"withdrawn": "v6", "reason": "", "latest": None},
    ]
    warnings = [one.getMessage() for one in caplog.records if one.levelno == logging.WARNING]
    assert warnings == [
        "v7 was withdrawn by its publisher: loss was NaN; $(id); latest is v6",
        "v6 was withdrawn by its publisher; no good version is here",
    ]


@pytest.mark.parametrize(
    ("origin", "told"),
    [(ONE, ONE), (None, "none"), ("a\0b\nc\ud800", r"a\x00b\nc\ud800")],
    ids=["id", "none", "odd"],
)
@pytest.mark.usefixtures("environment")
async def test_hook_gets_new_line_with_any_origin_id(
    origin: str | None, told: str, outputs: OutputFolder, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hook = f'printf %s "${{SHARDCAST_NEW_LINE-no}}" > {tmp_path}/$(basename {{path}})'
    announcer = Announcer(outputs.folder, None, Hook(hook, outputs.folder))
    await announcer.announce_release(release(outputs, 1, origin, new_line=True))
    await announcer.announce_release(release(outputs, 2, origin))
    assert (tmp_path / "download_v1.bin").read_text() == told
    assert (tmp_path / "download_v2.bin").read_text() == "no"
    assert json.loads(capfd.readouterr().out.splitlines()[0])["origin"] == origin


async def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.01)


async def test_latest_goes_back_while_hook_runs(outputs: OutputFolder, tmp_path: Path) -> None:
    go_on = tmp_path / "go on"
    hook = f'echo {{version}} >> {tmp_path}/hooked; until test -e "{go_on}"; do sleep 0.02; done'
    announce_all(outputs, 6)
    announcer = Announcer(outputs.folder, None, Hook(hook, outputs.folder))
    loading = asyncio.ensure_future(announcer.announce_release(release(outputs, 7)))
    await until(lambda: (tmp_path / "hooked").exists())
    outputs.lines.mark_withdrawn(ONE, 7, digest(7))
    telling = asyncio.ensure_future(announcer.announce_withdrawal(Withdrawal("v7", digest(7))))
    try:
        await until(lambda: latest(outputs) == "download_v6.bin")
        assert (tmp_path / "hooked").read_text() == "v7\n"
    finally:
        go_on.touch()
        await asyncio.gather(loading, telling)
    assert (tmp_path / "hooked").read_text() == "v7\nv6\n"
    assert latest(outputs) == "download_v6.bin"


def test_unwritable_folder_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LocalDiskError, match="file"):
        OutputFolder(tmp_path / "file").lines.note_listed(ONE, {1: digest(1)})
