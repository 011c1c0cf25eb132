"""Registered folders of this machine: the server of each, and this client's key there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shardcast.access.secret import Secret
from shardcast.access.tls import ClientTls, client_tls
from shardcast.addresses import server_url
from shardcast.backup.client.answers import MAX_KEY, text_of
from shardcast.backup.entries import bytes_of_text, encode_json, text_or_base64
from shardcast.disk_errors import disk_errors
from shardcast.errors import LocalDiskError, UsageError
from shardcast.filesystem import replace
from shardcast.json_text import parse_json
from shardcast.temporary_files import create_private, temporary_name

FORMAT = 1
_MAX_FILE = 64 << 10
"""Bytes of a registration's file."""
_PRIVATE_FILE, _PRIVATE_FOLDER = 0o600, 0o700
_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Registration:
    """A folder of this machine, registered at a server.

    Attributes:
        path: the folder, absolute, without links.
        url: base URL of the server.
        client: this client's name there.
        key: this client's key there.
        tls: the certificate files named at the registration.
    """

    path: bytes
    url: str
    client: str
    key: Secret
    tls: ClientTls = field(default_factory=ClientTls)

    def covers(self, folder: bytes) -> bool:
        """Return whether a folder is the registered one or lies below."""
        return folder == self.path or folder.startswith(self.path.rstrip(b"/") + b"/")


def save_registration(registration: Registration) -> Path:
    """Write a registration readable only by this user, and return its file.

    Raises:
        LocalDiskError: the file cannot be written.
    """
    tls = registration.tls
    fields = {
        "format": FORMAT,
        "url": registration.url,
        "client": registration.client,
        "key": registration.key.reveal(),
        **dict([text_or_base64("path", registration.path)]),
        **{
            name: str(file.absolute())
            for name, file in (("ca", tls.ca), ("certificate", tls.certificate), ("client_key", tls.key))
            if file
        },
    }
    prepare_registrations()
    file = _file_of(registration.path)
    replace(file, encode_json(fields) + b"\n", _PRIVATE_FILE)
    return file


def prepare_registrations() -> None:
    """Make the folder of registrations, accessible only to this user, and try to write a file there.

    Raises:
        LocalDiskError: the folder cannot be made or written.
    """
    folder = _folder()
    with disk_errors("could not write registrations in", folder):
        folder.mkdir(_PRIVATE_FOLDER, parents=True, exist_ok=True)
        folder.chmod(_PRIVATE_FOLDER)
        probe = temporary_name(folder / "probe")
        os.close(create_private(probe))
        probe.unlink()


def find_registration(folder: bytes) -> Registration | None:
    """Return the registration of a folder, or of the nearest folder above; None without any.

    Raises:
        LocalDiskError: a registration cannot be read.
        UsageError: a registration is damaged.
    """
    for path in _upwards(folder):
        file = _file_of(path)
        with disk_errors("could not read", file):
            try:
                with open(file, "rb") as stream:
                    return _parse(stream.read(_MAX_FILE), file)
            except FileNotFoundError:
                continue
    return None


def registered(folder: bytes) -> Registration:
    """Return the registration of a folder, or of the nearest folder above.

    Raises:
        UsageError: the folder is not registered, or the registration is damaged.
        LocalDiskError: the registration cannot be read.
    """
    found = find_registration(folder)
    if found is None:
        shown = os.fsdecode(folder)
        raise UsageError(
            f"{shown} is not registered at a backup server, nor is a folder above; ask its operator for an "
            f"invitation, and run: shardcast backup register --dir {shown} --url URL --invitation …"
        )
    return found


def folder_path(folder: Path | bytes) -> bytes:
    """Return the absolute path of a folder, without links.

    Raises:
        LocalDiskError: there is no such folder.
    """
    text = os.fsencode(folder)
    with disk_errors("could not use the folder", os.fsdecode(text)):
        path = os.path.realpath(text, strict=True)
    if not os.path.isdir(path):
        raise LocalDiskError(f"{os.fsdecode(text)} is no folder")
    return path


def _parse(data: bytes, file: Path) -> Registration:
    """Return the registration of a file.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        fields = parse_json(data)
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise ValueError(f"not of format {FORMAT}")
        texts = {name: text_of(fields, name) for name in ("url", "client")}
        key = Secret(text_of(fields, "key", MAX_KEY))
        files = [
            text_of(fields, name) if name in fields else None for name in ("ca", "certificate", "client_key")
        ]
        return Registration(
            bytes_of_text(fields, "path"), server_url(texts["url"]), texts["client"], key, client_tls(*files)
        )
    except ValueError as error:
        raise UsageError(f"the registration {file} is damaged ({error}); register the folder again") from None


def _upwards(folder: bytes) -> Iterator[bytes]:
    """Yield a folder and the folders above, up to the root."""
    while True:
        yield folder
        above = os.path.dirname(folder)
        if above == folder:
            return
        folder = above


def _folder() -> Path:
    """Return the folder of the registrations of this user."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return Path(base, "shardcast", "backup")


def _file_of(path: bytes) -> Path:
    """Return the file of a folder's registration."""
    return _folder() / (hashlib.sha256(path).hexdigest()[:32] + _SUFFIX)
