"""The followers of one origin behind nginx, which all have its one address there.

Origin, nginx and followers have hosts of their own in a network of this machine, so that the origin's limit
of connections an address applies. nginx is a proxy with its defaults: HTTP/1.0 to the origin, buffers on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from urllib.parse import urlsplit

import followers
import namespaces
import peers
from harness import Aim, Case, Comparison, Run, Settings, Side, interleave
from places import Place
from processes import running

PORT = 8000
COUNT, MORE = followers.COUNT, 1500
"""Fewer than the connections that an address may have, and more."""
ORIGIN, PROXY, CROWD = "origin", "proxy", "crowd"


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    place = settings.places.memory
    runs = settings.runs if settings.full else min(settings.runs, followers.QUICK_RUNS)
    sides = [
        Side(f"{COUNT}, straight", partial(followed, place, COUNT)),
        Side(f"{COUNT}, nginx", partial(followed, place, COUNT, proxy=True)),
        Side(f"{MORE}, nginx, trusted", partial(followed, place, MORE, proxy=True, trusted=True)),
    ]
    results = interleave(sides, runs, warm_ups=0)
    aims = [
        Aim(f"until the last one is told, s: {result.name}", result.median(), most=1) for result in results
    ]
    notes = [
        *followers.notes(),
        "nginx: a proxy with its defaults on another host. trusted: the origin counts no connections of it "
        "(--trusted-proxy); else it takes 1024.",
    ]
    yield Comparison("Idle followers behind nginx", results, plot="", aims=aims, notes=notes)


def followed(place: Place, count: int, proxy: bool = False, trusted: bool = False) -> Run:
    """Run origin, nginx and followers on hosts of their own, and measure the origin."""
    with ExitStack() as stack:
        hosts = stack.enter_context(namespaces.network(dict.fromkeys((ORIGIN, PROXY, CROWD)))).hosts
        folder = stack.enter_context(place.folder("followers"))
        env: Mapping[str, str] = {"SHARDCAST_TRUSTED_PROXY": hosts[PROXY].address} if trusted else {}
        words = hosts[ORIGIN].words(*followers.origin_words(folder))
        origin = stack.enter_context(running(words, env=env, told=True))
        url = f"http://{hosts[ORIGIN].address}:{urlsplit(origin.url()).port}"
        if proxy:
            pass_on = f"location / {{ proxy_pass {url}; }}"
            words = hosts[PROXY].words(*peers.nginx_words(folder, f"{PORT}", pass_on))
            web = stack.enter_context(peers.running_nginx(words))
            web.wait_for(lambda: hosts[PROXY].listens(PORT), "listening")
            url = f"http://{hosts[PROXY].address}:{PORT}"
        one, crowd = (
            stack.enter_context(
                running(hosts[CROWD].words(*followers.follower_words(url, number)), told=True)
            )
            for number in (1, count)
        )
        return followers.figures(origin, folder, one, crowd, count=count)


CASE = Case("followers-nginx", "the same behind nginx, on hosts of their own (root)", compare, quick=False)
