"""The interface of a registry's store, and the stores behind fsspec.

A backend knows paths and bytes, nothing of hashes. Its methods are named as those of DataJoint's
``StorageBackend``; those after ``get_url`` are additions for the registry and its garbage collection.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from shardcast.ages import age, is_future
from shardcast.disk_errors import is_full
from shardcast.errors import MissingExternalFile, RegistryError, StoreInaccessible, StoreNotConfigured
from shardcast.filesystem import give_name
from shardcast.registry.hashes import Buffer, checked_path
from shardcast.registry.stores import StoreSpec
from shardcast.temporary_files import PART

_SCHEMES = {"s3": "s3", "gcs": "gs", "azure": "az", "memory": "memory"}
_FILESYSTEMS = {"s3": ("s3", "s3fs"), "gcs": ("gcs", "gcsfs"), "azure": ("abfs", "adlfs")}
"""fsspec's name of each protocol, and the package with its implementation."""

_RENEW_AFTER = 600.0
"""Seconds after which an object put again is written again, to count as new."""


class StorageBackend(ABC):
    """A store of files. Paths are relative, with ``/`` between folders, and may not lead out of the store.

    Every method raises ``InvalidName`` for a path out of the store, ``StoreInaccessible`` if the store does
    not answer or refuses, and ``MissingExternalFile`` when reading a missing file.

    Attributes:
        spec: the store's configuration.
        protocol: ``file``, ``s3``, ``gcs``, ``azure`` or ``memory``.
    """

    def __init__(self, spec: StoreSpec) -> None:
        self.spec = spec
        self.protocol = spec.protocol

    @abstractmethod
    def put_buffer(self, buffer: Buffer, remote_path: str) -> None:
        """Write ``buffer`` under a path, in one step; a file there is replaced."""

    @abstractmethod
    def get_buffer(self, remote_path: str) -> bytes:
        """Return the bytes of a file."""

    @abstractmethod
    def put_file(self, local_path: str | Path, remote_path: str) -> None:
        """Write a local file's bytes under a path, in one step; a file there is replaced."""

    @abstractmethod
    def get_file(self, remote_path: str, local_path: str | Path) -> None:
        """Write a file's bytes to a local file, in one step; a file there is replaced."""

    @abstractmethod
    def exists(self, remote_path: str) -> bool:
        """Return whether a path has a file or a folder."""

    @abstractmethod
    def isdir(self, remote_path: str) -> bool:
        """Return whether a path has a folder."""

    @abstractmethod
    def remove(self, remote_path: str) -> None:
        """Remove a file; a missing one is no error."""

    @abstractmethod
    def size(self, remote_path: str) -> int:
        """Return the size of a file, in bytes."""

    @abstractmethod
    def open(self, remote_path: str) -> BinaryIO:
        """Open a file for reading."""

    @abstractmethod
    def get_url(self, remote_path: str) -> str:
        """Return the whole URL of a path: ``file:///data/…``, ``s3://bucket/…``."""

    @abstractmethod
    def create(self, remote_path: str, data: bytes) -> bool:
        """Write ``data`` under a path, in one step, where there is no file; return whether there was none."""

    @abstractmethod
    def renew(self, remote_path: str, data: bytes) -> bool:
        """Let a file with the bytes ``data`` count as new; return False for a missing file."""

    @abstractmethod
    def files(self, folder: str) -> dict[str, int]:
        """Return the size of each file below a folder, in bytes, by path; empty for a missing folder."""

    @abstractmethod
    def modified(self, remote_path: str) -> float:
        """Return when a file was written or renewed, in seconds since 1970."""

    @abstractmethod
    def set_aside(self, remote_path: str, aside: str, before: float, now: float) -> bool:
        """Rename a file to the path ``aside``, and set its time to ``now``.

        Returns:
            Whether the file was renamed: False for a missing file, or one renewed after ``before``.
        """

    def set_right(self, remote_path: str) -> None:  # noqa: B027  most stores set their times themselves
        """Set the time of a file to now, in stores with settable times.

        Called for a time in the future, set by a wrong clock.
        """

    @abstractmethod
    def bring_back(self, aside: str, remote_path: str) -> bool:
        """Undo ``set_aside``; return False, and change nothing, if the path has a new file."""


class ObjectBackend(StorageBackend):
    """A store in a bucket, or in this process's memory, through fsspec.

    An object appears in one step, and ``put_buffer`` compares its size afterwards; the protocol checks the
    bytes on their way.
    """

    def __init__(self, spec: StoreSpec) -> None:
        super().__init__(spec)
        self._root = object_root(spec)
        self._fs = _filesystem(spec)

    def put_buffer(self, buffer: Buffer, remote_path: str) -> None:
        """Write an object, and compare the size afterwards."""
        full = self._full(remote_path)
        with self._failing("write", full):
            self._fs.pipe_file(full, bytes(buffer))
            stored = int(self._fs.size(full))
        if stored != len(buffer):
            raise StoreInaccessible(
                f"could not write {self._shown(full)}: the object has {stored} bytes, not {len(buffer)}; "
                "put the content again"
            )

    def get_buffer(self, remote_path: str) -> bytes:
        """Return the bytes of an object."""
        full = self._full(remote_path)
        with self._failing("read", full, reading=True):
            return bytes(self._fs.cat_file(full))

    def put_file(self, local_path: str | Path, remote_path: str) -> None:
        """Upload a local file."""
        full = self._full(remote_path)
        with self._failing("write", full):
            self._fs.put_file(str(local_path), full)

    def get_file(self, remote_path: str, local_path: str | Path) -> None:
        """Download to a temporary file, synced and then renamed."""
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
        """Return whether there is an object, or objects below the path."""
        full = self._full(remote_path)
        with self._failing("look for", full):
            return bool(self._fs.exists(full))

    def isdir(self, remote_path: str) -> bool:
        """Return whether there are objects below the path."""
        full = self._full(remote_path)
        with self._failing("look for", full):
            return bool(self._fs.isdir(full))

    def remove(self, remote_path: str) -> None:
        """Remove an object; a missing one is no error."""
        full = self._full(remote_path)
        with self._failing("remove", full), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(full)  # not rm, which takes * and ? for patterns

    def size(self, remote_path: str) -> int:
        """Return the size of an object, in bytes."""
        full = self._full(remote_path)
        with self._failing("look for", full, reading=True):
            return int(self._fs.size(full))

    def open(self, remote_path: str) -> BinaryIO:
        """Open an object for reading."""
        full = self._full(remote_path)
        with self._failing("read", full, reading=True):
            return cast(BinaryIO, self._fs.open(full, "rb"))

    def get_url(self, remote_path: str) -> str:
        """Return the URL of an object: ``s3://bucket/…``."""
        return self._shown(self._full(remote_path))

    def create(self, remote_path: str, data: bytes) -> bool:
        """Write an object and return True, also where there is one."""
        # Not every server supports a conditional put. Two processes that find no object and put at once put
        # the same bytes; other content of the same MD5 shows by its SHA-256 when read.
        self.put_buffer(data, remote_path)
        return True

    def renew(self, remote_path: str, data: bytes) -> bool:
        """Write an object again if its time is old or in the future."""
        try:
            renewed = self.modified(remote_path)
        except MissingExternalFile:
            return False
        now = time.time()
        if age(renewed, now) > _RENEW_AFTER or is_future(renewed, now):
            self.put_buffer(data, remote_path)  # an object's time can't be set alone
        return True

    def files(self, folder: str) -> dict[str, int]:
        """Return the size of each object below a path, in bytes, by path."""
        full = self._full(folder)
        with self._failing("list", full):
            found = self._fs.find(full, detail=True)
        below = len(self._root) + 1
        return {
            name[below:]: int(info["size"]) for name, info in found.items() if name.startswith(f"{full}/")
        }

    def modified(self, remote_path: str) -> float:
        """Return when an object was written, in seconds since 1970."""
        full = self._full(remote_path)
        with self._failing("look for", full, reading=True):
            return float(self._fs.modified(full).timestamp())

    def set_aside(self, remote_path: str, aside: str, before: float, now: float) -> bool:
        """Copy an object to ``aside`` and remove the original, unless renewed before or during the copy.

        Object stores have no rename.
        """
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
        """Copy an object back, and remove the copy."""
        if self.exists(remote_path):
            return False
        full, other = self._full(remote_path), self._full(aside)
        with self._failing("copy", other, reading=True):
            self._fs.cp_file(other, full)
        self.remove(aside)
        return True

    def _full(self, path: str) -> str:
        """Return the full name of an object."""
        return f"{self._root}/{checked_path(path)}"

    def _shown(self, full: str) -> str:
        """Return the URL of an object, given the full name."""
        return f"{_SCHEMES[self.protocol]}://{full.lstrip('/')}"

    @contextlib.contextmanager
    def _failing(self, doing: str, full: str, reading: bool = False) -> Iterator[None]:
        """Turn any exception of the protocol's package into the registry's errors."""
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
    """Return the prefix of the full names of a store's objects."""
    if spec.protocol == "memory":
        return f"/{spec.location.strip('/')}".rstrip("/")
    # Slashes at the ends of the location stay, as in DataJoint: they are part of the objects' names.
    return f"{spec.bucket}/{spec.location}" if spec.location else spec.bucket


def filesystem_arguments(spec: StoreSpec) -> dict[str, Any]:
    """Return the arguments of fsspec's file system for a store."""
    options = spec.options
    # A cached listing would miss the changes of other processes.
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
    """Return fsspec's file system for a store.

    Raises:
        StoreNotConfigured: the protocol's package is not installed.
        StoreInaccessible: the file system can't be made.
    """
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
