"""Credentials: where tokens come from, to whom they are shown, and that nothing else shows them."""

from __future__ import annotations

import logging
import os
import pickle
import traceback
from pathlib import Path

import pytest

from shardcast.access.client_access import ClientAccess
from shardcast.access.credentials import Credentials, CredentialsFile, read_token
from shardcast.access.secret import HeaderValue, Secret, bearer
from shardcast.errors import LocalDiskError, UsageError

TOKEN = "sc-7Wq0ZbqFvJt2"
URL = "http://10.0.0.1:8000"


def held(text: str) -> Credentials:
    return Credentials.from_text(Secret(text), "the token")


def test_nothing_shows_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    access = ClientAccess(credentials=held(TOKEN))
    for thing in (Secret(TOKEN), held(TOKEN), CredentialsFile(file), access, access.headers_for(URL)):
        for text in (repr(thing), str(thing), f"{thing}", f"{[thing]}"):
            assert TOKEN not in text
        with pytest.raises(TypeError):
            pickle.dumps(thing)
    assert access.headers_for(URL) == {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.parametrize("text", [f"{TOKEN} x", f"h={TOKEN}\nh={TOKEN}", f"{TOKEN}\n{TOKEN}"])
def test_traceback_of_malformed_text_shows_no_token(text: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(text)
    text = ""
    for read in (CredentialsFile, read_token):
        with pytest.raises(UsageError) as caught:
            read(tmp_path / "token")
        report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
        assert TOKEN not in "".join(report.format())


def test_changed_file_is_read_again(tmp_path: Path) -> None:
    file, now = tmp_path / "token", [0.0]
    file.write_text("first")
    file.chmod(0o600)
    credentials = CredentialsFile(file, lambda: now[0])

    def shown() -> str:
        token = credentials.token_for(URL)
        assert token
        return token.reveal()

    (tmp_path / "new").write_text("second")
    (tmp_path / "new").replace(file)
    assert shown() == "first"  # looked at just now
    now[0] += 1.0
    assert shown() == "second"


def test_broken_file_keeps_the_tokens_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, now = tmp_path / "token", [0.0]
    file.write_text(TOKEN)
    file.chmod(0o600)
    credentials = CredentialsFile(file, lambda: now[0])
    for breakage in ("two words", "", None):
        caplog.clear()
        if breakage is None:
            file.unlink()
        else:
            file.write_text(breakage)
        for _ in range(3):
            now[0] += 1.0
            assert credentials.token_for(URL) == Secret(TOKEN)
        assert len(caplog.records) == 1
        assert str(file) in caplog.text
        assert "used on" in caplog.text
    caplog.clear()
    caplog.set_level(logging.INFO)
    file.write_text("good")
    now[0] += 1.0
    assert credentials.token_for(URL) == Secret("good")
    assert "again" in caplog.text


def test_pipe_is_read_once(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, TOKEN.encode())
    os.close(writer)
    now = [0.0]
    credentials = CredentialsFile(Path(f"/dev/fd/{reader}"), lambda: now[0])
    for _ in range(3):
        now[0] += 10.0
        assert credentials.token_for(URL) == Secret(TOKEN)
    os.close(reader)


def test_file_that_others_can_read_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    for mode, warnings in ((0o600, 0), (0o640, 0), (0o604, 1)):
        file.chmod(mode)
        caplog.clear()
        now = [0.0]
        credentials = CredentialsFile(file, lambda now=now: now[0])
        now[0] += 10.0
        credentials.token_for(URL)
        assert len(caplog.records) == warnings


def test_missing_file_is_an_error_of_this_disk(tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match="could not read the token file"):
        CredentialsFile(tmp_path / "nowhere")


def test_environment_names_the_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("of-the-file")
    file.chmod(0o600)
    for name in ("TOKEN", "TOKEN_FILE", "REQUIRE_TLS"):
        monkeypatch.delenv(f"SHARDCAST_{name}", raising=False)
    assert ClientAccess.from_environment() == ClientAccess()
    monkeypatch.setenv("SHARDCAST_TOKEN", "of-the-variable")
    assert ClientAccess.from_environment().headers_for(URL) == bearer(Secret("of-the-variable"))
    monkeypatch.setenv("SHARDCAST_TOKEN_FILE", str(file))
    assert ClientAccess.from_environment().headers_for(URL) == bearer(Secret("of-the-file"))
    assert ClientAccess.from_environment(held("given")).headers_for(URL) == bearer(Secret("given"))
    monkeypatch.setenv("SHARDCAST_REQUIRE_TLS", "1")
    with pytest.raises(UsageError, match="is no https server"):
        ClientAccess.from_environment().headers_for(URL)


def test_plain_proxy_is_shown_no_token() -> None:
    access = ClientAccess(credentials=held(TOKEN))
    assert access.headers_for(URL, "http://proxy:3128") == {}
    assert isinstance(access.headers_for("https://h:443", "http://proxy:3128")["Authorization"], HeaderValue)
    assert access.headers_for("https://h:443")


def test_token_of_one_server_is_shown_to_no_other() -> None:
    access = ClientAccess(credentials=held(f"10.0.0.1:8000={TOKEN}"))
    assert access.headers_for(URL)
    assert access.headers_for("http://10.0.0.1:8001") == access.headers_for("http://10.0.0.2:8000") == {}
