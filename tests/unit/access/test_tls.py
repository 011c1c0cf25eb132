"""Files of certificates ─▶ contexts: what is refused at the start, and what a change of the files does."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shardcast.access.live_context import LiveContext
from shardcast.access.tls import ClientTls, ServerTls, server_tls
from shardcast.errors import LocalDiskError, UsageError
from tests.support.certificates import Certificates


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


def test_key_in_a_file_of_its_own_is_loaded(shared: Certificates, tmp_path: Path) -> None:
    text = shared.issue().read_text()
    begin = text.index("-----BEGIN CERTIFICATE")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    key.write_text(text[:begin])
    certificate.write_text(text[begin:])
    ServerTls(certificate, key).load()
    with pytest.raises(UsageError, match=f"no key in {certificate}"):
        ServerTls(certificate).load()
    with pytest.raises(UsageError, match=f"no certificate in {key}"):
        ServerTls(key).load()


def test_missing_file_is_named(shared: Certificates, tmp_path: Path) -> None:
    with pytest.raises(LocalDiskError, match=r"could not read .*/absent\.pem: No such file"):
        ServerTls(tmp_path / "absent.pem").load()
    with pytest.raises(LocalDiskError, match=r"absent\.pem"):
        ClientTls(tmp_path / "absent.pem").load()


def test_key_of_another_certificate_is_refused(shared: Certificates) -> None:
    one, other = shared.issue(file="one.pem"), shared.issue(file="other.pem")
    with pytest.raises(UsageError, match=f"the key in {other} does not belong to the certificate in {one}"):
        ServerTls(one, other).load()


def test_encrypted_key_is_refused_without_asking(shared: Certificates, tmp_path: Path) -> None:
    key = tmp_path / "encrypted.pem"
    words = ["openssl", "genpkey", "-algorithm", "ED25519", "-aes256", "-pass", "pass:secret", "-out", key]
    subprocess.run(words, check=True, capture_output=True)
    with pytest.raises(UsageError, match=r"encrypted\.pem is encrypted"):
        ServerTls(shared.issue(), key).load()


def test_key_without_certificate_makes_no_sense() -> None:
    with pytest.raises(UsageError, match="--key needs"):
        server_tls(None, Path("key.pem"), None)
    with pytest.raises(UsageError, match="--client-ca needs"):
        server_tls(None, None, Path("ca.pem"))
    with pytest.raises(UsageError, match="--client-certificate"):
        ClientTls(key=Path("key.pem"))


def test_changed_files_make_a_new_context_once_they_stay(shared: Certificates) -> None:
    live = LiveContext(ServerTls(shared.issue(file="live.pem")))
    first = live.context
    live.refresh()
    assert live.context is first
    shared.issue(file="live.pem")
    live.refresh()
    assert live.context is first  # its key may be on its way
    live.refresh()
    second = live.context
    assert second is not first
    live.refresh()
    assert live.context is second


@pytest.mark.parametrize("break_file", [Path.unlink, lambda path: path.write_text("no PEM")])
def test_broken_files_keep_the_old_context_and_are_logged_once(
    break_file: Callable[[Path], object], shared: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    path = shared.issue(file="broken.pem")
    live = LiveContext(ServerTls(path))
    first = live.context
    break_file(path)
    for _ in range(5):
        live.refresh()
    assert live.context is first
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "the old ones stay in use" in caplog.text
    shared.issue(file="broken.pem")
    live.refresh()
    live.refresh()
    assert live.context is not first
