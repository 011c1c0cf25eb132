"""Nodes that are started with a file of tokens, or without one where others can reach them."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

import shardcast
from shardcast.access.scopes import Scope
from shardcast.access.server_access import ServerAccess
from shardcast.access.token_file import TokenFile, append_token
from shardcast.access.tokens import NewToken, make_token
from shardcast.blobs.server import hash_server
from shardcast.errors import UsageError
from shardcast.server.application import ACCESS, application, serve
from tests.support import processes


def status_of(url: str, token: NewToken | None = None) -> int:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token.text}"} if token else {})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of tokens, without any."""
    (tmp_path / "tokens").write_text("# none\n")
    return tmp_path / "tokens"


def test_origin_of_the_library_asks_for_tokens(file: Path, tmp_path: Path) -> None:
    token = make_token([Scope.READ])
    append_token(file, token.token)
    origin = shardcast.OriginServer(tmp_path / "data", port=0, tokens=file)
    try:
        url = f"http://127.0.0.1:{origin.port}"
        payload = tmp_path / "payload"
        payload.write_bytes(b"payload")
        assert origin.broadcast(payload) == "v1"
        assert status_of(f"{url}/v1/shard_001.bin") == 401
        assert status_of(f"{url}/v1/shard_001.bin", token) == 200
        assert status_of(f"{url}/status", token) == 403
        assert status_of(f"{url}/ready") == 200
    finally:
        origin.shutdown()


def test_broken_file_of_tokens_fails_the_start(file: Path, tmp_path: Path) -> None:
    file.write_text("nonsense\n")
    with pytest.raises(UsageError, match="line 1"):
        shardcast.OriginServer(tmp_path / "data", port=0, tokens=file)
    done = processes.run("archive", "serve", str(tmp_path / "blobs"), "--tokens", str(tmp_path / "none"))
    assert done.returncode == 6
    assert (
        done.stderr == f"Error: could not read the tokens in {tmp_path / 'none'}: No such file or directory\n"
    )


def test_hash_server_under_gunicorn_reads_its_tokens(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDCAST_STORE_DIRECTORY", str(tmp_path))
    assert hash_server.app()[ACCESS].tokens is None
    monkeypatch.setenv("SHARDCAST_STORE_TOKENS", str(file))
    tokens = hash_server.app()[ACCESS].tokens
    assert tokens is not None
    assert tokens.path == file
    file.write_text("nonsense\n")
    with pytest.raises(UsageError, match="line 1"):
        hash_server.app()
    monkeypatch.setenv("SHARDCAST_STORE_TOKENS", "")
    with pytest.raises(UsageError, match="SHARDCAST_STORE_TOKENS is set, and empty"):
        hash_server.app()


@pytest.mark.parametrize(
    ("host", "guarded", "warned"),
    [("0.0.0.0", False, 1), ("::", False, 1), ("127.0.0.1", False, 0), ("0.0.0.0", True, 0)],
)
async def test_listener_without_tokens_beyond_loopback_says_so_once(
    host: str, guarded: bool, warned: int, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    access = ServerAccess(tokens=TokenFile(file) if guarded else None)
    async with serve(application("node", access=access), host, 0) as url:
        assert sum(f"{url} is open to all who can reach it" in text for text in caplog.messages) == warned
        assert len(caplog.messages) == warned
