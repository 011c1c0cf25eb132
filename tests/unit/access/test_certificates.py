"""Names and dates of certificates that are not trusted."""

from __future__ import annotations

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from shardcast.access.certificates import certificate_sha256, read_certificate, subject_name
from tests.support.certificates import Certificates


def der_of(path: Path) -> bytes:
    text = path.read_text()
    begin, end = text.index("-----BEGIN CERTIFICATE"), text.index("-----END CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(text[begin:end] + "-----END CERTIFICATE-----\n")


@pytest.fixture(scope="module")
def der(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    certificates = Certificates(tmp_path_factory.mktemp("tls"))
    return der_of(certificates.issue("origin.example", "*.rack.example", "10.0.0.7", "fd00::7"))


def test_names_and_dates_are_read(der: bytes) -> None:
    found = read_certificate(der)
    assert found.names == ("origin.example", "*.rack.example", "10.0.0.7", "fd00::7")
    now = datetime.now(UTC)
    assert abs(found.begins - (now - timedelta(days=1))) < timedelta(minutes=5)
    assert abs(found.ends - (now + timedelta(days=30))) < timedelta(minutes=5)


def test_year_after_2050_is_read(tmp_path: Path) -> None:
    pem = Certificates(tmp_path).issue(days=(0, 40 * 365))
    assert read_certificate(der_of(pem)).ends.year > 2060


@given(st.data())
def test_changed_bytes_are_read_or_refused(der: bytes, data: st.DataObject) -> None:
    changed = bytearray(der[: data.draw(st.integers(0, len(der)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_certificate(bytes(changed))
    except ValueError:
        pass


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        read_certificate(raw)
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("certificate", "name"),
    [
        ({"subject": ((("organizationName", "o"),), (("commonName", "gpu-7"),))}, "gpu-7"),
        ({"subject": (), "subjectAltName": (("DNS", "gpu-7.example"), ("DNS", "b"))}, "gpu-7.example"),
        ({"subject": ((("commonName", "a\x1b[2J\n" + "b" * 100),),)}, "a[2J" + "b" * 58),
        ({}, ""),
    ],
)
def test_holder_is_named_by_its_subject(certificate: dict[str, object], name: str) -> None:
    assert subject_name(certificate) == name


def test_digest_of_a_certificate_is_that_of_the_one_that_is_shown(tmp_path: Path) -> None:
    certificate = trustme.CA().issue_cert("a.example")
    file = tmp_path / "node.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(str(file))
    shown = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
    assert certificate_sha256(file) == hashlib.sha256(shown).hexdigest()
    assert certificate_sha256(tmp_path / "missing") is None
    file.write_text("no certificate")
    assert certificate_sha256(file) is None
