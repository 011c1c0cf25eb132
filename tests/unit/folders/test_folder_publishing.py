"""A folder becomes a version: its tar as shards, its entries in the manifest; a change aborts it by name."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from shardcast.errors import LocalDiskError, PayloadChanged, UsageError
from shardcast.folders import list_plan, publishing
from shardcast.folders.contents import folder_layout
from shardcast.folders.layout import FileRange, FolderLayout
from shardcast.folders.publishing import folder_name, publish_folder
from shardcast.folders.survey import SurveyRules
from shardcast.protocol.lines import MAX_LINE
from shardcast.protocol.manifest import Manifest
from shardcast.protocol.manifest_reader import parse
from shardcast.sharding.publication import Cancelled, PayloadDescription, PublishProgress
from shardcast.store.data_dir import DataDir
from shardcast.store.open_version import OpenVersion
from shardcast.store.versions import VersionFolders
from tests.support import payloads
from tests.support.folder_trees import FolderTree, folder_trees, read_tree

MIB = 1 << 20


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[VersionFolders]:
    directory = DataDir(tmp_path / "data", "origin")
    yield VersionFolders(directory)
    directory.close()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    root = tmp_path / "model"
    (root / "sub").mkdir(parents=True)
    (root / "a.json").write_bytes(b"{}")
    (root / "large.bin").write_bytes(os.urandom(MIB + 1000))
    (root / "sub" / "b.txt").write_bytes(b"bbbb")
    (root / "sub" / "empty").write_bytes(b"")
    return root


def publish(
    folders: VersionFolders, root: Path, shard_size: int = MIB, **rules: Any
) -> tuple[Manifest, bytes]:
    """Publish a folder; return its manifest and its payload."""
    opened = folders.open(folders.data_dir.allot())
    described = PayloadDescription(payloads.ORIGIN, shard_size)
    manifest = publish_folder(root, opened, described, PublishProgress(), rules=SurveyRules(**rules))
    opened.finish(manifest)
    return manifest, stored(opened, manifest)


def stored(opened: OpenVersion, manifest: Manifest) -> bytes:
    """Return the payload from the shards on the disk."""
    spans = [opened.shard(shard.number) for shard in manifest.shards]
    found = []
    for span in spans:
        assert span
        with span.path.open("rb") as file:
            file.seek(span.offset)
            found.append(file.read(span.length))
    return b"".join(found)


def expected(tree: FolderTree, shard_size: int) -> bytes:
    layout = FolderLayout(tree.table, shard_size)

    def part(found: bytes | FileRange) -> bytes:
        if isinstance(found, bytes):
            return found
        return tree.content(found.index)[found.offset : found.offset + found.length]

    return b"".join(map(part, layout.parts(0, layout.size)))


@settings(deadline=None, max_examples=25)
@given(folder_trees())
def test_shards_are_the_folders_tar_and_the_manifest_lists_it(tree: FolderTree) -> None:
    with tempfile.TemporaryDirectory() as top:
        root = tree.write(Path(top) / "tree")
        directory = DataDir(Path(top) / "data", "origin")
        manifest, payload = publish(VersionFolders(directory), root, 100_000)
        directory.close()
        assert payload == expected(tree, 100_000)
        assert manifest.digests["sha256"] == hashlib.sha256(payload).hexdigest()
        assert parse(manifest.raw) == manifest
        layout = folder_layout(manifest)
        assert layout and list(layout.table) == list(tree.table)
        for index in layout.small_files():
            assert layout.table.digest(index) == hashlib.sha256(tree.content(index)).digest()
        assert all(len(line) < MAX_LINE for line in manifest.raw.splitlines())


@settings(deadline=None, max_examples=10)
@given(folder_trees())
def test_tar_program_gives_the_folder_back(tree: FolderTree) -> None:
    with tempfile.TemporaryDirectory() as top:
        root = tree.write(Path(top) / "tree")
        directory = DataDir(Path(top) / "data", "origin")
        _, payload = publish(VersionFolders(directory), root, 100_000)
        directory.close()
        (Path(top) / "out").mkdir()
        subprocess.run(["tar", "-xpf", "-", "-C", f"{top}/out"], input=payload, check=True)
        assert read_tree(Path(top) / "out") == tree.nodes()


def test_header_names_the_folder_and_lines_stand_in_their_order(folders: VersionFolders, model: Path) -> None:
    manifest, _ = publish(folders, model)
    facts = manifest.header.folder
    assert facts and (facts.name, facts.entries) == ("model", 5)
    assert (manifest.header.name, manifest.header.kind) == ("model.tar", "file")
    kinds = [next(iter(line.split(b":", 1)[0].strip(b'{"').split())) for line in manifest.raw.splitlines()]
    assert kinds == [
        *(b"format", b"entries"),
        *(b"shard", b"file_digests"),  # a.json
        *(b"shard", b"shard"),  # large.bin
        *(b"shard", b"file_digests", b"complete"),
    ]


def test_same_tree_gives_the_same_digest_whoever_publishes_it(folders: VersionFolders, model: Path) -> None:
    first, _ = publish(folders, model)
    again = model.parent / "again"
    (again / "sub").mkdir(parents=True)
    for path in sorted(model.rglob("*")):
        if path.is_file():
            copy = again / path.relative_to(model)
            copy.write_bytes(path.read_bytes())
            os.utime(copy, (0, path.stat().st_mtime // 1 + 0.7))
    second, _ = publish(folders, again)
    assert first.digests == second.digests
    os.utime(again / "a.json", (0, 0))
    assert publish(folders, again)[0].digests != first.digests
    assert (
        publish(folders, again, mtimes=False)[0].digests == publish(folders, model, mtimes=False)[0].digests
    )


def test_empty_folder_is_a_version(folders: VersionFolders, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    manifest, payload = publish(folders, tmp_path / "nothing")
    assert payload == bytes(1024)
    assert folder_layout(manifest)


class During(FolderLayout):
    """A layout that runs a function when the bytes behind an offset are asked for."""

    change: Callable[[], None]
    at: int

    def parts(self, start: int, end: int) -> Iterator[bytes | FileRange]:
        if end > During.at:
            During.at = 1 << 62
            During.change()
        yield from super().parts(start, end)


def replace_by_link(root: Path) -> None:
    (root / "sub" / "b.txt").unlink()
    (root / "sub" / "b.txt").symlink_to("../a.json")


def replace_folder_by_link(root: Path) -> None:
    (root / "sub").rename(root.parent / "elsewhere")
    (root / "sub").symlink_to(root.parent / "elsewhere")


def replace_by_pipe(root: Path) -> None:
    (root / "sub" / "b.txt").unlink()
    os.mkfifo(root / "sub" / "b.txt")


def grow(root: Path) -> None:
    with (root / "sub" / "b.txt").open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda root: (root / "sub/b.txt").unlink(), "'sub/b.txt' is not there any more"),
        (lambda root: (root / "a.json").unlink(), "'a.json' is not there any more"),
        (lambda root: (root / "a.json").write_bytes(b"[]"), "'a.json' was (written to|changed) or replaced"),
        (lambda root: os.truncate(root / "sub/b.txt", 1), "'sub/b.txt' was written to"),
        (lambda root: (root / "sub/empty").write_bytes(b"x"), "'sub/empty' was written to"),
        (lambda root: (root / "sub/new").write_bytes(b""), "'sub/new' is new"),
        (grow, "'sub/b.txt' was written to"),
        (replace_by_link, "'sub/b.txt' is not there any more"),
        (replace_folder_by_link, "'sub/b.txt' is not there any more"),
        (replace_by_pipe, "'sub/b.txt' was written to"),
    ],
)
def test_change_while_the_folder_is_read_aborts_the_version_by_name(
    change: Callable[[Path], None],
    words: str,
    folders: VersionFolders,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing, "FolderLayout", During)
    During.change, During.at = staticmethod(lambda: change(model)), MIB  # when large.bin is read
    with pytest.raises(PayloadChanged, match=words):
        publish(folders, model)


def test_large_file_that_shrinks_while_it_is_read_aborts_the_version(
    folders: VersionFolders, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "FolderLayout", During)
    During.change, During.at = staticmethod(lambda: os.truncate(model / "large.bin", 10)), MIB + 2000
    with pytest.raises(PayloadChanged, match=r"'large.bin' has less than its 1049576 bytes"):
        publish(folders, model)


def test_large_file_that_grows_while_it_is_read_aborts_the_version(
    folders: VersionFolders, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "FolderLayout", During)
    During.change, During.at = staticmethod(lambda: os.truncate(model / "large.bin", 2 * MIB)), MIB + 2000
    with pytest.raises(PayloadChanged, match=r"'large.bin' has more than its 1049576 bytes"):
        publish(folders, model)


def test_file_of_no_bytes_that_gives_some_aborts_the_version(folders: VersionFolders) -> None:
    if not Path("/proc/tty/ldisc").exists():
        pytest.skip("there is no /proc/tty here")
    with pytest.raises(LocalDiskError, match=r"than its 0 bytes|was written to|could not read"):
        publish(folders, Path("/proc/tty"))


def test_data_directory_inside_the_folder_is_refused_unless_left_out(
    folders: VersionFolders, tmp_path: Path, model: Path
) -> None:
    root = folders.data_dir.root
    with pytest.raises(LocalDiskError, match=r"'data/' is the data directory.*--exclude"):
        publish(folders, tmp_path, forbidden=root)
    manifest, _ = publish(folders, tmp_path, forbidden=root, exclude=("/data/",))
    assert manifest.header.folder


def test_cancelled_broadcast_of_a_folder_ends(folders: VersionFolders, model: Path) -> None:
    progress = PublishProgress(cancelled=True)
    with pytest.raises(Cancelled):
        publish_folder(
            model, folders.open(1), PayloadDescription(payloads.ORIGIN), progress, rules=SurveyRules()
        )


def test_list_that_fits_no_manifest_is_refused_before_reading(
    folders: VersionFolders, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_plan, "MAX_PLAIN_LINES", 1)
    monkeypatch.setattr(list_plan, "MAX_FOLDER_LINES", 1)
    with pytest.raises(LocalDiskError, match=r"with its 5 entries: .*parts one by one, or pipe a tar"):
        publish(folders, model)


def test_list_of_too_many_lines_is_packed(
    folders: VersionFolders, model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain, payload = publish(folders, model)
    monkeypatch.setattr(list_plan, "MAX_PLAIN_LINES", 1)
    packed, same = publish(folders, model)
    assert "before shardcast 0.4" in caplog.text
    layouts = [folder_layout(manifest) for manifest in (plain, packed)]
    assert payload == same and b'"entries":"' in packed.raw and b'"entries":"' not in plain.raw
    assert [list(layout.table) for layout in layouts if layout] == [list(layouts[0].table)] * 2  # type: ignore[union-attr]
    assert all(map(layouts[1].table.digest, layouts[1].small_files()))  # type: ignore[union-attr]


def test_digests_share_lines_where_shards_are_many(
    folders: VersionFolders, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(list_plan, "MAX_PLAIN_LINES", 2)
    manifest, _ = publish(folders, model)
    lines = [line for line in manifest.raw.splitlines() if b"file_digests" in line]
    layout = folder_layout(manifest)
    assert len(lines) == 1 and layout and all(map(layout.table.digest, layout.small_files()))


def test_pattern_that_is_none_is_refused(folders: VersionFolders, model: Path) -> None:
    with pytest.raises(UsageError):
        publish(folders, model, exclude=("!",))


@pytest.mark.parametrize(
    ("path", "name"),
    [("/a/model", "model"), ("/a/b/..", "a"), ("/", "folder"), ("/a/x\ny", "x_y"), ("/a/..", "folder")],
)
def test_folder_is_named_for_people(path: str, name: str) -> None:
    assert folder_name(Path(path)) == name
