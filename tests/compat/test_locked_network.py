"""A network with tokens and TLS at each node, as real processes, and who is kept out of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shardcast.access.client_access import ClientAccess
from shardcast.access.credentials import CredentialsFile
from shardcast.access.scopes import Scope
from shardcast.access.tls import ClientTls
from shardcast.access.token_file import append_token
from shardcast.access.tokens import make_token
from shardcast.nodes.client import Client
from tests.support import legacy, processes
from tests.support.certificates import Certificates
from tests.support.published import random_bytes

pytestmark = pytest.mark.legacy

old = legacy.old  # a fixture of this module too

SIZE = 2_500_000
REFUSED, NO_TLS = 8, 4


@dataclass
class LockedNetwork:
    """An origin and two middles below each other, with a file of tokens and a certificate each."""

    folder: Path
    stack: contextlib.ExitStack
    certificates: Certificates
    nodes: list[processes.Node] = field(default_factory=list)

    def token(self, name: str, *scopes: Scope, servers: tuple[str, ...]) -> Path:
        """Make a token that some servers know, and return the file for its bearer."""
        made = make_token(scopes, name)
        for server in servers:
            append_token(self.folder / f"{server}.tokens", made.token)
        file = self.folder / f"{name}.token"
        file.touch(0o600)
        file.write_text(made.text)
        return file

    def doors(self, server: str) -> list[str]:
        """Return the options of a server that lock it."""
        certificate = self.certificates.issue(file=f"{server}.pem")
        return ["--tokens", str(self.folder / f"{server}.tokens"), "--certificate", str(certificate)]

    def keys(self, name: str) -> list[str]:
        """Return the options by which the bearer of a token is let in."""
        token = str(self.folder / f"{name}.token")
        return ["--token-file", token, "--ca", str(self.certificates.ca), "--require-tls"]

    def start(self, running: contextlib.AbstractContextManager[processes.Node]) -> processes.Node:
        """Run a node until the network ends."""
        self.nodes.append(self.stack.enter_context(running))
        assert self.nodes[-1].url.startswith("https://")
        return self.nodes[-1]

    def access(self, name: str) -> ClientAccess:
        """Return the access of the bearer of a token, for the library."""
        credentials = CredentialsFile(self.folder / f"{name}.token")
        return ClientAccess(credentials=credentials, require_tls=True, tls=ClientTls(self.certificates.ca))

    def status(self, node: processes.Node, name: str) -> Any:
        """Return the status of a node."""
        token = (self.folder / f"{name}.token").read_text()
        asked = urllib.request.Request(f"{node.url}/status", headers={"Authorization": f"Bearer {token}"})
        context = ssl.create_default_context(cafile=self.certificates.ca)
        with urllib.request.urlopen(asked, timeout=30, context=context) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LockedNetwork]:
    folder = tmp_path_factory.mktemp("locked")
    with contextlib.ExitStack() as stack:
        network = LockedNetwork(folder, stack, Certificates(folder / "tls"))
        network.token("trainer", Scope.PUBLISH, servers=("origin",))
        network.token("middle-1", Scope.READ, Scope.REPORT, servers=("origin",))
        network.token("middle-2", Scope.READ, Scope.REPORT, servers=("middle-1",))
        network.token("fleet", Scope.READ, Scope.REPORT, servers=("middle-2",))
        network.token("monitoring", Scope.STATUS, servers=("origin", "middle-1", "middle-2"))
        doors, keys = network.doors, network.keys
        node = network.start(processes.origin(folder / "origin", "--publish", *doors("origin")))
        for name in ("middle-1", "middle-2"):
            node = network.start(processes.middle(node.url, folder / name, *keys(name), *doors(name)))
        yield network
        for node in network.nodes:
            assert "Traceback" not in node.log


def publish(network: LockedNetwork, name: str) -> bytes:
    """Publish a payload at the origin from elsewhere, and return it."""
    payload = random_bytes(SIZE)
    (network.folder / name).write_bytes(payload)
    words = ("broadcast", str(network.folder / name), "--to", network.nodes[0].url)
    done = processes.run(*words, *network.keys("trainer"))
    assert done.returncode == 0, done.stderr
    return payload


async def test_version_from_elsewhere_reaches_clients_through_two_locked_middles(
    locked: LockedNetwork, tmp_path: Path
) -> None:
    url, access = locked.nodes[-1].url, locked.access("fleet")
    async with asyncio.timeout(60), Client([url], tmp_path / "followed", access=access) as client:
        publishing = asyncio.ensure_future(asyncio.to_thread(publish, locked, "one.bin"))
        followed = await anext(client.follow())
        assert followed.path.read_bytes() == await publishing
        async with client.lease(followed.version):
            versions = locked.status(locked.nodes[-1], "monitoring")["versions"]
            held = {version["version"]: version["held"] for version in versions}
            assert [hold["kind"] for hold in held[followed.version]] == ["lease"]
    words = ("--servers", url, "--version", "latest", "--output-file", str(tmp_path / "got.bin"))
    done = processes.run("client", *words, *locked.keys("fleet"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got.bin").read_bytes() == (locked.folder / "one.bin").read_bytes()

    def middles() -> list[str]:
        below = locked.status(locked.nodes[0], "monitoring")["below"]
        return [node["role"] for node in below if node["role"] == "middle"]

    processes.wait_until(lambda: len(middles()) == 2, what="the reports of both middles")


@pytest.mark.parametrize(
    ("servers", "keys", "code", "message"),
    [
        (-1, ["ca"], REFUSED, 'a token with the scope "read" is needed'),
        (-1, ["token"], NO_TLS, "name the CA that signed it (--ca)"),
        (0, ["trainer"], REFUSED, 'the token lacks the scope "read"'),
        (0, ["fleet"], REFUSED, "the token is unknown there, expired or revoked"),
    ],
    ids=["no-token", "no-ca", "other-scope", "token-of-another-server"],
)
def test_client_without_the_right_keys_is_refused(
    servers: int, keys: list[str], code: int, message: str, locked: LockedNetwork
) -> None:
    words = {
        "ca": ["--ca", str(locked.certificates.ca)],
        "token": ["--token-file", str(locked.folder / "fleet.token")],
    }
    given = words[keys[0]] if keys[0] in words else locked.keys(keys[0])
    done = processes.run("client", "--servers", locked.nodes[servers].url, "--list", *given)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_publisher_without_the_scope_is_refused(locked: LockedNetwork, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"x")
    words = ("broadcast", str(tmp_path / "x.bin"), "--to", locked.nodes[0].url)
    done = processes.run(*words, *locked.keys("middle-1"))
    assert done.returncode == REFUSED, done.stderr
    assert 'the token lacks the scope "publish"' in done.stderr


def test_client_0_1_0_is_refused_and_neither_end_fails(
    locked: LockedNetwork, old: legacy.OldShardcast, tmp_path: Path
) -> None:
    (tmp_path / "x.bin").write_bytes(b"x")
    tokens = ["--tokens", str(locked.folder / "origin.tokens"), "--broadcast", str(tmp_path / "x.bin")]
    with processes.origin(tmp_path / "data", *tokens) as plain, contextlib.ExitStack() as stack:
        secured = locked.nodes[-1].url.replace("https://", "http://")
        clients = [
            stack.enter_context(old.running_client("--servers", url, "--version", "v1"))
            for url in (plain.url, secured)
        ]
        for client in clients:
            client.wait_for_log("attempt 2/5")  # it tries again for 21 s in all
            assert "Traceback" not in client.log
        assert "Traceback" not in plain.log
