"""Attributes of files, folders, links and devices: read from the disk, and set on restored entries.

An ACL is one of the extended attributes (``system.posix_acl_access``), as Linux presents it.
"""

from __future__ import annotations

import errno
import functools
import grp
import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypedDict

MAX_ATTRIBUTES = 256 * 1024
"""Bytes of all extended attributes of one file: a folder's list of entries stays small."""
_LACKING = (errno.ENOTSUP, errno.ENOENT, errno.ENODATA, errno.ELOOP)
"""Errors of a file without extended attributes, or of a file removed meanwhile."""
_OF_SYSTEM = ("trusted.", "security.")
"""Extended attributes only root can set."""
_CAPABILITIES = "security.capability"
_SPECIAL = stat.S_ISUID | stat.S_ISGID
LEFT_OUT = "setuid or setgid left out; --privileged restores it, from a server that you trust"
_INHERITED = ("system.posix_acl_", "user.")
"""Extended attributes a new file inherits from its folder, or kept from an earlier restore."""


class Attributes(TypedDict, total=False):
    """Attributes of one file, under the names of the fields in its entry.

    Attributes:
        mode: permission bits, ``07777``.
        uid: number of the owner.
        gid: number of the group.
        user: name of the owner; missing where this machine knows none.
        group: name of the group; missing where this machine knows none.
        mtime: nanoseconds since 1970.
        xattrs: extended attributes; missing where there are none.
        problems: attributes that could not be read; missing where all could.
    """

    mode: int
    uid: int
    gid: int
    user: str
    group: str
    mtime: int
    xattrs: dict[str, bytes]
    problems: list[str]


@dataclass(frozen=True, slots=True)
class AttributeRights:
    """Attributes a restore may set.

    Attributes:
        owners: whether files get their owners; only root can set owners.
        privileged: whether a file may lend rights its reader lacks: setuid and setgid, for root also
            capabilities, other attributes of the system, and devices. A hostile server could make them up.
    """

    owners: bool = False
    privileged: bool = False

    @property
    def of_system(self) -> bool:
        """Whether devices and attributes of the system are restored."""
        return self.owners and self.privileged

    def allows_mode(self, found: os.stat_result, entry: Described) -> bool:
        """Return whether the mode of a file is the one that a restore of an entry would give it."""
        mode = stat.S_IMODE(found.st_mode)
        if mode == entry.mode:
            return True
        is_owners = self.owners or (found.st_uid, found.st_gid) == owner_of(entry)
        return mode == entry.mode & ~_SPECIAL and not (self.privileged and is_owners)

    def leaves_out(self, entry: Described) -> bool:
        """Return whether an entry has attributes of the system that a restore by these rights leaves out."""
        return not self.of_system and any(name.startswith(_OF_SYSTEM) for name in entry.xattrs)


class Described(Protocol):
    """An entry with the attributes of one file."""

    @property
    def mode(self) -> int:
        """Permission bits."""

    @property
    def uid(self) -> int:
        """Number of the owner."""

    @property
    def gid(self) -> int:
        """Number of the group."""

    @property
    def user(self) -> str | None:
        """Name of the owner."""

    @property
    def group(self) -> str | None:
        """Name of the group."""

    @property
    def mtime(self) -> int:
        """Nanoseconds since 1970."""

    @property
    def xattrs(self) -> Mapping[str, bytes]:
        """Extended attributes."""


def read_attributes(
    dir_fd: int, name: bytes, facts: os.stat_result, *, descriptor: int | None = None
) -> Attributes:
    """Return the attributes of an entry of an open folder.

    Args:
        dir_fd: the folder.
        name: of the entry; ``b"."`` for the folder itself. A link is not followed.
        facts: the result of ``stat`` for the entry.
        descriptor: of the entry, if the caller has opened the entry.
    """
    found = Attributes(
        mode=stat.S_IMODE(facts.st_mode), uid=facts.st_uid, gid=facts.st_gid, mtime=facts.st_mtime_ns
    )
    found.update(owner_names(facts.st_uid, facts.st_gid))
    problems: list[str] = []
    target = b"/proc/self/fd/%d/%s" % (dir_fd, name) if descriptor is None else descriptor
    if xattrs := dict(_read_xattrs(target, problems)):
        found["xattrs"] = xattrs
    if problems:
        found["problems"] = problems
    return found


def owner_names(uid: int, gid: int) -> Attributes:
    """Return the names of an owner and a group, as far as this machine knows them."""
    found = Attributes()
    if user := _user_name(uid):
        found["user"] = user
    if group := _group_name(gid):
        found["group"] = group
    return found


def has_xattrs(descriptor: int) -> bool:
    """Return whether an open file has extended attributes, or may have some that can't be listed."""
    try:
        return hasattr(os, "listxattr") and bool(os.listxattr(descriptor))
    except OSError as error:
        return error.errno not in _LACKING


def _read_xattrs(target: int | bytes, problems: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the extended attributes of a file, and add each unreadable one to ``problems``."""
    if not hasattr(os, "listxattr"):
        return
    follow = isinstance(target, int)
    try:
        names = os.listxattr(target, follow_symlinks=follow)
    except OSError as error:
        if error.errno not in _LACKING:
            problems.append(f"xattrs not readable: {error.strerror}")
        return
    room = MAX_ATTRIBUTES
    for name in sorted(names):
        try:
            name.encode()
            value = os.getxattr(target, name, follow_symlinks=follow)
        except UnicodeEncodeError:
            problems.append(f"xattr not readable: the name {name!a} is not UTF-8")
            continue
        except OSError as error:
            if error.errno not in _LACKING:
                problems.append(f"xattr not readable: {name}: {error.strerror}")
            continue
        room -= len(value) + len(name)
        if room < 0:
            problems.append(
                f"xattr not saved: {name}, and any after it: all together have more than "
                f"{MAX_ATTRIBUTES} bytes"
            )
            return
        yield name, value


def apply_attributes(target: int | bytes, entry: Described, rights: AttributeRights) -> list[str]:
    """Set the attributes of a new file, and return a sentence for each attribute that could not be set.

    The order matters: changing the owner clears setuid and capabilities, and an ACL sets the group's bits.

    Args:
        target: a descriptor, or ``name_of`` a descriptor opened with ``O_PATH``.
        entry: the attributes.
        rights: the attributes that may be set.
    """
    problems: list[str] = []
    facts = os.stat(target)
    if rights.owners:
        facts = _set_owner(target, facts, entry, problems)
    _set_xattrs(target, entry.xattrs, rights, problems)
    if not stat.S_ISLNK(facts.st_mode):
        try:
            os.chmod(target, _allowed_mode(entry, facts, rights, problems))
        except OSError as error:
            problems.append(f"mode not restored: {_reason(error)}")
    try:
        os.utime(target, ns=(entry.mtime, entry.mtime))
    except (OverflowError, OSError) as error:
        problems.append(f"time not restored: {_reason(error)}")
    return problems


def name_of(descriptor: int) -> bytes:
    """Return a path to exactly the file of a descriptor opened with ``O_PATH``."""
    return b"/proc/self/fd/%d" % descriptor


def _set_owner(
    target: int | bytes, facts: os.stat_result, entry: Described, problems: list[str]
) -> os.stat_result:
    """Set the owner and the group, and return the new state."""
    uid, gid = owner_of(entry)
    if (facts.st_uid, facts.st_gid) == (uid, gid):
        return facts
    try:
        os.chown(target, uid, gid)
    except (OSError, OverflowError) as error:
        problems.append(f"owner not restored: {_reason(error)}")
    return os.stat(target)


def owner_of(entry: Described) -> tuple[int, int]:
    """Return the numbers of an entry's owner and group: those of their names, where this machine has them."""
    uid = _user_number(entry.user) if entry.user else None
    gid = _group_number(entry.group) if entry.group else None
    return entry.uid if uid is None else uid, entry.gid if gid is None else gid


def _allowed_mode(
    entry: Described, facts: os.stat_result, rights: AttributeRights, problems: list[str]
) -> int:
    """Return the mode, without setuid and setgid that the rights forbid or that would serve another owner.

    Folders need no rights for setgid: new files in the folder get its group, and no process gets more rights.
    """
    if not rights.privileged and entry.mode & _SPECIAL and not stat.S_ISDIR(facts.st_mode):
        problems.append(LEFT_OUT)
        return entry.mode & ~_SPECIAL
    uid, gid = owner_of(entry)
    mode = entry.mode
    if facts.st_uid != uid:
        mode &= ~stat.S_ISUID
    if facts.st_gid != gid:
        mode &= ~stat.S_ISGID
    if mode != entry.mode:
        problems.append("setuid or setgid left out: the file has another owner")
    return mode


def _set_xattrs(
    target: int | bytes, xattrs: Mapping[str, bytes], rights: AttributeRights, problems: list[str]
) -> None:
    """Set the extended attributes, and remove the ones a new file inherited from its folder."""
    if not hasattr(os, "setxattr"):
        if xattrs:
            problems.append("xattrs not restored: this system has none")
        return
    try:
        present = os.listxattr(target)
    except OSError:  # a file system without them; the first one to be set says so
        present = []
    for name in (name for name in present if name not in xattrs and name.startswith(_INHERITED)):
        try:
            os.removexattr(target, name)
        except OSError as error:
            problems.append(f"xattr not removed: {name}: {error.strerror}")
    for name, value in xattrs.items():
        if not rights.of_system and name.startswith(_OF_SYSTEM):
            if name == _CAPABILITIES:
                problems.append("capabilities left out; root restores them by --privileged")
            continue
        try:
            os.setxattr(target, name, value)
        except (OSError, ValueError) as error:
            problems.append(f"xattr not restored: {name}: {_reason(error)}")


def _reason(error: OSError | ValueError | OverflowError) -> str:
    """Return an error in words, without the file's name; the caller adds the name."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


@functools.lru_cache(maxsize=1024)
def _user_name(number: int) -> str | None:
    try:
        return pwd.getpwuid(number).pw_name
    except (KeyError, OverflowError):
        return None


@functools.lru_cache(maxsize=1024)
def _group_name(number: int) -> str | None:
    try:
        return grp.getgrgid(number).gr_name
    except (KeyError, OverflowError):
        return None


@functools.lru_cache(maxsize=1024)
def _user_number(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        return None


@functools.lru_cache(maxsize=1024)
def _group_number(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        return None
