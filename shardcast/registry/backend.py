"""What the registry asks of a store, and the stores behind fsspec.

A backend knows paths and bytes, nothing of hashes. Its methods are named as those of DataJoint's
``StorageBackend``; what comes after ``get_url`` is what the registry and its garbage collection need besides.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from shardcast.ages import age, lies_ahead
from shardcast.errors import MissingExternalFile, RegistryError, StoreInaccessible, StoreNotConfigured
from shardcast.filesystem import PART, give_name, is_full
from shardcast.registry.hashes import Buffer, checked_path
from shardcast.registry.stores import StoreSpec

_SCHEMES = {"s3": "s3", "gcs": "gs", "azure": "az", "memory": "memory"}
_FILESYSTEMS = {"s3": ("s3", "s3fs"), "gcs": ("gcs", "gcsfs"), "azure": ("abfs", "adlfs")}
"""fsspec's name of a protocol, and the package that has it."""

_RENEW_AFTER = 600.0
"""Seconds after which an object that is put again is written again, so that it counts as new."""


class StorageBackend(ABC):
    """One store. Paths are relative to it, with ``/`` between folders, and may not lead out of it.

    Attributes:
        spec: what it is configured as.
        protocol: ``file``, ``s3``, ``gcs``, ``azure`` or ``memory``.

    Every method raises ``InvalidName`` for a path that leads out of the store, ``StoreInaccessible`` when the
    store doesn't answer or refuses, and ``MissingExternalFile`` where it reads what isn't there.
    """

    def __init__(self, spec: StoreSpec) -> None:
        self.spec = spec
        self.protocol = spec.protocol

    @abstractmethod
    def put_buffer(self, buffer: Buffer, remote_path: str) -> None:
        """Have ``buffer`` under a path, in one step; what was there is replaced."""

    @abstractmethod
    def get_buffer(self, remote_path: str) -> bytes:
        """What is under a path."""

    @abstractmethod
    def put_file(self, local_path: str | Path, remote_path: str) -> None:
        """Have a local file's bytes under a path, in one step; what was there is replaced."""

    @abstractmethod
    def get_file(self, remote_path: str, local_path: str | Path) -> None:
        """Have what is under a path in a local file, in one step; what was there is replaced."""

    @abstractmethod
    def exists(self, remote_path: str) -> bool:
        """Whether there is a file, or a folder, of this path."""

    @abstractmethod
    def isdir(self, remote_path: str) -> bool:
        """Whether there is a folder of this path."""

    @abstractmethod
    def remove(self, remote_path: str) -> None:
        """Remove a file; one that isn't there is fine."""

    @abstractmethod
    def size(self, remote_path: str) -> int:
        """Bytes of a file."""

    @abstractmethod
    def open(self, remote_path: str) -> BinaryIO:
        """Open a file for reading."""

    @abstractmethod
    def get_url(self, remote_path: str) -> str:
        """The whole URL of a path: ``file:///data/…``, ``s3://bucket/…``."""

    @abstractmethod
    def create(self, remote_path: str, data: bytes) -> bool:
        """Have ``data`` under a path, in one step, unless there is something; whether there was nothing."""

    @abstractmethod
    def renew(self, remote_path: str, data: bytes) -> bool:
        """Have a file, whose bytes are ``data``, count as new; False where it is gone."""

    @abstractmethod
    def files(self, folder: str) -> dict[str, int]:
        """The paths below a folder, each with its bytes; none where there is no such folder."""

    @abstractmethod
    def modified(self, remote_path: str) -> float:
        """When a file was written or renewed, in seconds since 1970."""

    @abstractmethod
    def set_aside(self, remote_path: str, aside: str, before: float, now: float) -> bool:
        """Have a file under the path ``aside``, and as of ``now``, instead of its own.

        Returns:
            Whether it was done: not where the file is gone, or was renewed after ``before``.
        """

    def set_right(self, remote_path: str) -> None:  # noqa: B027  most stores set their times themselves
        """Have a file whose time lies ahead, by a clock that was wrong, count as written now, where the store
        lets times be set."""

    @abstractmethod
    def bring_back(self, aside: str, remote_path: str) -> bool:
        """Undo ``set_aside``; False where there is something under the path by now, which is left alone."""


class ObjectBackend(StorageBackend):
    """A store in a bucket, or in this process's memory, through fsspec.

    A put appears in one step, and its size is compared; the protocol checks that its bytes arrived right.
    """

    def __init__(self, spec: StoreSpec) -> None:
        super().__init__(spec)
        self._root = object_root(spec)
        self._fs = _filesystem(spec)

    def put_buffer(self, buffer: Buffer, remote_path: str) -> None:
        full = self._full(remote_path)
        with self._failing("write", full):
            self._fs.pipe_file(full, bytes(buffer))
            stored = int(self._fs.size(full))
        if stored != len(buffer):
            raise StoreInaccessible(
                f"could not write {self._shown(full)}: it has {stored} bytes, not {len(buffer)}; put it again"
            )

    def get_buffer(self, remote_path: str) -> bytes:
        full = self._full(remote_path)
        with self._failing("read", full, reading=True):
            return bytes(self._fs.cat_file(full))

    def put_file(self, local_path: str | Path, remote_path: str) -> None:
        full = self._full(remote_path)
        with self._failing("write", full):
            self._fs.put_file(str(local_path), full)

    def get_file(self, remote_path: str, local_path: str | Path) -> None:
        full, local = self._full(remote_path), Path(local_path)
        part = local.with_name(f".{secrets.token_hex(8)}{PART}")
        try:
            with self._failing("read", full, reading=True):
                local.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(full, str(part))
                with part.open("rb") as file:
                    give_name(file.fileno(), part, local)
        finally:
            part.unlink(missing_ok=True)

    def exists(self, remote_path: str) -> bool:
        full = self._full(remote_path)
        with self._failing("look for", full):
            return bool(self._fs.exists(full))

    def isdir(self, remote_path: str) -> bool:
        full = self._full(remote_path)
        with self._failing("look for", full):
            return bool(self._fs.isdir(full))

    def remove(self, remote_path: str) -> None:
        full = self._full(remote_path)
        with self._failing("remove", full), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(full)  # and not rm, which takes * and ? for patterns

    def size(self, remote_path: str) -> int:
        full = self._full(remote_path)
        with self._failing("look for", full, reading=True):
            return int(self._fs.size(full))

    def open(self, remote_path: str) -> BinaryIO:
        full = self._full(remote_path)
        with self._failing("read", full, reading=True):
            return cast(BinaryIO, self._fs.open(full, "rb"))

    def get_url(self, remote_path: str) -> str:
        return self._shown(self._full(remote_path))

    def create(self, remote_path: str, data: bytes) -> bool:
        # Not every server can put on condition. Two who find nothing and put at once put the same; other
        # content of the same MD5 shows by its SHA-256 when it is got.
        self.put_buffer(data, remote_path)
        return True

    def renew(self, remote_path: str, data: bytes) -> bool:
        try:
            renewed = self.modified(remote_path)
        except MissingExternalFile:
            return False
        now = time.time()
        if age(renewed, now) > _RENEW_AFTER or lies_ahead(renewed, now):
            self.put_buffer(data, remote_path)  # an object has no time that could be set alone
        return True

    def files(self, folder: str) -> dict[str, int]:
        full = self._full(folder)
        with self._failing("list", full):
            found = self._fs.find(full, detail=True)
        below = len(self._root) + 1
        return {
            name[below:]: int(about["size"]) for name, about in found.items() if name.startswith(f"{full}/")
        }

    def modified(self, remote_path: str) -> float:
        full = self._full(remote_path)
        with self._failing("look for", full, reading=True):
            return float(self._fs.modified(full).timestamp())

    def set_aside(self, remote_path: str, aside: str, before: float, now: float) -> bool:
        full, other = self._full(remote_path), self._full(aside)
        try:
            if self.modified(remote_path) > before:
                return False
            with self._failing("copy", full, reading=True):
                self._fs.cp_file(full, other)
            if self.modified(remote_path) > before:
                self.remove(aside)
                return False
        except MissingExternalFile:
            return False
        self.remove(remote_path)
        return True

    def bring_back(self, aside: str, remote_path: str) -> bool:
        if self.exists(remote_path):
            return False
        full, other = self._full(remote_path), self._full(aside)
        with self._failing("copy", other, reading=True):
            self._fs.cp_file(other, full)
        self.remove(aside)
        return True

    def _full(self, path: str) -> str:
        return f"{self._root}/{checked_path(path)}"

    def _shown(self, full: str) -> str:
        return f"{_SCHEMES[self.protocol]}://{full.lstrip('/')}"

    @contextlib.contextmanager
    def _failing(self, doing: str, full: str, reading: bool = False) -> Iterator[None]:
        """Turn what the protocol's package raises, which can be anything, into the registry's errors."""
        try:
            yield
        except RegistryError:
            raise
        except Exception as error:
            if reading and isinstance(error, FileNotFoundError):
                raise MissingExternalFile(f"there is nothing at {self._shown(full)}") from error
            what = str(error) or type(error).__name__
            hint = "; free some space and try again" if is_full(error) else ""
            raise StoreInaccessible(
                f"store {self.spec.name!r}: could not {doing} {self._shown(full)}: {what}{hint}"
            ) from error


def object_root(spec: StoreSpec) -> str:
    """The full name below which a store's objects lie."""
    if spec.protocol == "memory":
        return f"/{spec.location.strip('/')}".rstrip("/")
    # Slashes at its ends stay, as DataJoint leaves them: they are part of the objects' names.
    return f"{spec.bucket}/{spec.location}" if spec.location else spec.bucket


def filesystem_arguments(spec: StoreSpec) -> dict[str, Any]:
    """What fsspec's file system of a store's protocol is told."""
    options = spec.options
    # Without it a listing would be answered from memory after another process changed what is there.
    arguments: dict[str, Any] = {"use_listings_cache": False}
    if spec.protocol == "s3":
        endpoint = str(options["endpoint"])
        if not endpoint.startswith(("http://", "https://")):
            endpoint = f"{'https' if options.get('secure', True) else 'http'}://{endpoint}"
        arguments["client_kwargs"] = {"endpoint_url": endpoint}
        if options.get("access_key"):
            arguments |= {"key": options["access_key"], "secret": options["secret_key"]}
        if proxy := options.get("proxy_server"):
            arguments["config_kwargs"] = {"proxies": {"http": proxy, "https": proxy}}
    elif spec.protocol != "memory":
        arguments |= {key: value for key, value in options.items() if key not in ("bucket", "container")}
    return arguments


def _filesystem(spec: StoreSpec) -> Any:
    name, package = _FILESYSTEMS.get(spec.protocol, (spec.protocol, "fsspec"))
    try:
        import fsspec

        return fsspec.filesystem(name, **filesystem_arguments(spec))
    except ImportError as error:
        raise StoreNotConfigured(
            f"store {spec.name!r} has the protocol {spec.protocol}, whose package is not installed; "
            f"pip install 'shardcast[registry]' {package}"
        ) from error
    except Exception as error:
        raise StoreInaccessible(f"store {spec.name!r} can't be used: {error}") from error
