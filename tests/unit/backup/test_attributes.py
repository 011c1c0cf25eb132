"""Attributes read from files of the disk, and given to others."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.backup import attributes
from shardcast.backup.attributes import (
    AttributeRights,
    Attributes,
    apply_attributes,
    name_of,
    owner_of,
    read_attributes,
)

_ACL_OF_USER_1 = bytes.fromhex(
    "0200000001000600ffffffff020004000100000004000400ffffffff10000600ffffffff20000000ffffffff"
)
"""rw-, r-- for user 1, r-- for the group, mask rw-, nothing for others."""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")
IS_ROOT = os.geteuid() == 0


@dataclass
class Described:
    """Attributes to give to a file."""

    mode: int = 0o644
    uid: int = field(default_factory=os.geteuid)
    gid: int = field(default_factory=os.getegid)
    user: str | None = None
    group: str | None = None
    mtime: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


def _read(path: Path) -> Attributes:
    parent = os.open(path.parent, os.O_RDONLY)
    try:
        return read_attributes(parent, os.fsencode(path.name), path.lstat())
    finally:
        os.close(parent)


def _apply(path: Path, entry: Described, *, owners: bool = False, privileged: bool = True) -> list[str]:
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        return apply_attributes(name_of(descriptor), entry, AttributeRights(owners, privileged))
    finally:
        os.close(descriptor)


def _has_xattrs(path: Path) -> bool:
    try:
        os.setxattr(path, "user.probe", b"")
        os.removexattr(path, "user.probe")
    except OSError:
        return False
    return True


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a file on a file system that has extended attributes."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    if not _has_xattrs(path):
        pytest.skip("the file system of temporary files has no extended attributes")
    return path


@given(mode=st.integers(0, 0o1777), mtime=st.integers(-(10**18), 4 * 10**18), value=st.binary(max_size=200))
def test_attributes_given_to_a_file_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, mode: int, mtime: int, value: bytes
) -> None:
    path = tmp_path_factory.mktemp("given") / "file"
    path.touch()
    mode |= 0 if IS_ROOT else 0o400  # only root can read back what its owner may not read
    xattrs = {"user.a": value} if _has_xattrs(path) else {}
    assert _apply(path, Described(mode, mtime=mtime, xattrs=xattrs)) == []
    found = _read(path)
    assert (found["mode"], found["mtime"], found.get("xattrs", {})) == (mode, path.stat().st_mtime_ns, xattrs)
    assert abs(found["mtime"] - mtime) < 10**9  # a file system may round


def test_acl_of_a_file_is_kept(file: Path) -> None:
    entry = Described(0o660, xattrs={"system.posix_acl_access": _ACL_OF_USER_1})
    assert _apply(file, entry) == []
    assert _read(file)["xattrs"] == entry.xattrs
    assert stat.S_IMODE(file.stat().st_mode) == 0o660


def test_attributes_that_a_new_file_inherited_are_removed(file: Path) -> None:
    os.setxattr(file, "user.inherited", b"1")
    os.setxattr(file, "system.posix_acl_access", _ACL_OF_USER_1)
    assert _apply(file, Described(0o600)) == []
    assert os.listxattr(file) == []


def test_symbolic_link_is_not_followed(file: Path) -> None:
    os.setxattr(file, "user.a", b"1")
    file.chmod(0o600)
    os.utime(file, ns=(5, 5))
    link = file.with_name("link")
    link.symlink_to(file)
    assert "xattrs" not in _read(link)
    assert _apply(link, Described(0o777, mtime=7 * 10**9 + 1)) == []
    assert link.lstat().st_mtime_ns == 7 * 10**9 + 1
    assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_mtime_ns) == (0o600, 5)
    assert os.listxattr(file) == ["user.a"]


def test_fifo_gets_its_mode_and_time(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert _apply(fifo, Described(0o622, mtime=3)) == []
    found = _read(fifo)
    assert (found["mode"], found["mtime"]) == (0o622, 3)


def test_attributes_of_an_open_file_need_no_name(file: Path) -> None:
    os.setxattr(file, "user.a", b"1")
    with file.open("rb") as opened:
        file.unlink()
        found = read_attributes(-1, b"gone", os.fstat(opened.fileno()), descriptor=opened.fileno())
    assert found["xattrs"] == {"user.a": b"1"}


def test_attributes_beyond_the_bound_are_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attributes, "MAX_ATTRIBUTES", 250)
    for number in range(3):
        os.setxattr(file, f"user.{number}", bytes(100))
    found = _read(file)
    assert list(found["xattrs"]) == ["user.0", "user.1"]
    assert found["problems"] == [
        "xattr not saved: user.2, and any after it: all together have more than 250 bytes"
    ]


@needs_root
def test_setuid_survives_a_change_of_the_owner(file: Path) -> None:
    assert _apply(file, Described(0o4755, uid=12, gid=34), owners=True) == []
    found = file.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (12, 34, 0o4755)


def test_setuid_is_left_out_where_the_owner_is_another(file: Path) -> None:
    problems = _apply(file, Described(0o6755, uid=os.geteuid() + 1, gid=os.getegid() + 1))
    assert problems == ["setuid or setgid left out: the file has another owner"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o755


def test_attributes_for_root_are_left_out_elsewhere(file: Path) -> None:
    assert _apply(file, Described(xattrs={"trusted.a": b"1", "user.b": b"2"})) == []
    assert os.listxattr(file) == ["user.b"]


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6700])
def test_setuid_needs_privileges(file: Path, mode: int) -> None:
    """A hostile server could make up a file that lends this user's rights to others."""
    (problem,) = _apply(file, Described(mode), privileged=False)
    assert "--privileged" in problem
    assert stat.S_IMODE(file.stat().st_mode) == mode & 0o1777


def test_setgid_of_folders_needs_no_privileges(tmp_path: Path) -> None:
    assert _apply(tmp_path, Described(0o2755), privileged=False) == []
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o2755


@needs_root
@pytest.mark.parametrize("privileged", [False, True])
def test_capabilities_need_privileges(file: Path, privileged: bool) -> None:
    raw_sockets = bytes.fromhex("0100000200200000000000000000000000000000")
    entry = Described(xattrs={"security.capability": raw_sockets, "trusted.a": b"1"})
    problems = _apply(file, entry, owners=True, privileged=privileged)
    assert [problem.split(";")[0] for problem in problems] == (
        [] if privileged else ["capabilities left out"]
    )
    assert sorted(os.listxattr(file)) == (["security.capability", "trusted.a"] if privileged else [])


def test_owner_is_found_by_name_then_by_number() -> None:
    assert owner_of(Described(uid=77, gid=78, user="root", group="no-such-group")) == (0, 78)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (Described(mtime=10**40), "time not restored"),
        (Described(xattrs={"nonsense": b"1"}), "xattr not restored: nonsense"),
        (Described(xattrs={"user.\0": b"1"}), "xattr not restored: user."),
    ],
)
def test_attributes_that_no_system_has_are_problems(file: Path, entry: Described, problem: str) -> None:
    (found,) = _apply(file, entry)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("owners", "privileged", "is_own", "allowed"),
    [
        (False, False, True, True),
        (False, True, True, False),
        (False, True, False, True),
        (True, False, True, True),
        (True, True, False, False),
    ],
)
def test_file_without_its_setuid_is_equal_where_a_restore_would_leave_it_out(
    file: Path, owners: bool, privileged: bool, is_own: bool, allowed: bool
) -> None:
    file.chmod(0o755)
    found = file.stat()
    entry = Described(0o4755, uid=found.st_uid if is_own else found.st_uid + 1, gid=found.st_gid)
    assert AttributeRights(owners, privileged).allows_mode(found, entry) == allowed
    file.chmod(0o4755)
    assert AttributeRights(owners, privileged).allows_mode(file.stat(), entry)
