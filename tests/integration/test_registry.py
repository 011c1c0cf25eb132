"""The hash registry: names, stores, and content put, got and deleted in each kind of store."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import re
import resource
import signal
import stat
import string
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast import registry
from shardcast.errors import IntegrityError, ShardcastError, UsageError
from shardcast.registry import (
    HashCollision,
    HashMismatch,
    InvalidName,
    MissingExternalFile,
    Registry,
    RegistryError,
    StoreInaccessible,
    StoreMissing,
    StoreNotConfigured,
    build_hash_path,
    compute_hash,
)
from shardcast.registry.backend import filesystem_arguments
from shardcast.registry.directory import DirectoryBackend
from tests.support import links, processes, registries
from tests.support.payloads import patient
from tests.support.registries import S3, DataJoint

datajoint = registries.datajoint
s3 = registries.s3

ROOT = Path(__file__).parents[2]
HELLO = "l23dxo7ad3xnbe6lek5y6wwnym"
"""The hash of ``hello world``."""

# The first MD5 collision that was published (Wang, Feng, Lai and Yu, 2004).
TWIN = bytes.fromhex(
    "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f89"
    "55ad340609f4b30283e488832571415a085125e8f7cdc99fd91dbdf280373c5b"
    "d8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0"
    "e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70"
)
OTHER_TWIN = bytes.fromhex(
    "d131dd02c5e6eec4693d9a0698aff95c2fcab50712467eab4004583eb8fb7f89"
    "55ad340609f4b30283e4888325f1415a085125e8f7cdc99fd91dbd7280373c5b"
    "d8823e3156348f5bae6dacd436c919c6dd53e23487da03fd02396306d248cda0"
    "e99f33420f577ee8ce54b67080280d1ec69821bcb6a8839396f965ab6ff72a70"
)

SCHEMAS = st.text(
    st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="/\\"), min_size=1, max_size=12
).filter(lambda name: name[0] != ".")
FOLDS = st.none() | st.lists(st.integers(1, 13), max_size=2) | st.lists(st.integers(1, 5), max_size=5)


def in_directory(place: Path, **more: Any) -> Registry:
    place.mkdir(exist_ok=True)
    return Registry({"default": "main", "main": {"protocol": "file", "location": str(place), **more}})


def in_memory(name: str, **more: Any) -> Registry:
    return Registry({"default": "main", "main": {"protocol": "memory", "location": name, **more}})


@pytest.fixture(params=["file", "memory", "s3"])
def ours(request: pytest.FixtureRequest, tmp_path: Path) -> Registry:
    """A registry over an empty store of each kind."""
    if request.param == "file":
        return in_directory(tmp_path / "store")
    if request.param == "memory":
        return in_memory(str(tmp_path))
    return Registry({"default": "main", "main": request.getfixturevalue("s3").store()})


def corrupt(registry: Registry, path: str, data: bytes = b"rotten") -> None:
    registry.get_store_backend().put_buffer(data, path)


def everything(place: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {one.relative_to(place).as_posix(): one.read_bytes() for one in place.rglob("*") if one.is_file()}


# --- names -------------------------------------------------------------------------------------------------


def test_hashes_are_md5_in_lower_case_base32() -> None:
    assert compute_hash(b"") == "2qoyzwmpaczaj2mabgmoz6ccpy"
    assert compute_hash(b"hello world") == HELLO
    assert compute_hash(bytearray(b"Hello!")) == "suwsyvwqjbmvqm3hi66n3gczbu"
    with pytest.raises(TypeError):
        compute_hash("hello world")  # type: ignore[arg-type]


def test_paths_match_datajoint() -> None:
    assert build_hash_path(HELLO, "lab") == f"_hash/lab/{HELLO}"
    assert build_hash_path(HELLO, "lab", ()) == f"_hash/lab/{HELLO}"
    assert build_hash_path(HELLO, "lab", (2, 2)) == f"_hash/lab/l2/3d/{HELLO}"
    assert build_hash_path(HELLO, "lab", [20, 20]) == f"_hash/lab/{HELLO[:20]}/{HELLO[20:]}/{HELLO}"


@pytest.mark.parametrize(
    "hash_", ["", HELLO[:-1], HELLO.upper(), HELLO + "a", "1" * 26, "é" * 26, HELLO + "\n"]
)
def test_malformed_hash_is_refused(hash_: str) -> None:
    with pytest.raises(InvalidName, match="not the hash of content"):
        build_hash_path(hash_, "lab")


@pytest.mark.parametrize(
    "schema",
    ["", ".", "..", "a/b", "../lab", "a\\b", ".quarantine", "a\x00", "a\n", "\ud800", "x" * 256, None, 3],
)
def test_malformed_schema_is_refused(schema: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        build_hash_path(HELLO, schema)
    with pytest.raises(InvalidName):
        in_directory(tmp_path).put_hash(b"data", schema)
    assert not everything(tmp_path)


@pytest.mark.parametrize("folds", [(0,), (-1, 2), (26, 1), (20, 20, 2), "22", (2.0,), (True,), 2])
def test_subfolding_with_empty_folder_name_is_refused(folds: Any) -> None:
    with pytest.raises(InvalidName, match="subfolding"):
        build_hash_path(HELLO, "lab", folds)
    with pytest.raises(StoreNotConfigured, match="subfolding"):
        in_memory("", subfolding=folds).get_store_subfolding()


@patient
@given(st.binary(max_size=200), SCHEMAS, FOLDS)
def test_hash_and_path_match_datajoint(
    datajoint: DataJoint, data: bytes, schema: str, folds: list[int] | None
) -> None:
    theirs = datajoint.hash_registry
    assert compute_hash(data) == theirs.compute_hash(data)
    hash_ = compute_hash(data)
    assert build_hash_path(hash_, schema, folds) == theirs.build_hash_path(
        hash_, schema, None if folds is None else tuple(folds)
    )


@patient
@given(st.text(max_size=30), st.lists(st.integers(-2, 30), max_size=4))
def test_schema_and_subfolding_stay_in_their_section(schema: str, folds: list[int]) -> None:
    try:
        path = build_hash_path(HELLO, schema, folds)
    except InvalidName:
        return
    parts = path.split("/")
    assert parts[:2] == ["_hash", schema]
    assert parts[-1] == HELLO
    assert all(part and part not in (".", "..") for part in parts)


ESCAPES = [
    "",
    "/etc/passwd",
    "../outside",
    "_hash/../../outside",
    "_hash/./x",
    "a\\..\\b",
    "a\x00b",
    "_hash/lab/",
]


@pytest.mark.parametrize("path", ESCAPES)
def test_path_outside_its_store_is_refused(ours: Registry, path: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"hello world")
    with pytest.raises(InvalidName):
        ours.get_hash({"path": path, "hash": HELLO})
    with pytest.raises(InvalidName):
        ours.delete_path(path)
    backend = ours.get_store_backend()
    for method in (
        backend.get_buffer,
        backend.exists,
        backend.size,
        backend.remove,
        backend.open,
        backend.get_url,
    ):
        with pytest.raises(InvalidName):
            method(path)
    with pytest.raises(InvalidName):
        backend.put_buffer(b"", path)
    assert (tmp_path / "outside").read_bytes() == b"hello world"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for every example of a property."""
    return tmp_path_factory.mktemp("place")


@patient
@given(st.text(alphabet="./\\ab~*?[ ", max_size=12) | st.text(max_size=12))
def test_no_path_touches_files_outside_the_store(place: Path, path: str) -> None:
    ours = in_directory(place / "store")
    try:
        ours.get_store_backend().put_buffer(b"data", path)
        assert ours.get_store_backend().get_buffer(path) == b"data"
        assert ours.delete_path(path)
    except RegistryError:
        pass
    assert all(one.startswith("store/") for one in everything(place))


# --- configuration -----------------------------------------------------------------------------------------

FILE = {"protocol": "file", "location": "/data"}
BUCKET = {"protocol": "s3", "endpoint": "127.0.0.1:9000", "bucket": "b", "location": "l"}
KEYS = {"access_key": "a", "secret_key": "s"}


@pytest.mark.parametrize(
    ("stores", "name", "said"),
    [
        ({}, None, "stores.default is not configured"),
        ({"default": 3}, None, "must be the name of a store"),
        ({"default": "main"}, None, "'main' is not configured"),
        ({"main": FILE}, "other", r"'other' is not configured \(configured: main\)"),
        ({"default": "main", "main": FILE}, "default", "'default' is not configured"),
        ({"main": "x"}, "main", "must be a mapping"),
        ({"main": {}}, "main", "protocol is None; supported are file, s3, gcs, azure, memory"),
        ({"main": {"protocol": "ftp"}}, "main", "protocol is 'ftp'"),
        ({"main": {"protocol": "file"}}, "main", "is missing: location"),
        ({"main": {"protocol": "s3"}}, "main", "is missing: endpoint, bucket, location"),
        ({"main": {"protocol": "gcs"}}, "main", "is missing: bucket, location"),
        ({"main": {"protocol": "azure"}}, "main", "is missing: container, location"),
        ({"main": {**FILE, "bucket": "b"}}, "main", "file stores do not have: bucket"),
        ({"main": {**FILE, "location": ""}}, "main", "location is empty"),
        ({"main": {**FILE, "location": 3}}, "main", "location must be text"),
        ({"main": {**BUCKET, "access_key": "a"}}, "main", "one of access_key and secret_key"),
        ({"main": {**BUCKET, "bucket": ""}}, "main", "bucket is empty"),
        ({"main": {**FILE, "hash_prefix": "_schema/x"}}, "main", "lie in one another"),
        ({"main": {**FILE, "filepath_prefix": "_hash"}}, "main", "lie in one another"),
        ({"main": {**FILE, "hash_prefix": "../x"}}, "main", "can't be a path"),
        ({"main": {**FILE, "hash_prefix": ""}}, "main", "can't be a path"),
        ({"main": {**FILE, "hash_prefix": 3}}, "main", "must be text"),
    ],
)
def test_invalid_configuration_is_refused(stores: dict[str, Any], name: str | None, said: str) -> None:
    for use in (Registry.get_store_subfolding, Registry.get_store_backend):
        with pytest.raises(StoreNotConfigured, match=said) as raised:
            use(Registry(stores), name)
        assert isinstance(raised.value, UsageError)


def test_invalid_store_does_not_disable_others(tmp_path: Path) -> None:
    stores = {"default": "main", "main": {**FILE, "location": str(tmp_path)}, "old": {"protocol": "ftp"}}
    assert Registry(stores).put_hash(b"data", "lab")["store"] == "main"


def test_missing_directory_is_not_made(tmp_path: Path) -> None:
    missing = Registry({"default": "main", "main": {**FILE, "location": str(tmp_path / "unmounted")}})
    with pytest.raises(FileNotFoundError, match="no directory") as raised:
        missing.put_hash(b"data", "lab")
    assert isinstance(raised.value, StoreMissing)
    assert not (tmp_path / "unmounted").exists()


SPECS = st.fixed_dictionaries(
    {"protocol": st.sampled_from(["file", "S3", "s3", "gcs", "azure", "ftp", ""]), "location": st.just("l")},
    optional={
        **{key: st.just("x") for key in ("endpoint", "bucket", "container", "token", "project", "unknown")},
        **{key: st.just("x") for key in ("account_name", "connection_string", "proxy_server", "stage")},
        "subfolding": st.none() | st.lists(st.integers(1, 8), max_size=3),
        "token_length": st.integers(4, 16),
        "partition_pattern": st.just("{subject}"),
        **{
            key: st.sampled_from(["a", "a/b", "/a/", "b", "_hash", "_schema"])
            for key in ("hash_prefix", "schema_prefix", "filepath_prefix")
        },
    },
)


@patient
@given(SPECS, st.booleans())
def test_store_configuration_matches_datajoint(
    datajoint: DataJoint, spec: dict[str, Any], keys: bool
) -> None:
    if spec["protocol"].lower() == "s3" or keys:
        spec = {**spec, **KEYS}  # there they may not be left out
    stores = {"default": "main", "main": spec}
    datajoint.configure(stores)
    try:
        theirs = datajoint.hash_registry.get_store_subfolding()
    except datajoint.errors.DataJointError:
        with pytest.raises(StoreNotConfigured):
            Registry(stores).get_store_subfolding()
    else:
        assert Registry(stores).get_store_subfolding() == theirs


def test_filesystem_gets_arguments_of_its_protocol() -> None:
    def told(**given: Any) -> dict[str, Any]:
        arguments = filesystem_arguments(Registry({"main": given}).spec("main"))
        assert arguments.pop("use_listings_cache") is False
        return arguments

    assert told(**BUCKET) == {"client_kwargs": {"endpoint_url": "https://127.0.0.1:9000"}}
    assert told(**BUCKET, **KEYS, secure=False) == {
        "client_kwargs": {"endpoint_url": "http://127.0.0.1:9000"},
        "key": "a",
        "secret": "s",
    }
    whole = {**BUCKET, "endpoint": "http://127.0.0.1:9000"}
    assert told(**whole)["client_kwargs"] == {"endpoint_url": "http://127.0.0.1:9000"}
    assert told(protocol="gcs", bucket="b", location="", token="t", project="p") == {
        "token": "t",
        "project": "p",
    }
    azure = {"account_name": "n", "account_key": "k"}
    assert told(protocol="azure", container="c", location="", connection_string=None, **azure) == azure


def test_credentials_are_never_shown() -> None:
    assert "hidden" not in repr(
        Registry({"main": {**BUCKET, "access_key": "a", "secret_key": "hidden"}}).spec("main")
    )


@pytest.mark.skipif(find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_missing_protocol_package_is_named() -> None:
    stores = {"main": {"protocol": "gcs", "bucket": "b", "location": ""}}
    with pytest.raises(StoreNotConfigured, match="pip install 'shardcast\\[registry\\]' gcsfs"):
        Registry(stores).get_store_backend("main")


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that nothing was configured in."""
    monkeypatch.delenv("SHARDCAST_REGISTRY_STORES", raising=False)
    registry.configure(None)
    yield
    registry.configure(None)


@pytest.mark.usefixtures("fresh")
def test_functions_use_configured_stores(tmp_path: Path) -> None:
    with pytest.raises(StoreNotConfigured, match="SHARDCAST_REGISTRY_STORES"):
        registry.put_hash(b"data", "lab")
    registry.configure({"default": "main", "main": {**FILE, "location": str(tmp_path), "subfolding": [2, 2]}})
    metadata = registry.put_hash(b"hello world", "lab")
    assert registry.get_store_subfolding() == (2, 2)
    assert registry.get_store_backend().get_buffer(f"_hash/lab/l2/3d/{HELLO}") == b"hello world"
    assert registry.get_hash(metadata) == b"hello world"
    assert registry.delete_path(metadata["path"], metadata["store"])


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    "wrap", [lambda stores: stores, lambda stores: {"database.host": "db", "stores": stores}]
)
def test_stores_are_read_from_a_file(
    wrap: Callable[[Any], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "stores.json"
    monkeypatch.setenv("SHARDCAST_REGISTRY_STORES", str(file))
    with pytest.raises(StoreNotConfigured, match=re.escape(str(file))):
        registry.get_store_backend()
    file.write_text("[]")
    with pytest.raises(StoreNotConfigured, match="must be a JSON object"):
        registry.get_store_backend()
    file.write_text(json.dumps(wrap({"default": "main", "main": {**FILE, "location": str(tmp_path)}})))
    assert registry.put_hash(b"data", "lab")["store"] == "main"


# --- content -----------------------------------------------------------------------------------------------


def test_put_content_is_returned_by_get(ours: Registry) -> None:
    for data in (b"hello world", b"", os.urandom(300_000)):
        metadata = ours.put_hash(data, "lab")
        assert ours.get_hash(metadata) == data
        assert metadata == {
            "hash": compute_hash(data),
            "path": f"_hash/lab/{compute_hash(data)}",
            "schema": "lab",
            "store": "main",  # and not None, which would mean another one as soon as the default changes
            "size": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
        assert json.loads(json.dumps(metadata)) == metadata


def test_put_accepts_bytes_like_objects_only(ours: Registry) -> None:
    assert ours.get_hash(ours.put_hash(bytearray(b"data"), "lab")) == b"data"
    assert ours.get_hash(ours.put_hash(memoryview(b"data")[1:], "lab")) == b"ata"
    with pytest.raises(TypeError, match="must be bytes"):
        ours.put_hash("data", "lab")  # type: ignore[arg-type]


def test_schemas_have_separate_content(ours: Registry) -> None:
    one, other = ours.put_hash(b"data", "one"), ours.put_hash(b"data", "other")
    assert ours.put_hash(b"data", "one") == one
    assert one["path"] != other["path"]
    assert ours.delete_path(one["path"])
    assert ours.get_hash(other) == b"data"


def test_missing_content_raises(ours: Registry) -> None:
    metadata = ours.put_hash(b"data", "lab")
    assert ours.delete_path(metadata["path"]) is True
    assert ours.delete_path(metadata["path"]) is False
    with pytest.raises(MissingExternalFile, match=metadata["hash"]):
        ours.get_hash(metadata)
    for key in ("path", "hash"):
        with pytest.raises(KeyError, match=key):
            ours.get_hash({name: value for name, value in metadata.items() if name != key})


def test_corrupt_content_raises_and_is_repaired_by_put(ours: Registry) -> None:
    metadata = ours.put_hash(b"hello world", "lab")
    corrupt(ours, metadata["path"])
    with pytest.raises(HashMismatch, match="corrupt") as raised:
        ours.get_hash(metadata)
    assert isinstance(raised.value, IntegrityError)
    assert ours.put_hash(b"hello world", "lab") == metadata
    assert ours.get_hash(metadata) == b"hello world"


def test_md5_collision_is_detected(ours: Registry) -> None:
    assert TWIN != OTHER_TWIN
    assert compute_hash(TWIN) == compute_hash(OTHER_TWIN)
    first = ours.put_hash(TWIN, "lab")
    with pytest.raises(HashCollision):
        ours.put_hash(OTHER_TWIN, "lab")
    assert ours.get_hash(first) == TWIN
    other = ours.put_hash(OTHER_TWIN, "elsewhere")
    assert ours.get_hash(other) == OTHER_TWIN
    corrupt(ours, first["path"], OTHER_TWIN)
    with pytest.raises(HashMismatch, match="same MD5"):
        ours.get_hash(first)


def test_stored_path_is_used_over_configuration(tmp_path: Path) -> None:
    metadata = in_directory(tmp_path, subfolding=[2, 2]).put_hash(b"data", "lab")
    for now in (in_directory(tmp_path), in_directory(tmp_path, subfolding=[3], hash_prefix="content")):
        assert now.get_hash(metadata) == b"data"
        assert now.put_hash(b"data", "lab")["path"] != metadata["path"]
    assert in_directory(tmp_path).delete_path(metadata["path"])
    with pytest.raises(MissingExternalFile):
        in_directory(tmp_path, subfolding=[2, 2]).get_hash(metadata)


def test_stored_store_is_used_over_default(tmp_path: Path) -> None:
    stores: dict[str, Any] = {"default": "old"}
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        stores[name] = {**FILE, "location": str(tmp_path / name)}
    metadata = Registry(stores).put_hash(b"data", "lab")
    assert Registry({**stores, "default": "new"}).get_hash(metadata) == b"data"
    assert Registry({**stores, "default": "new"}).put_hash(b"data", "lab")["store"] == "new"


def test_hash_section_is_configurable(ours: Registry, tmp_path: Path) -> None:
    elsewhere = in_directory(tmp_path / "other", hash_prefix="/content/of/")
    assert elsewhere.put_hash(b"hello world", "lab")["path"] == f"content/of/lab/{HELLO}"


def test_backend_fulfils_its_contract(ours: Registry, tmp_path: Path) -> None:
    backend = ours.get_store_backend()
    (tmp_path / "local").write_bytes(b"a file" * 1000)
    backend.put_file(tmp_path / "local", "some/file")
    assert backend.exists("some/file")
    assert backend.isdir("some")
    assert not backend.isdir("some/file")
    assert backend.size("some/file") == 6000
    with backend.open("some/file") as opened:
        assert opened.read(6) == b"a file"
    backend.get_file("some/file", tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == b"a file" * 1000
    backend.put_buffer(b"other", "some/file")
    assert backend.get_buffer("some/file") == b"other"
    assert backend.get_url("some/file").startswith(f"{backend.protocol}://")
    assert backend.get_url("some/file").endswith("/some/file")
    backend.remove("some/file")
    backend.remove("some/file")
    assert not backend.exists("some/file")
    for read in (backend.get_buffer, backend.size, backend.open):
        with pytest.raises(MissingExternalFile):
            read("some/file")
    with pytest.raises(MissingExternalFile):
        backend.get_file("some/file", tmp_path / "nothing")
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == ["local"]


def test_copy_error_names_the_local_file(tmp_path: Path) -> None:
    backend = in_directory(tmp_path / "store").get_store_backend()
    with pytest.raises(StoreInaccessible, match=f"could not read {tmp_path}/missing: No such file"):
        backend.put_file(tmp_path / "missing", "some/file")
    backend.put_buffer(b"a file", "some/file")
    (tmp_path / "local").write_bytes(b"no folder")
    with pytest.raises(StoreInaccessible, match=f"could not copy .*some/file to {tmp_path}/local/copy: "):
        backend.get_file("some/file", tmp_path / "local" / "copy")


def test_put_again_onto_a_read_only_disk_names_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = in_directory(tmp_path / "store")
    metadata = ours.put_hash(b"data", "lab")

    def utime(path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(os, "utime", utime)
    with pytest.raises(StoreInaccessible, match=r"store 'main': could not set the time of .*: Read-only"):
        ours.put_hash(b"data", "lab")
    assert ours.get_hash(metadata) == b"data"


def test_glob_characters_in_names_are_literal(ours: Registry) -> None:
    first, second = ours.put_hash(b"data", "a?"), ours.put_hash(b"data", "ab")
    third = ours.put_hash(b"data", "*")
    assert ours.delete_path(third["path"])
    assert ours.delete_path(first["path"])
    assert ours.get_hash(second) == b"data"


@patient
@given(SCHEMAS, st.binary(max_size=50), FOLDS)
def test_any_schema_holds_any_content(place: Path, schema: str, data: bytes, folds: list[int] | None) -> None:
    for ours in (in_directory(place / "any", subfolding=folds), in_memory("any", subfolding=folds)):
        metadata = ours.put_hash(data, schema)
        assert ours.get_hash(metadata) == data
        assert ours.delete_path(metadata["path"])


# --- directories -------------------------------------------------------------------------------------------

PUT = """
import sys
from shardcast.registry import Registry

place, content, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
ours = Registry({"default": "main", "main": {"protocol": "file", "location": place, "subfolding": [2]}})
print("ready", flush=True)
sys.stdin.readline()
for number in range(times):
    print(ours.put_hash((content % number).encode() * 400_000, "lab")["path"], flush=True)
"""


def putting(place: Path, content: str, times: int, **more: Any) -> subprocess.Popen[str]:
    """A process that waits for a line, and then puts."""
    return subprocess.Popen(
        [sys.executable, "-c", PUT, str(place), content, str(times)],
        env=processes.environment(PYTHONPATH=str(ROOT)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


def right(place: Path) -> list[str]:
    """The contents in a store, each of which is what its name says."""
    files = everything(place)
    contents = [path for path in files if re.fullmatch(r"[a-z2-7]{26}", path.rpartition("/")[2])]
    for path in contents:
        digest = base64.b32encode(hashlib.md5(files[path]).digest()).decode().lower().rstrip("=")
        assert path.endswith(digest)
    return contents


def test_concurrent_puts_of_processes_succeed(tmp_path: Path) -> None:
    writers = [putting(tmp_path, "same %d ", 12) for _ in range(2)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    said = [writer.communicate(timeout=120) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    assert said[0][0].split() == said[1][0].split()
    assert sorted(right(tmp_path)) == sorted(everything(tmp_path)) == sorted(said[0][0].split())


def test_killed_put_leaves_no_wrong_content(tmp_path: Path) -> None:
    put: list[str] = []
    for attempt in range(4):
        writer = putting(tmp_path, f"attempt {attempt} %d ", 10_000)
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
        while not (line := writer.stdout.readline()).startswith("_hash/"):
            assert line == "ready\n"
        put.append(line.strip())
        time.sleep(0.013 * attempt)  # to be somewhere else in the next put
        writer.send_signal(signal.SIGKILL)
        put += [line for line in writer.communicate(timeout=60)[0].splitlines() if line.startswith("_hash/")]
    assert set(put) <= set(right(tmp_path))
    ours = in_directory(tmp_path, subfolding=[2])
    for number in range(3):
        ours.put_hash(f"attempt 3 {number} ".encode() * 400_000, "lab")
    for path in set(everything(tmp_path)) - set(right(tmp_path)):
        assert re.search(r"/\.[0-9a-f]{16}\.part$", path)


def test_put_on_full_disk_keeps_nothing(tmp_path: Path) -> None:
    limit = 1_000_000
    writer = putting(
        tmp_path, "large %d ", 1, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    _, said = writer.communicate("\n", timeout=60)
    assert writer.returncode == 1
    assert "StoreInaccessible: store 'main': could not write" in said
    assert not everything(tmp_path)


def test_second_put_renews_the_age(tmp_path: Path) -> None:
    ours = in_directory(tmp_path)
    path = tmp_path / ours.put_hash(b"data", "lab")["path"]
    os.utime(path, (1000, 1000))
    ours.put_hash(b"data", "lab")
    assert path.stat().st_mtime > time.time() - 600


def test_recent_put_is_not_replaced_unverified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = in_directory(tmp_path)
    first = ours.put_hash(TWIN, "lab")
    real, looked = DirectoryBackend.get_buffer, []

    def get_buffer(self: DirectoryBackend, path: str) -> bytes:
        looked.append(path)
        if len(looked) == 1:
            raise MissingExternalFile("the other process puts just after this")
        return real(self, path)

    monkeypatch.setattr(DirectoryBackend, "get_buffer", get_buffer)
    with pytest.raises(HashCollision):
        ours.put_hash(OTHER_TWIN, "lab")
    assert ours.get_hash(first) == TWIN
    assert list(everything(tmp_path)) == [first["path"]]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_put_works_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def link(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.link", link)
    ours = in_directory(tmp_path)
    metadata = ours.put_hash(b"data", "lab")
    assert ours.put_hash(b"data", "lab") == metadata
    assert list(everything(tmp_path)) == [metadata["path"]]


def test_put_is_discarded_when_disk_returns_wrong_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = in_directory(tmp_path)

    def fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.ftruncate(descriptor, 3)

    monkeypatch.setattr("shardcast.registry.directory.os.fsync", fsync)
    with pytest.raises(StoreInaccessible, match="check the disk"):
        ours.put_hash(b"hello world", "lab")
    assert not everything(tmp_path)


def test_system_errors_become_registry_errors(tmp_path: Path) -> None:
    ours = in_directory(tmp_path)
    metadata = ours.put_hash(b"data", "lab")
    (tmp_path / metadata["path"]).unlink()
    (tmp_path / metadata["path"]).mkdir()
    for use in (lambda: ours.get_hash(metadata), lambda: ours.put_hash(b"data", "lab")):
        with pytest.raises(StoreInaccessible) as raised:
            use()
        assert isinstance(raised.value, ShardcastError)


# --- buckets -----------------------------------------------------------------------------------------------


def test_unreachable_server_is_reported() -> None:
    with contextlib.closing(links.Port()) as port:
        spec = {**BUCKET, **KEYS, "endpoint": port.address, "secure": False}
        ours = Registry({"default": "main", "main": spec})
        with pytest.raises(StoreInaccessible, match="store 'main': could not read s3://b/l/_hash/lab/"):
            ours.put_hash(b"data", "lab")


def test_missing_bucket_is_reported(s3: S3) -> None:
    ours = Registry({"default": "main", "main": {**s3.store(), "bucket": "nobodys"}})
    with pytest.raises(StoreInaccessible, match="could not write s3://nobodys/lab/_hash/lab"):
        ours.put_hash(b"data", "lab")


def test_second_put_of_object_renews_age_without_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = in_memory(str(tmp_path))
    path = ours.put_hash(b"data", "lab")["path"]
    objects = fsspec.filesystem("memory").store
    before = objects[f"{tmp_path}/{path}"]
    ours.put_hash(b"data", "lab")
    assert objects[f"{tmp_path}/{path}"] is before
    before.modified -= timedelta(hours=3)
    ours.put_hash(b"data", "lab")
    assert ours.get_store_backend().modified(path) > time.time() - 600


def test_proxy_of_environment_is_used(s3: S3) -> None:
    # The server answers to whole URLs, as a proxy does; nothing listens at the endpoint.
    spec = s3.store()
    through = {**spec, "endpoint": "127.0.0.1:9", "proxy_server": f"http://{s3.endpoint}"}
    metadata = Registry({"default": "main", "main": through}).put_hash(b"data", "lab")
    assert Registry({"default": "main", "main": spec}).get_hash(metadata) == b"data"


# --- DataJoint ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["file", "s3", "s3 with slashes"])
def shared(request: pytest.FixtureRequest, datajoint: DataJoint, tmp_path: Path) -> tuple[Registry, Any]:
    """Ours and theirs over one store."""
    spec: dict[str, Any] = {**FILE, "location": str(tmp_path), "subfolding": [2, 3]}
    if request.param == "s3":
        spec = request.getfixturevalue("s3").store(subfolding=[2, 3])
    elif request.param == "s3 with slashes":
        spec = request.getfixturevalue("s3").store(location="a//b/")
    stores = {"default": "main", "main": spec}
    datajoint.configure(stores)
    return Registry(stores), datajoint.hash_registry


def test_ours_and_datajoint_read_and_delete_each_others_content(shared: tuple[Registry, Any]) -> None:
    ours, theirs = shared
    for data in (b"", b"hello world", string.printable.encode() * 999):
        for store in (None, "main"):
            first = theirs.put_hash(data, "lab", store)
            assert ours.get_hash(first) == data
            second = ours.put_hash(data, "lab", store)
            assert {**second, "store": store} == {**first, "sha256": second["sha256"]}
            assert ours.delete_path(first["path"], store)
            assert not theirs.delete_path(first["path"], store)
            assert ours.put_hash(data, "lab", store) == second
            assert theirs.get_hash(second) == data
            assert theirs.put_hash(data, "lab", store) == first
            assert theirs.delete_path(second["path"], store)
            with pytest.raises(MissingExternalFile):
                ours.get_hash(first)


def test_ours_repairs_content_that_datajoint_leaves_corrupt(shared: tuple[Registry, Any]) -> None:
    ours, theirs = shared
    first = theirs.put_hash(b"hello world", "lab")
    corrupt(ours, first["path"])
    theirs.put_hash(b"hello world", "lab")
    with pytest.raises(HashMismatch):
        ours.get_hash(first)
    ours.put_hash(b"hello world", "lab")
    assert theirs.get_hash(first) == b"hello world"
