"""The configuration of stores, and its checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shardcast.errors import InvalidName, StoreNotConfigured
from shardcast.registry.hashes import HASH_PREFIX, checked_path, checked_subfolding

DEFAULT = "default"
"""The key whose value is the name of the default store."""

_NOT_STORES = (DEFAULT, "filepath_default")

_EVERYWHERE = (
    "protocol", "location", "subfolding", "partition_pattern", "token_length",
    "hash_prefix", "schema_prefix", "filepath_prefix", "stage",
)  # fmt: skip
_REQUIRED = {
    "file": ("location",),
    "s3": ("endpoint", "bucket", "location"),
    "gcs": ("bucket", "location"),
    "azure": ("container", "location"),
    "memory": (),
}
_OWN = {
    "file": (),
    "s3": ("endpoint", "bucket", "access_key", "secret_key", "secure", "proxy_server"),
    "gcs": ("bucket", "token", "project"),
    "azure": ("container", "account_name", "account_key", "connection_string"),
    "memory": (),
}
_TEXT = (
    "location", "endpoint", "bucket", "access_key", "secret_key", "proxy_server", "container",
    "account_name", "account_key", "connection_string", "project", "filepath_prefix",
)  # fmt: skip
_SECTIONS = {"hash_prefix": HASH_PREFIX, "schema_prefix": "_schema", "filepath_prefix": None}


@dataclass(frozen=True)
class StoreSpec:
    """The configuration of a store.

    Attributes:
        name: name in the configuration.
        protocol: ``file``, ``s3``, ``gcs``, ``azure`` or ``memory``.
        location: the directory, or the prefix of the objects' names in the bucket.
        subfolding: lengths of the folders' names below a schema; None for no folders.
        hash_prefix: the section with hash-addressed content.
        options: other keys of the protocol; never shown, since access keys are among them.
    """

    name: str
    protocol: str
    location: str
    subfolding: tuple[int, ...] | None
    hash_prefix: str
    options: Mapping[str, Any] = field(repr=False)

    @property
    def bucket(self) -> str:
        """The bucket or container; empty where there is none."""
        return str(self.options.get("bucket") or self.options.get("container") or "")


def resolve_name(stores: Mapping[str, Any], name: str | None) -> str:
    """Return a store's name; the default store's for None.

    Raises:
        StoreNotConfigured: there is no default, or no store of this name.
    """
    if name is None:
        if DEFAULT not in stores:
            raise StoreNotConfigured(
                'no store was named, and stores.default is not configured; add "default": NAME to the stores'
            )
        name = stores[DEFAULT]
        if not isinstance(name, str):
            raise StoreNotConfigured(f"stores.default must be the name of a store, not {name!r}")
    if name not in stores or name in _NOT_STORES:
        known = ", ".join(sorted(set(stores) - set(_NOT_STORES))) or "none"
        raise StoreNotConfigured(f"store {name!r} is not configured (configured: {known})")
    return name


def read_spec(stores: Mapping[str, Any], name: str | None) -> StoreSpec:
    """Return the configuration of a store, or of the default store, without a request to the store.

    Raises:
        StoreNotConfigured: the store is missing, or its keys are wrong.
    """
    name = resolve_name(stores, name)
    given = stores[name]
    if not isinstance(given, Mapping):
        raise StoreNotConfigured(f'stores["{name}"] must be a mapping of keys, not {given!r}')
    protocol = str(given.get("protocol", "")).lower()
    if protocol not in _REQUIRED:
        raise StoreNotConfigured(
            f'stores["{name}"].protocol is {given.get("protocol")!r}; supported are {", ".join(_REQUIRED)}'
        )
    _check_keys(name, protocol, given)
    try:
        return StoreSpec(
            name=name,
            protocol=protocol,
            location=given.get("location") or "",
            subfolding=checked_subfolding(given.get("subfolding")),
            hash_prefix=_hash_section(given),
            options={key: given[key] for key in _OWN[protocol] if given.get(key) is not None},
        )
    except InvalidName as error:
        raise StoreNotConfigured(f'stores["{name}"]: {error}') from error


def _check_keys(name: str, protocol: str, given: Mapping[str, Any]) -> None:
    """Refuse keys that are missing, unknown to the protocol, or of another type.

    Raises:
        StoreNotConfigured: a key is missing, unknown, or of another type.
    """
    missing = [key for key in _REQUIRED[protocol] if key not in given]
    if missing:
        raise StoreNotConfigured(f'stores["{name}"] is missing: {", ".join(missing)}')
    allowed = {*_EVERYWHERE, *_OWN[protocol]}
    unknown = [str(key) for key in given if key not in allowed]
    if unknown:
        raise StoreNotConfigured(
            f'stores["{name}"] has keys that {protocol} stores do not have: {", ".join(unknown)}'
        )
    for key in _TEXT:
        if not isinstance(given.get(key, ""), str | None):
            raise StoreNotConfigured(f'stores["{name}"].{key} must be text, not {given[key]!r}')
    for key in ("endpoint", "bucket", "container"):
        if key in _REQUIRED[protocol] and not given[key]:
            raise StoreNotConfigured(f'stores["{name}"].{key} is empty')
    if protocol == "file" and not given["location"]:
        raise StoreNotConfigured(f'stores["{name}"].location is empty')
    if bool(given.get("access_key")) != bool(given.get("secret_key")):
        raise StoreNotConfigured(
            f'stores["{name}"] has one of access_key and secret_key; give both, or neither to use '
            "the credentials of the environment"
        )
    _check_sections(name, given)


def _hash_section(given: Mapping[str, Any]) -> str:
    """Return the section with hash-addressed content.

    Raises:
        InvalidName: the section leads out of the store.
    """
    prefix = given.get("hash_prefix", HASH_PREFIX)
    return checked_path(prefix.strip("/") if isinstance(prefix, str) else prefix)


def _check_sections(name: str, given: Mapping[str, Any]) -> None:
    """Refuse sections nested in one another.

    Garbage collection of the outer section would take the files of the inner one.

    Raises:
        StoreNotConfigured: two sections are nested.
    """
    sections = {key: given.get(key, usual) for key, usual in _SECTIONS.items()}
    for key, prefix in sections.items():
        if not isinstance(prefix, str | None):
            raise StoreNotConfigured(f'stores["{name}"].{key} must be text, not {prefix!r}')
    folders = [(key, prefix.strip("/") + "/") for key, prefix in sections.items() if prefix]
    for index, (key, folder) in enumerate(folders):
        for other, outer in folders[index + 1 :]:
            if folder.startswith(outer) or outer.startswith(folder):
                raise StoreNotConfigured(
                    f'stores["{name}"]: {key} {folder!r} and {other} {outer!r} lie in one another; '
                    "give each section a folder of its own"
                )
