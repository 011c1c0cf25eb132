"""One broadcast over a network of namespaces whose clients share, and what goes wrong meanwhile."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from harness import Run, expect
from namespaces import Border
from network_sides import Node, Scene, data_dir, lists, moments, own_package, start_middles
from nodes import announced, download_words, followed, origin_words, published
from places import Payload, Place
from processes import Running, running

from shardcast.constants import CHECK_INTERVAL, SHARD_SIZE

_LOOK = 0.1
"""Seconds between two looks at what was sent."""
LIAR = "liar"
"""The program of a client that sends wrong bytes."""


@dataclass(frozen=True, slots=True)
class Course:
    """How a broadcast goes.

    Attributes:
        shard_size: bytes of a shard.
        options: options of the clients, by host, beside those of all.
        liars: clients that send wrong bytes; nothing is measured of them.
        killed: clients that are killed half-way, by the bytes that all hosts have sent.
        rate: bytes a second at which the version is written while it is broadcast; None for a file.
    """

    shard_size: int = SHARD_SIZE
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    liars: tuple[str, ...] = ()
    killed: tuple[str, ...] = ()
    rate: float | None = None


def sharing(scene: Scene, course: Course) -> Run:
    """Measure v2 where all hosts have a small v1, and all clients follow and share.

    The clock starts when the origin is told to broadcast.
    """
    plan = scene.plan
    origin = start_publisher(scene, course)
    middles = start_middles(scene, own_package, CHECK_INTERVAL)
    clients = {host: start_client(scene, host, course) for host in plan.clients}
    for client in clients.values():
        client.wait_for(partial(announced, client, "v1"), "having the first version")
    scene.wait_until_ready()
    crossed = scene.network.crossed() if scene.network.border else (0, 0)
    origin.begin()
    if course.killed:
        kill(scene, {host: clients[host] for host in course.killed})
    honest = [host for host in clients if host not in (*course.killed, *course.liars)]
    ready = {host: (node, partial(lists, data_dir(scene, host), "v2")) for host, node in middles.items()}
    ready |= {host: (clients[host], partial(announced, clients[host], "v2")) for host in honest}
    had = moments(ready)
    published = origin.done()
    detail = {"published": published - scene.clock}
    if middles:
        detail["middles list it"] = max(had[host] for host in middles) - scene.clock
    detail |= {f"{host} s": had[host] - scene.clock for host in honest}
    detail |= bodies(scene, {host: clients[host] for host in honest})
    detail["client MB"] = max(clients[host].usage().peak_memory for host in honest) / 1e6
    if scene.network.border:
        ways = zip(("into", "back"), crossed, scene.network.crossed(), strict=True)
        detail |= {f"{way} F, wire": (after - before) / scene.payload.size for way, before, after in ways}
        detail |= over_border(scene, scene.network.border, clients)
    if course.rate:
        detail["after the writer"] = max(had[host] for host in honest) - float(written(origin))
    run = scene.figures([had[host] for host in honest], detail)
    for host in honest:
        followed(scene.place(host), "v2").rename(scene.output(host))
    return run


def kill(scene: Scene, clients: Mapping[str, Running]) -> None:
    """Kill clients once all hosts together have sent half of what all clients receive."""
    half, before = scene.payload.size * len(scene.plan.takes) / 2, sum(scene.network.sent().values())
    while sum(scene.network.sent().values()) - before < half:
        for client in clients.values():
            client.expect_alive("being killed")
        time.sleep(_LOOK)
    for host, client in clients.items():
        expect(not announced(client, "v2"), f"{host} had the version before it was to be killed")
        os.kill(client.pid, signal.SIGKILL)


def check(scene: Scene, course: Course) -> None:
    """Compare the files of the honest clients that live with the payload."""
    for host in scene.plan.clients:
        if host not in (*course.killed, *course.liars):
            scene.payload.check(scene.output(host))


def start_publisher(scene: Scene, course: Course) -> Node:
    """Start the origin, with a small version, ready to broadcast the payload or to write it."""
    host, small = scene.plan.origins[0], scene.folder / "small.bin"
    small.write_bytes(b"a version before the one that is measured")
    words: list[object] = [data_dir(scene, host), course.shard_size]
    words += [course.rate] if course.rate else []
    role = "writer" if course.rate else "publisher"
    origin = scene.node(host, "", role, *map(str, [*words, small, scene.payload.path]))
    origin.wait_until_ready()
    return origin


def start_client(scene: Scene, host: str, course: Course) -> Running:
    """Start a client that shares."""
    servers = scene.urls(scene.plan.takes[host])
    program = LIAR if host in course.liars else ""
    options = ("--share", "--json", *course.options.get(host, ()))
    return scene.follower(host, servers, *options, program=program)


def loopback(place: Place, payload: Payload, clients: int, *, share: bool) -> Run:
    """Measure clients of one origin on this machine, whose links have no limit, until the last one ends."""
    options = ("--share", "--share-host", "127.0.0.1", "--seed-for", "1") if share else ()
    with published(place, payload) as data_dir, place.folder("outputs") as folder, ExitStack() as stack:
        origin = stack.enter_context(running(origin_words(data_dir)))
        url, outputs = origin.url(), [folder / f"{number}.bin" for number in range(clients)]
        started = [Running([*download_words([url], output), *options]) for output in outputs]
        try:
            ended = [client.wait() for client in started]
        finally:
            for client in started:
                client.kill()
        for output in outputs:
            payload.check(output)
    expect(not any(one.code for one in ended), "a client failed")
    seconds = [float(json.loads(one.output.splitlines()[-1])["seconds"]) for one in ended]
    peak = max(one.usage.peak_memory for one in ended)
    cpu_seconds = sum(one.usage.cpu_seconds for one in ended)
    return Run(max(seconds), cpu_seconds, detail={"client MB": peak / 1e6})


def written(origin: Node) -> str:
    """Return when a writer had written all, by the machine's clock."""
    return origin.output.partition("written ")[2].split()[0]


def bodies(scene: Scene, clients: Mapping[str, Running]) -> dict[str, float]:
    """Return how often the payload came to the clients from their servers."""
    received = [item for release in releases(clients).values() for item in release["received"].items()]
    servers = sum(size for server, size in received if "://" in server)
    return {"from servers F": servers / scene.payload.size}


def over_border(scene: Scene, border: Border, clients: Mapping[str, Running]) -> dict[str, float]:
    """Return how often pieces of the payload came over a border, without heads: beyond it, and back."""
    into = back = 0
    for host, release in releases(clients).items():
        if host in border.beyond:
            served = sum(size for server, size in release["received"].items() if "://" in server)
            into += release["across"] + served
        else:
            back += release["across"]
    return {"into F": into / scene.payload.size, "back F": back / scene.payload.size}


def releases(clients: Mapping[str, Running]) -> dict[str, dict[str, Any]]:
    """Return what each client says of the version that is measured."""
    lines = [(host, line) for host, client in clients.items() for line in client.output.splitlines()]
    return {host: found for host, line in lines if (found := json.loads(line))["version"] == "v2"}
