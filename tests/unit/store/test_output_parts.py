"""The file that was verified is the one that gets the name, whoever else works in the folder."""

from __future__ import annotations

import ast
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import shardcast
from shardcast import file_locks, file_owners
from shardcast.errors import LocalDiskError
from shardcast.file_identity import FileIdentity
from shardcast.filesystem import atomic_file, give_name, replace
from shardcast.nodes.output_records import trusted_identity
from shardcast.store import output_part
from shardcast.store.live_manifest import LiveManifest
from shardcast.store.output_file import OutputFile
from shardcast.temporary_files import create_private, temporary_name
from tests.support import payloads
from tests.support.filling import DATA, MANIFEST, fill, names, open_output
from tests.support.payloads import PIECE, SHARD, random_bytes

DAY = 86400.0
NEWER = random_bytes(len(DATA), seed=2)
NEWER_MANIFEST = payloads.manifest(NEWER, version="v2")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / ".model.bin.part"


async def download(output: Path) -> int:
    """Have the version in the output; return how many bytes were not there already."""
    with open_output(output) as opened:
        fetched = await fill(opened)
        await opened.complete(MANIFEST)
    return fetched


def grow_old(file: Path) -> None:
    os.utime(file, (time.time() - DAY - 60,) * 2)


# Other processes of this user


async def test_removed_and_recreated_part_keeps_downloads_separate(output: Path, part: Path) -> None:
    with open_output(output) as first:
        await fill(first)
        part.unlink()
        with open_output(output) as second:
            await fill(second, stop=SHARD)
            await first.complete(MANIFEST)
            assert output.read_bytes() == DATA
            await fill(second)
            await second.complete(MANIFEST)
    assert output.read_bytes() == DATA
    assert names(output.parent) == {"model.bin"}


@pytest.mark.parametrize("what", ["removed", "replaced", "a link", "a folder"])
async def test_unlinked_part_is_completed(what: str, output: Path, part: Path, tmp_path: Path) -> None:
    with open_output(output) as opened:
        await fill(opened)
        part.unlink()
        if what == "replaced":
            part.write_bytes(b"something else")
        elif what == "a link":
            part.symlink_to(tmp_path / "elsewhere")
        elif what == "a folder":
            part.mkdir()
        await opened.complete(MANIFEST)
        assert opened.final and FileIdentity.from_stat(opened.final).recorded == trusted_identity(output)
    assert output.read_bytes() == DATA
    assert stat.S_IMODE(output.stat().st_mode) == 0o666 & ~file_owners.umask()
    assert not (tmp_path / "elsewhere").exists()


async def test_recorded_identity_is_of_the_verified_file(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client gives the name to its file in the moment after this one did."""
    rename = os.rename

    def rename_and_replace(part: str, final: str) -> None:
        rename(part, final)
        Path(final).unlink()
        Path(final).write_bytes(b"another's")

    monkeypatch.setattr(os, "rename", rename_and_replace)
    with open_output(output) as opened:
        await fill(opened)
        await opened.complete(MANIFEST)
        assert opened.final and opened.final.st_size == len(DATA)
        assert FileIdentity.from_stat(opened.final).recorded != trusted_identity(output)


async def test_renamed_part_is_completed_without_hard_links(
    output: Path, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **how: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert await download(output) == len(DATA)
    with open_output(output, NEWER_MANIFEST) as opened:
        await fill(opened, NEWER, NEWER_MANIFEST)
        part.rename(output.parent / "moved")
        await opened.complete(NEWER_MANIFEST)
    assert output.read_bytes() == NEWER
    assert names(output.parent) == {"model.bin", "moved"}


async def test_part_killed_during_rename_is_resumed(output: Path, part: Path) -> None:
    with open_output(output) as opened:
        await fill(opened)
    os.link(part, temporary_name(output))
    assert await download(output) == 0
    assert names(output.parent) == {"model.bin"}


async def test_finished_file_is_not_overwritten_through_leftover_link(output: Path, part: Path) -> None:
    await download(output)
    os.link(output, part)
    with open_output(output, NEWER_MANIFEST) as opened:
        await fill(opened, NEWER, NEWER_MANIFEST)
        assert output.read_bytes() == DATA
        await opened.complete(NEWER_MANIFEST)
    assert output.read_bytes() == NEWER
    assert names(output.parent) == {"model.bin"}


# Locks that reach some processes only


@pytest.fixture
def lax_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every lock succeeds."""
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, how: None)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def on_machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Be on one of the machines that share the folder, each with locks of its own."""
    lock = fcntl.flock
    held: dict[tuple[int, int], str] = {}
    here = [""]

    def flock(descriptor: int, how: int) -> None:
        found = os.fstat(descriptor)
        key = (found.st_dev, found.st_ino)
        if held.setdefault(key, here[0]) == here[0]:
            lock(descriptor, how)

    def be_on(machine: str) -> None:
        here[0] = machine

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(output_part, "is_local", lambda descriptor: False)
    monkeypatch.setattr(output_part, "machine_id", lambda: here[0])
    be_on("a" * 16)
    return be_on


@pytest.mark.parametrize("locks", ["lax_locks", "no_locks"])
async def test_without_locks_two_downloads_are_not_mixed(
    locks: str, output: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(locks)
    with open_output(output) as first:
        await fill(first, stop=SHARD)
        with open_output(output, NEWER_MANIFEST) as second:
            await fill(second, NEWER, NEWER_MANIFEST)
            await fill(first)
            await second.complete(NEWER_MANIFEST)
            assert output.read_bytes() == NEWER
        await first.complete(MANIFEST)
    assert output.read_bytes() == DATA


@pytest.mark.parametrize("locks", ["lax_locks", "no_locks"])
async def test_without_locks_interrupted_part_is_copied(
    locks: str, output: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(locks)
    with open_output(output) as opened:
        await fill(opened, stop=SHARD + PIECE)
    (left,) = output.parent.glob(".model.bin.part-*[0-9a-f]")
    before = left.read_bytes()
    assert await download(output) == len(DATA) - SHARD - PIECE
    assert left.read_bytes() == before
    grow_old(left)
    assert await download(output) == 0
    assert names(output.parent) == {"model.bin"}


async def test_machines_sharing_a_folder_write_separate_parts(
    output: Path, on_machine: Callable[[str], None]
) -> None:
    with open_output(output) as first:
        await fill(first, stop=SHARD)
        on_machine("b" * 16)
        with open_output(output, NEWER_MANIFEST) as second:
            await fill(second, NEWER, NEWER_MANIFEST)
            await fill(first)
            await second.complete(NEWER_MANIFEST)
            assert output.read_bytes() == NEWER
        on_machine("a" * 16)
        await first.complete(MANIFEST)
    assert output.read_bytes() == DATA


async def test_part_of_other_machine_is_reused_and_removed_after_a_day(
    output: Path, on_machine: Callable[[str], None]
) -> None:
    with open_output(output) as opened:
        await fill(opened, stop=2 * SHARD)
    left = output.with_name(f".model.bin.part-{'a' * 16}")
    before = left.read_bytes()
    on_machine("b" * 16)
    assert await download(output) == len(DATA) - 2 * SHARD
    assert left.read_bytes() == before
    assert names(output.parent) == {"model.bin", left.name, f"{left.name}.manifest"}
    grow_old(left)
    await download(output)
    assert names(output.parent) == {"model.bin"}


async def test_machine_resumes_its_own_part(output: Path, on_machine: Callable[[str], None]) -> None:
    with open_output(output) as opened:
        await fill(opened, stop=SHARD)
    with open_output(output) as opened:
        assert names(output.parent) == {f".model.bin.part-{'a' * 16}", f".model.bin.part-{'a' * 16}.manifest"}
        assert await fill(opened) == len(DATA) - SHARD


async def test_part_of_earlier_release_is_only_read_on_shared_folder(
    output: Path, part: Path, on_machine: Callable[[str], None]
) -> None:
    part.write_bytes(DATA[:SHARD])
    assert await download(output) == len(DATA) - SHARD
    assert part.read_bytes() == DATA[:SHARD]


async def test_part_of_earlier_release_is_resumed(output: Path, part: Path) -> None:
    part.write_bytes(DATA[:SHARD])
    part.chmod(0o644)
    with open_output(output) as opened:
        assert names(output.parent) == {part.name, f"{part.name}.manifest"}
        assert await fill(opened) == len(DATA) - SHARD


def test_lock_on_local_disk_excludes_others(tmp_path: Path) -> None:
    file = tmp_path / "locked"
    with file.open("wb") as opened:
        assert not file_locks.excludes_others(file)
        assert file_locks.try_lock(opened.fileno()) is file_locks.Lock.TAKEN
        assert file_locks.excludes_others(file)
        assert file_locks.is_local(opened.fileno())
    proc = os.open("/proc/self/status", os.O_RDONLY)
    assert not file_locks.is_local(proc)
    os.close(proc)


# Other users


def make_writable(part: Path) -> None:
    part.chmod(0o666)


def make_group_writable(part: Path) -> None:
    part.chmod(0o664)


def link_again(part: Path) -> None:
    os.link(part, part.with_name("second name"))


def give_away(part: Path) -> None:
    os.chown(part, 12345, -1)


@pytest.mark.parametrize(
    "share",
    [make_writable, make_group_writable, link_again, pytest.param(give_away, marks=needs_root)],
)
async def test_part_writable_by_others_is_only_a_seed(
    share: Callable[[Path], None], output: Path, part: Path
) -> None:
    part.write_bytes(DATA[: SHARD + PIECE])
    share(part)
    with part.open("r+b") as others, open_output(output) as opened:
        assert await fill(opened) == len(DATA) - SHARD - PIECE
        others.write(b"wrong bytes, after they were verified")
        others.flush()
        await opened.complete(MANIFEST)
    assert output.read_bytes() == DATA


async def test_part_is_private_until_it_is_named(output: Path) -> None:
    with open_output(output) as opened:
        await fill(opened)
        (own,) = output.parent.glob(".model.bin.part")
        assert stat.S_IMODE(own.stat().st_mode) == 0o600
        await opened.complete(MANIFEST)
    assert stat.S_IMODE(output.stat().st_mode) == 0o666 & ~file_owners.umask()


@pytest.mark.parametrize("end", [".part", ".part.manifest", ".part.manifest.part", ".part-2"])
async def test_symlink_in_place_of_temporary_file_is_not_followed(
    end: str, output: Path, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    precious.chmod(0o604)
    output.with_name(f".model.bin{end}").symlink_to(precious)
    assert await download(output) == len(DATA)
    assert output.read_bytes() == DATA
    assert (precious.read_bytes(), stat.S_IMODE(precious.stat().st_mode)) == (b"precious", 0o604)


@pytest.mark.parametrize("planted", ["pipe", "folder", "socket"])
async def test_special_file_in_place_of_part_is_left_alone(planted: str, output: Path, part: Path) -> None:
    if planted == "pipe":
        os.mkfifo(part)
    elif planted == "folder":
        part.mkdir()
    else:
        os.mknod(part, stat.S_IFSOCK | 0o600)
    before = part.lstat()
    assert await download(output) == len(DATA)
    assert os.path.samestat(part.lstat(), before)


# Outputs that are links


async def test_symlinked_output_is_written_at_its_target(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    link = tmp_path / "model.bin"
    link.symlink_to("disk/weights.bin")
    for expected in (len(DATA), 0):  # the file is not there yet, then it is replaced
        assert await download(link) == expected
        assert link.readlink() == Path("disk/weights.bin")
        assert (disk / "weights.bin").read_bytes() == DATA
        assert names(tmp_path) == {"disk", "model.bin"}
        assert names(disk) == {"weights.bin"}


async def test_symlink_loop_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(LocalDiskError, match="a"):
        OutputFile(tmp_path / "a", LiveManifest.of(MANIFEST))
    assert names(tmp_path) == {"a", "b"}


@pytest.mark.parametrize("target", ["/dev/null", "pipe", "."])
async def test_symlink_to_special_file_is_refused(target: str, output: Path) -> None:
    os.mkfifo(output.parent / "pipe")
    output.symlink_to(target)
    with pytest.raises(LocalDiskError, match=r"is not a file|is a directory"):
        OutputFile(output, LiveManifest.of(MANIFEST))
    assert names(output.parent) == {"model.bin", "pipe"}


@needs_root
async def test_symlink_of_other_user_in_sticky_folder_is_refused(output: Path) -> None:
    output.parent.chmod(0o1777)
    output.symlink_to("precious")
    os.chown(output, 12345, -1, follow_symlinks=False)
    with pytest.raises(LocalDiskError, match="another user's link"):
        OutputFile(output, LiveManifest.of(MANIFEST))
    assert names(output.parent) == {"model.bin"}


@needs_root
async def test_file_of_other_user_in_sticky_folder_is_refused_early(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.parent.chmod(0o1777)
    output.touch()
    os.chown(output, 12345, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(LocalDiskError, match="another user's file"):
        OutputFile(output, LiveManifest.of(MANIFEST))
    assert names(output.parent) == {"model.bin"}


# Names


@pytest.mark.parametrize("length", [1, 189, 200, 236, 255])
async def test_temporary_names_fit_for_output_names_of_any_length(length: int, tmp_path: Path) -> None:
    output = tmp_path / ("é" * (length // 2) + "x" * (length % 2))
    with open_output(output) as opened, open_output(output) as other:
        await fill(opened, stop=SHARD)
        await fill(other, stop=SHARD)
    assert await download(output) == len(DATA) - SHARD
    assert names(tmp_path) == {output.name}


@pytest.mark.parametrize("name", ["model.bin-1a2b", "model.bin~1a2b3c4d", "model.bin.part", "model.bin.1"])
async def test_parts_of_outputs_with_similar_names_are_separate(name: str, output: Path) -> None:
    other = output.with_name(name)
    with open_output(other) as opened:
        await fill(opened, stop=SHARD)
    await download(output)
    assert await download(other) == len(DATA) - SHARD


def test_replaced_temporary_file_is_not_renamed(tmp_path: Path) -> None:
    part, final = tmp_path / "part", tmp_path / "final"
    final.write_bytes(b"before")
    descriptor = create_private(part)
    part.unlink()
    part.write_bytes(b"another's")
    with pytest.raises(FileNotFoundError, match="removed or replaced"):
        give_name(descriptor, part, final)
    os.close(descriptor)
    assert (final.read_bytes(), part.read_bytes()) == (b"before", b"another's")


def test_failed_write_keeps_the_existing_file(tmp_path: Path) -> None:
    final = tmp_path / "final"
    replace(final, b"before")
    with pytest.raises(OSError, match="full"), atomic_file(final) as descriptor:
        os.write(descriptor, b"half")
        raise OSError(28, "the disk is full")
    assert (final.read_bytes(), names(tmp_path)) == (b"before", {"final"})


_NAMING = {"rename", "replace", "renames", "link_to", "hardlink_to", "symlink_to", "link", "symlink", "move"}
_MAKING = {"mkstemp", "NamedTemporaryFile", "write_text", "write_bytes", "touch", "mknod"}
_TOLD_APART = re.compile(r"usage\.move\(|space\.link\(|events\.touch\(|self\.touch\(|aside\.touch\(")
"""Methods of our own with such names."""
_FLOOR = {"filesystem.py", "file_moves.py", "temporary_files.py"}
"""Modules that make temporary files and give names."""
_ALLOWED: dict[str, set[str]] = {
    "cli/demo.py": {"payload.open('wb')"},  # in a folder that was made for it
    "access/own_certificate.py": {"tempfile.NamedTemporaryFile(prefix='shardcast-')"},  # gone at once
    "file_copies.py": {"name.hardlink_to(known)"},
    "file_locks.py": {"os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, mode)"},
    "blobs/maintenance/gc.py": {"probe.touch()"},  # empty files, in folders of ours
    "blobs/directory/layout.py": {"marker.open('x')"},
    "blobs/directory/marks.py": {"note.touch()"},
    "blobs/maintenance/gc_roots.py": {"(place / digest).touch(exist_ok=False)"},
    "store/version_place.py": {"os.link(name, target, src_dir_fd=folder, follow_symlinks=False)"},
    "store/output_part.py": {"os.link(f'/proc/self/fd/{descriptor}', name, follow_symlinks=True)"},
    # Entries of a folder that has no name yet, by descriptors of their folders:
    "folders/finishing.py": {
        "os.link(first, name, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)",
        "os.symlink(entry.link, name, dir_fd=folder)",
    },
    "folders/name_folding.py": {
        "os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER, dir_fd=root)"
    },
    "folders/places.py": {"os.link(name, new, src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)"},
    # A whole folder, whose files and names were synced before:
    "folders/part_folder.py": {"content.rename(self.output)"},
    "folders/kept.py": {"folder.rename(removed)"},
    "store/special_files.py": {"link.symlink_to(path.parent, target_is_directory=True)"},
    "backup/client/cache_file.py": {"newest.replace(self._path)"},  # a cache: gone after a crash, read anew
    # What a backup gives back, below open descriptors, under a temporary name until it is right:
    "backup/client/restore_entries.py": {
        "os.symlink(entry.target, temporary, dir_fd=folder)",
        "os.mknod(temporary, 384 | _TYPES[entry.kind], device, dir_fd=folder)",
        "os.link(first, temporary_name(name), src_dir_fd=source, dst_dir_fd=folder, follow_symlinks=False)",
    },
    "backup/client/restore_places.py": {
        "os.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)",
        "os.open(temporary, flags | os.O_CREAT | os.O_EXCL, 384, dir_fd=folder)",
        "os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)",
    },
    # A cluster's notes of processes, which a start makes again:
    "cli/cluster/local_driver.py": {
        "(folder / 'log').open('wb')",
        "path.with_suffix('.new').write_text(json.dumps(asdict(record)))",
        "path.with_suffix('.new').replace(path)",
    },
}


def calls_around(tree: ast.AST) -> set[str]:
    """Return the calls that make a file or give a name without the modules that do both."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, ast.unparse(node.func.value)
        written = ast.unparse(node)
        if name in _MAKING | (_NAMING - {"replace"}):
            found.add(written)
        if name == "replace" and (owner == "os" or (len(node.args) == 1 and not node.keywords)):
            found.add(written)
        if name == "open" and ("O_CREAT" in written or any(f"'{mode}" in written for mode in "wxa")):
            found.add(written)
    return {one for one in found if not _TOLD_APART.search(one)}


def test_only_filesystem_modules_create_and_rename_files() -> None:
    package = Path(shardcast.__file__).parent
    around = {
        name: found
        for module in package.rglob("*.py")
        if (name := str(module.relative_to(package))) not in _FLOOR
        and (found := calls_around(ast.parse(module.read_text())))
    }
    assert around == _ALLOWED
