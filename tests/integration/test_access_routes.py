"""Every route of every listener, with each kind of credentials that a request can have."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from multidict import CIMultiDict

from shardcast.access import wrong_tokens
from shardcast.access.scopes import Scope
from shardcast.access.tokens import NewToken
from shardcast.blobs.server import archive_server, hash_server
from shardcast.blobs.server.archive_server import ArchiveNode
from shardcast.blobs.server.hash_server import StoreServer, StoreSettings
from shardcast.nodes import middle, origin
from shardcast.nodes.middle import Middle
from shardcast.nodes.origin import Origin
from shardcast.server.application import application
from shardcast.server.scoped_routes import RULES, RouteRule
from tests.support.access import TokensOnDisk
from tests.support.published import publish

BLOB = b"blob"
DIGEST = hashlib.sha256(BLOB).hexdigest()
NODE: Mapping[str, Scope | None] = {
    "/distribution.txt": Scope.READ,
    "/{version}/manifest.jsonl": Scope.READ,
    "/{version}/{shard}": Scope.READ,
    "/data1.bin": Scope.READ,
    "/{key}": Scope.READ,
    "/feed": Scope.READ,
    "/{version}/lease": Scope.READ,
    "/{version}/swarm": Scope.READ,
    "/{version}/next": Scope.READ,
    "/report": Scope.REPORT,
    "/healthcheck": None,
    "/ready": None,
    "/status": Scope.STATUS,
}
UPLOADS: Mapping[str, Scope | None] = {
    "/uploads": Scope.PUBLISH,
    "/uploads/{upload}": Scope.PUBLISH,
    "/uploads/{upload}/complete": Scope.PUBLISH,
    "/uploads/{upload}/confirm": Scope.PUBLISH,
}
HASHES: Mapping[str, Scope | None] = {
    "/healthcheck": None,
    "/has": Scope.STORE_READ,
    "/has-now": Scope.STORE_READ,
    "/buffer-length": Scope.STORE_READ,
    "/promise/{checksum}": Scope.STORE_WRITE,
    "PUT /{checksum}": Scope.STORE_WRITE,
    "/{checksum}": Scope.STORE_READ,
    "/{tail}": None,
}
ARCHIVE: Mapping[str, Scope | None] = {
    "/v1/pull": Scope.STORE_READ,
    "/v1/push": Scope.ARCHIVE_PUSH,
    "/v1/metadata/{key}": Scope.STORE_READ,
    "/meta/{key}": Scope.STORE_READ,
    "/stats": Scope.STORE_READ,
    "/liveness": None,
    "/": Scope.STORE_READ,
    "/{key}": Scope.STORE_READ,
    "/healthcheck": None,
    "/ready": None,
    "/status": Scope.STATUS,
}
TABLE: Mapping[str, Mapping[str, Scope | None]] = {
    "origin": {**NODE, **UPLOADS},
    "middle": {**NODE, "/swarm": None, "/swarm/check": None},
    "hash server": HASHES,
    "archive": ARCHIVE,
    "archive, authorized": {**ARCHIVE, "/v1/push": None},
}
"""The scope of each path of each listener; None for those that are open."""
CASES = ("none", "wrong scope", "right scope", "expired", "revoked", "malformed", "two headers")
EXAMPLES = {"version": "v1", "shard": "shard_001.bin", "key": DIGEST, "checksum": DIGEST, "tail": "no/path"}
EXAMPLES["upload"] = "a" * 32

Listener = tuple[web.Application, str]


class Credentials:
    """A token of each kind for each scope."""

    def __init__(self, tokens: TokensOnDisk) -> None:
        self._right = {scope: tokens.add([scope]) for scope in Scope}
        self._others = {scope: tokens.add(set(Scope) - {scope}) for scope in Scope}
        self._expired = tokens.add(Scope, expires=1.0)
        self._revoked = tokens.add(Scope)
        tokens.revoke(self._revoked)

    def headers(self, case: str, scope: Scope | None) -> CIMultiDict[str]:
        """Return the headers of a request for a scope."""
        wanted = scope or Scope.READ
        bearers: dict[str, list[NewToken]] = {
            "none": [],
            "wrong scope": [self._others[wanted]],
            "right scope": [self._right[wanted]],
            "expired": [self._expired],
            "revoked": [self._revoked],
            "two headers": [self._right[wanted]] * 2,
        }
        values = [f"Bearer {new.text}" for new in bearers.get(case, [])] or ["Bearer password"]
        return CIMultiDict(("Authorization", value) for value in values if case != "none")


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokensOnDisk:
    monkeypatch.setattr(wrong_tokens, "FIRST_DELAY", 0.0)
    return TokensOnDisk(tmp_path / "tokens")


@pytest.fixture
async def listeners(
    tokens: TokensOnDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[dict[str, Listener]]:
    """All listeners on TCP that there are."""
    made: list[web.Application] = []

    def recorded(*words: Any, **settings: Any) -> web.Application:
        app = application(*words, **settings)
        if "access" in settings:
            made.append(app)
        return app

    for module in (origin, middle, archive_server, hash_server):
        monkeypatch.setattr(module, "application", recorded)
    publish(tmp_path / "origin", b"payload", 1000)
    blobs = tmp_path / "blobs"
    (blobs / DIGEST[:2]).mkdir(parents=True)
    (blobs / DIGEST[:2] / DIGEST).write_bytes(BLOB)
    here: dict[str, Any] = {"host": "127.0.0.1", "port": 0, "access": tokens.access}
    async with AsyncExitStack() as stack:
        takes_uploads = Origin.running(tmp_path / "origin", **here, takes_uploads=True)
        source = await stack.enter_async_context(takes_uploads)
        relay = await stack.enter_async_context(
            Middle.running(["http://127.0.0.1:1"], tmp_path / "middle", **here)
        )
        settings = StoreSettings(blobs, writable=True)
        store = await stack.enter_async_context(
            StoreServer.running(settings, ports=(0, 0), access=tokens.access)
        )
        archived = ArchiveNode.on_directory(blobs, **here, authorized_port=0)
        casa = await stack.enter_async_context(archived)
        assert casa.push_url
        urls = (source.url, relay.url, store.url, casa.url, casa.push_url)
        yield dict(zip(TABLE, zip(made, urls, strict=True), strict=True))


def scopes_of(app: web.Application) -> dict[str, set[Scope | None]]:
    """Return the scopes of the paths of an application; of a PUT beside a GET under ``PUT path``."""
    scopes: dict[str, set[Scope | None]] = {}
    read = {
        route.resource.canonical for route in app.router.routes() if route.resource and route.method == "GET"
    }
    for route in app.router.routes():
        assert route.resource
        path = route.resource.canonical
        name = f"PUT {path}" if route.method == "PUT" and path in read else path
        scopes.setdefault(name, set()).add(app[RULES][route].scope)
    return scopes


async def test_every_route_of_every_listener_has_its_scope(listeners: dict[str, Listener]) -> None:
    for name, (app, _) in listeners.items():
        assert scopes_of(app) == {path: {scope} for path, scope in TABLE[name].items()}, name
        assert set(app[RULES]) == set(app.router.routes()), name


@pytest.mark.parametrize("case", CASES)
async def test_every_route_answers_only_the_right_token(
    case: str, listeners: dict[str, Listener], tokens: TokensOnDisk
) -> None:
    credentials = Credentials(tokens)
    wrong = []
    async with aiohttp.ClientSession() as session:
        for name, (app, url) in listeners.items():
            for route, rule in app[RULES].items():
                assert route.resource
                method = "GET" if route.method == "*" else route.method
                path = route.resource.canonical.format_map(EXAMPLES)
                body = b"{}" if method in ("POST", "PUT") else None
                headers = credentials.headers(case, rule.scope)
                async with session.request(method, url + path, data=body, headers=headers) as answer:
                    problem = problem_of(case, rule, answer)
                    if problem:
                        wrong.append(f"{method} {path} of the {name}: {problem}")
    assert wrong == []


def problem_of(case: str, rule: RouteRule, answer: aiohttp.ClientResponse) -> str | None:
    """Return what is wrong with an answer; None where nothing is."""
    challenge = answer.headers.get("WWW-Authenticate", "")
    if rule.scope is None or case == "right scope":
        return None if answer.status not in (401, 403, 429, 500) else f"{answer.status}"
    expected = 403 if case == "wrong scope" else 401
    error = {"none": None, "wrong scope": "insufficient_scope"}.get(case, "invalid_token")
    found = re.search(r'error="(\w+)"', challenge)
    if answer.status != expected:
        return f"{answer.status} instead of {expected}"
    if not challenge.startswith('Bearer realm="shardcast"') or f'scope="{rule.scope}"' not in challenge:
        return f"the challenge {challenge!r}"
    return None if (found[1] if found else None) == error else f"the error in {challenge!r}"
