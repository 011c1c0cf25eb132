"""The hash of content, schemas' names, and the paths of both in a store."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence

from shardcast.errors import InvalidName

HASH_PREFIX = "_hash"
"""The section of a store with hash-addressed content, where the store doesn't name another."""

_HASH = re.compile(r"[a-z2-7]{26}", re.ASCII)
_HASH_LENGTH = 26
_LONGEST_NAME = 255
"""Bytes of a folder's name on most file systems."""

Buffer = bytes | bytearray | memoryview


def compute_hash(data: Buffer) -> str:
    """Return the hash of content: its MD5 in Base32, 26 lower-case characters without padding.

    The hash finds equal content and proves nothing, since content of a given MD5 can be made.

    Raises:
        TypeError: ``data`` is not bytes.
    """
    digest = hashlib.md5(data, usedforsecurity=False).digest()
    return base64.b32encode(digest).decode("ascii").rstrip("=").lower()


def is_hash(text: str) -> bool:
    """Return whether a text can be the hash of content."""
    return _HASH.fullmatch(text) is not None


def build_hash_path(
    content_hash: str,
    schema_name: str,
    subfolding: Sequence[int] | None = None,
    *,
    hash_prefix: str = HASH_PREFIX,
) -> str:
    """Return the path, relative to its store, of content in a schema: ``_hash/SCHEMA/[FOLD/…]HASH``.

    Args:
        content_hash: the result of ``compute_hash``.
        schema_name: the schema; each schema has its own files.
        subfolding: lengths of the folders' names, consecutive parts of the hash: ``(2, 2)`` for
            ``_hash/lab/l2/3d/l23d…``. None, or an empty sequence, for no folders.
        hash_prefix: the section of the store.

    Raises:
        InvalidName: the hash, the schema's name or the subfolding is impossible.
    """
    if not is_hash(content_hash):
        raise InvalidName(f"{content_hash!r} is not the hash of content: 26 characters of a-z and 2-7")
    folds = []
    start = 0
    for length in checked_subfolding(subfolding) or ():
        folds.append(content_hash[start : start + length])
        start += length
    return "/".join([hash_prefix, checked_schema(schema_name), *folds, content_hash])


def checked_subfolding(subfolding: Sequence[int] | None) -> tuple[int, ...] | None:
    """Return a subfolding after checking that each folder gets a name.

    Raises:
        InvalidName: a length is no positive number, or no characters of the hash are left for a folder's
            name.
    """
    if subfolding is None:
        return None
    whole = isinstance(subfolding, Sequence) and all(
        type(length) is int and length > 0 for length in subfolding
    )
    if not whole:
        raise InvalidName(
            f"{subfolding!r} is not a subfolding: a list of positive whole numbers, like [2, 2]"
        )
    if sum(subfolding[:-1]) >= _HASH_LENGTH:
        raise InvalidName(
            f"the subfolding {list(subfolding)} leaves nothing of the hash's {_HASH_LENGTH} characters "
            "for its last folder; leave that one out"
        )
    return tuple(subfolding)


def checked_schema(name: str) -> str:
    """Return a schema's name after checking that one folder can have this name.

    Raises:
        InvalidName: the name is no text, is empty, begins with a dot, is too long, or has a slash, a
            backslash, a control character or a surrogate.
    """
    if not isinstance(name, str):
        raise InvalidName(f"a schema's name is text, not {type(name).__name__}")
    why = _wrong(name)
    if not name:
        why = "it is empty"
    elif "/" in name:
        why = "it has a / in it"
    elif name.startswith("."):
        why = "names that begin with a dot are not for schemas"
    elif not why and len(name.encode()) > _LONGEST_NAME:
        why = f"it has more than {_LONGEST_NAME} bytes"
    if why:
        raise InvalidName(f"{name!r} can't be the name of a schema: {why}")
    return name


def checked_path(path: str) -> str:
    """Return a stored path after checking that it stays in the store.

    Raises:
        InvalidName: the path is no text, is empty, absolute or a folder's, has ``.`` or ``..`` between its
            slashes, or has a backslash, a control character or a surrogate.
    """
    if not isinstance(path, str):
        raise InvalidName(f"a path is text, not {type(path).__name__}")
    why = _wrong(path)
    if not path:
        why = "it is empty"
    elif path.startswith("/"):
        why = "it is absolute"
    elif path.endswith("/"):
        why = "it is a folder's"
    elif {".", ".."} & set(path.split("/")):
        why = "it has . or .. in it"
    if why:
        raise InvalidName(f"{path!r} can't be a path in a store: {why}")
    return path


def _wrong(name: str) -> str:
    """Return a sentence about forbidden characters in a name; empty for a right name."""
    if "\\" in name:
        return "it has a backslash in it"
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "it has control characters in it"
    if any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        return "it has half a character in it (a surrogate)"
    return ""
