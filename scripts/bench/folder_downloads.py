"""Folders: received beside one file of their size, beside a tar, and again when little changed."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from folder_sources import MANY, SMALL, WIDE, beside, broadcast_words, made, rewrite
from harness import Aim, Case, Comparison, Result, Run, Settings, Side, expect, interleave, ratio
from nodes import origin_words
from peers import rsync_daemon, tool
from places import Place
from processes import client_words, run_command, running
from report import format_size

TEN = 10
"""Files of the folder of which one is changed, renamed, or wanted."""


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place = settings.places.memory
    place.need(7 * settings.size)
    place.touch(5 * settings.size)
    yield beside_one_file(place, settings)
    yield beside_a_tar(place, settings)
    yield next_version(place, settings)
    yield unchanged(place, settings)
    yield beside_rsync(place, settings)


def beside_one_file(place: Place, settings: Settings) -> Comparison:
    """Receive a folder of many files, and one file of its size."""
    payload = place.payload(settings.size)
    with (
        made(place, MANY, settings.size) as folder,
        serving(place, payload.path) as file_url,
        serving(place, folder) as folder_url,
    ):
        return beside(
            settings,
            Side("one file", lambda: receive(place, file_url)),
            Side("folder", lambda: receive(place, folder_url)),
            title=f"Receive a folder of {MANY} files, {format_size(settings.size)}, {place.name}",
            most=1.35,
            size=settings.size,
            notes=["seconds: as the client says, without start-up; so in all tables of received folders."],
        )


def beside_a_tar(place: Place, settings: Settings) -> Comparison:
    """Receive very many small files, and a tar of them that is unpacked after it."""
    with made(place, SMALL, SMALL * 1024) as folder, place.folder("tar") as beside:
        tar = beside / "model.tar"
        run_command(["tar", "-C", str(folder), "-cf", str(tar), "."])
        with serving(place, tar) as tar_url, serving(place, folder) as folder_url:
            return beside(
                settings,
                Side("file, tar x", lambda: receive(place, tar_url, unpack=True)),
                Side("folder", lambda: receive(place, folder_url)),
                title=f"Receive a folder of {SMALL} files of 1 KiB, {place.name}",
                most=1,
                size=SMALL * 1024,
            )


def beside_rsync(place: Place, settings: Settings) -> Comparison:
    """Receive very many small files as rsync does from its daemon, alone and published before."""
    with (
        made(place, SMALL, SMALL * 1024) as folder,
        serving(place, folder) as url,
        place.folder("rsync") as beside,
        rsync_daemon(folder, beside) as (_, rsync_url),
    ):
        sides = [
            Side("rsync", lambda: receive_by_rsync(place, rsync_url)),
            Side("folder", lambda: receive(place, url)),
            Side("folder, published and received", lambda: broadcast_and_receive(place, folder)),
        ]
        results = interleave(sides, settings.runs)
    aims = [
        Aim(f"rsync, × {name}", ratio(results, "rsync", name), least=1.2)
        for name in ("folder", "folder, published and received")
    ]
    title = f"Receive a folder of {SMALL} files of 1 KiB, beside an rsync daemon, {place.name}"
    notes = ["rsync -a from a daemon: it compares no digest of a file that was not there before."]
    return Comparison(title, results, "rsync", SMALL * 1024, aims=aims, notes=notes)


def next_version(place: Place, settings: Settings) -> Comparison:
    """Receive a version after two others, of which it differs in one of ten files; a part; a renamed file."""
    one = settings.size // TEN
    with made(place, TEN, settings.size) as folder, place.folder("data") as data_dir:
        publish(data_dir, folder)
        publish(data_dir, folder)
        rewrite(folder)
        publish(data_dir, folder)
        file = sorted(folder.rglob("*.bin"))[0]
        file.rename(folder / "renamed.bin")
        publish(data_dir, folder)
        with running(origin_words(data_dir)) as origin:
            url = origin.url()
            name = sorted(path.name for path in folder.rglob("*.bin"))[-2]
            sides = [
                Side("first version", lambda: receive(place, url, "v1")),
                Side("one file of ten changed", lambda: receive(place, url, "v3", before=("v1", "v2"))),
                Side("one file renamed", lambda: receive(place, url, "v4", before=("v2", "v3"))),
                Side("--only one file", lambda: receive(place, url, "v1", words=["--only", name])),
            ]
            results = interleave(sides, settings.runs)
    aims = [
        Aim("changed: received, × that file", _received(results, "one file of ten changed") / one, most=1.01),
        Aim("renamed: received bytes", _received(results, "one file renamed"), most=0),
        Aim("--only: received, × that file", _received(results, "--only one file") / one, most=1.02),
    ]
    title = f"Receive the next version of a folder of {TEN} files, {format_size(settings.size)}, {place.name}"
    notes = ["Two versions are here before the one that is measured; files are linked (--link)."]
    return Comparison(title, results, "first version", settings.size, aims=aims, notes=notes)


def unchanged(place: Place, settings: Settings) -> Comparison:
    """Receive a version in which nothing changed, as a folder of its own, and the same version again."""
    with made(place, WIDE, 2 * settings.size) as folder, place.folder("data") as data_dir:
        for _ in range(3):
            publish(data_dir, folder)
        with running(origin_words(data_dir)) as origin:
            url = origin.url()
            sides = [
                Side("first version", lambda: receive(place, url, "v1")),
                Side("nothing changed", lambda: receive(place, url, "v3", before=("v1", "v2"))),
                Side("the same version", lambda: receive(place, url, "v1", before=("v1",))),
            ]
            results = interleave(sides, settings.runs)
    seconds = next(result for result in results if result.name == "nothing changed").median()
    aims = [
        Aim("nothing changed, seconds", seconds, most=1.0),
        Aim("nothing changed: received bytes", _received(results, "nothing changed"), most=0),
    ]
    title = f"Receive a folder again: {WIDE} files, {format_size(2 * settings.size)}, {place.name}"
    return Comparison(title, results, "first version", aims=aims)


def _received(results: Sequence[Result], side: str) -> float:
    """Return the bytes that a side received, by its median."""
    return (next(result for result in results if result.name == side).median("received MB") or 0.0) * 1e6


def publish(data_dir: Path, path: Path) -> None:
    """Publish the next version."""
    expect(run_command(broadcast_words(path, data_dir)).code == 0, f"could not publish {path}")


@contextlib.contextmanager
def serving(place: Place, path: Path) -> Iterator[str]:
    """Publish a version, and run an origin that serves it; yield the origin's URL."""
    with place.folder("data") as data_dir:
        publish(data_dir, path)
        with running(origin_words(data_dir)) as origin:
            yield origin.url()


def receive(
    place: Place,
    url: str,
    version: str = "v1",
    *,
    before: Sequence[str] = (),
    words: Sequence[str] = (),
    unpack: bool = False,
) -> Run:
    """Measure ``shardcast-client``, after downloads of the versions that are here ``before``."""
    with place.folder("output") as output:

        def command(wanted: str) -> list[str]:
            options = ("--version", wanted, "--output-dir", str(output), "--quiet", "--json", "--link")
            return client_words("--servers", url, *options, *words)

        for earlier in before:
            run_command(command(earlier))
        place.settle()
        ended = run_command(command(version))
        told: dict[str, Any] = json.loads(ended.output.splitlines()[-1])
        seconds, cpu = told["seconds"], ended.usage.cpu_seconds
        if unpack:
            into = output / "unpacked"
            into.mkdir()
            after = run_command(shlex.split(f"tar -C {into} -xf {told['path']}"))
            seconds, cpu = seconds + after.seconds, cpu + after.usage.cpu_seconds
        received = sum(told["received"].values()) / 1e6
        return Run(
            seconds, cpu, ended.usage.peak_memory, {"received MB": received, "process s": ended.seconds}
        )


def receive_by_rsync(place: Place, url: str) -> Run:
    """Measure ``rsync`` into an empty folder."""
    with place.folder("output") as output:
        words = [tool("rsync"), "-a", url, str(output / "v1")]
        place.settle()
        ended = run_command(words)
        return Run(ended.seconds, ended.usage.cpu_seconds, ended.usage.peak_memory)


def broadcast_and_receive(place: Place, folder: Path) -> Run:
    """Measure the way of a folder: published at a running origin, then received."""
    with place.folder("data") as data_dir, running(origin_words(data_dir)) as origin:
        url = origin.url()
        place.settle()
        sent = run_command(broadcast_words(folder, data_dir))
        got = receive(place, url)
        assert got.cpu_seconds is not None
        cpu = sent.usage.cpu_seconds + got.cpu_seconds
        return Run(sent.seconds + got.seconds, cpu, got.peak_memory, {"publish s": sent.seconds})


CASE = Case(
    "folder-downloads",
    "receiving folders beside a file and a tar, and again when little changed",
    compare,
    quick=False,
)
