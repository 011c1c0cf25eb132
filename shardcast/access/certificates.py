"""Names, dates and digests of certificates, read from their bytes.

Python tells them of trusted certificates alone, and an error message needs those of an untrusted one.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from shardcast.plain_text import short_name

_SUBJECT_ALT_NAME = bytes([0x55, 0x1D, 0x11])
"""The object identifier 2.5.29.17."""
_MAX_SUBJECT = 64
"""Characters of a holder's name."""
_MAX_NAMES = 100
"""Maximum names read from a certificate."""
_SEQUENCE, _OCTETS, _OBJECT = 0x30, 0x04, 0x06
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_DNS, _IP = 0x82, 0x87
_TIMES = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
"""Forms of a time by their tag."""


@dataclass(frozen=True)
class Certificate:
    """The facts in a server's certificate.

    Attributes:
        names: host names and addresses of the server.
        begins: beginning of the validity.
        ends: end of the validity.
    """

    names: tuple[str, ...]
    begins: datetime
    ends: datetime


def subject_name(certificate: Mapping[str, Any]) -> str:
    """Return the name of the holder of a verified certificate, given as by ``SSLObject.getpeercert``.

    The common name of the subject, or else the first alternative name; empty without either.
    """
    for attributes in certificate.get("subject", ()):
        for key, value in attributes:
            if key == "commonName" and value:
                return short_name(str(value), _MAX_SUBJECT)
    for _, value in certificate.get("subjectAltName", ()):
        return short_name(str(value), _MAX_SUBJECT)
    return ""


def certificate_sha256(file: Path) -> str | None:
    """Return the SHA-256, in hex, of the first certificate in a PEM file.

    None for a file that can't be read, or has no certificate.
    """
    try:
        _, header, rest = file.read_text("ascii", "replace").partition(ssl.PEM_HEADER)
        end = rest.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(header + rest[:end])).hexdigest()
    except (OSError, ValueError):
        return None


def read_certificate(der: bytes) -> Certificate:
    """Return the facts in a certificate; ``der`` as from ``SSLObject.getpeercert(binary_form=True)``.

    Raises:
        ValueError: the bytes are no certificate.
    """
    fields = _children(_children(_only(der, _SEQUENCE))[0][1])
    if fields and fields[0][0] == _VERSION:
        fields = fields[1:]
    if len(fields) < 6:  # serial number, algorithm, issuer, validity, subject, key
        raise ValueError("the shown certificate has too few fields")
    begins, ends = (_time(tag, content) for tag, content in _children(fields[3][1], 2))
    names: list[str] = []
    for tag, content in fields[6:]:
        if tag == _EXTENSIONS:
            names += _alternative_names(_only(content, _SEQUENCE))
    return Certificate(tuple(names[:_MAX_NAMES]), begins, ends)


def _alternative_names(extensions: bytes) -> list[str]:
    """Return the host names and IP addresses of the subject among the extensions of a certificate.

    Raises:
        ValueError: the bytes are no extensions.
    """
    names: list[str] = []
    for _, extension in _children(extensions):
        parts = _children(extension)
        if len(parts) < 2 or parts[0] != (_OBJECT, _SUBJECT_ALT_NAME) or parts[-1][0] != _OCTETS:
            continue
        for tag, content in _children(_only(parts[-1][1], _SEQUENCE)):
            if tag == _DNS:
                names.append(content.decode("ascii", "replace"))
            elif tag == _IP and len(content) in (4, 16):
                names.append(str(ip_address(content)))
    return names


def _time(tag: int, content: bytes) -> datetime:
    """Return the time in an element.

    Raises:
        ValueError: the element is no time.
    """
    if tag not in _TIMES:
        raise ValueError("the shown certificate has no dates")
    return datetime.strptime(content.decode("ascii"), _TIMES[tag]).replace(tzinfo=UTC)


def _only(data: bytes, tag: int) -> bytes:
    """Return the content of the only element of ``data``, which must have the tag ``tag``.

    Raises:
        ValueError: there are more elements or none, or the tag is another.
    """
    [(found, content)] = _children(data, 1)
    if found != tag:
        raise ValueError(f"the shown certificate has an element {found:#x} instead of {tag:#x}")
    return content


def _children(data: bytes, count: int | None = None) -> list[tuple[int, bytes]]:
    """Return the tags and contents of the elements in ``data``.

    Args:
        data: elements of a certificate, one after another.
        count: the required number of elements; None for any number from 1 on.

    Raises:
        ValueError: an element is longer than ``data``, has a malformed length, or the number is another.
    """
    found: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        if position + 2 > len(data):
            raise ValueError("the shown certificate ends within an element")
        tag, size = data[position], data[position + 1]
        position += 2
        if size & 0x80:  # the size of the size
            width = size & 0x7F
            if not 1 <= width <= 4 or position + width > len(data):
                raise ValueError("an element of the shown certificate has a malformed length")
            size = int.from_bytes(data[position : position + width], "big")
            position += width
        if position + size > len(data):
            raise ValueError("the shown certificate ends within an element")
        found.append((tag, data[position : position + size]))
        position += size
    if (count is not None and len(found) != count) or not found:
        raise ValueError("an element of the shown certificate is empty, or has too few or too many parts")
    return found
