"""Tags of versions: names that a publisher gives them, kept among the metadata of the manifest.

::

    {"metadata": {"tags": ["step-1200", "best"], "loss": 0.12}}

Nodes that know no tags carry them as they carry all metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from shardcast.errors import UsageError

TAGS_KEY = "tags"
"""The key of the metadata that has the tags."""
MAX_TAGS = 16
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]{0,63}", re.ASCII)
_RESERVED = re.compile(r"latest|v[+-]?[0-9]+", re.ASCII | re.IGNORECASE)
"""Names that mean versions in other ways, or are slips of the pen for them."""


def is_tag(value: object) -> TypeGuard[str]:
    """Return whether a value is a tag.

    A tag has 1 to 64 ASCII letters, digits and ``._+=-``, a letter or digit first. ``latest``, ``v7`` and
    ``v-7`` are none.
    """
    return isinstance(value, str) and bool(_TAG.fullmatch(value)) and not _RESERVED.fullmatch(value)


def add_tags(metadata: Mapping[str, Any] | None, tags: Sequence[str]) -> Mapping[str, Any] | None:
    """Return metadata with the tags of a version in them; those given where there are no tags.

    Raises:
        UsageError: one is no tag, there are too many, ``tags`` is a text, or the metadata are no JSON object
            or have tags already.
    """
    if isinstance(tags, str):
        raise UsageError(f"{tags!r}: give a list of tags")
    if not tags:
        return metadata
    if metadata is not None and not isinstance(metadata, Mapping):
        raise UsageError(f"metadata must be a JSON object, not {type(metadata).__name__}")
    for tag in tags:
        if not is_tag(tag):
            raise UsageError(
                f"{tag!r} can't be a tag: write at most 64 letters, digits and ._+=-, a letter or digit "
                "first, and not latest or v7, which mean versions already"
            )
    unique = list(dict.fromkeys(tags))
    if len(unique) > MAX_TAGS:
        raise UsageError(f"{len(unique)} tags are too many: a version has at most {MAX_TAGS}")
    if metadata is not None and TAGS_KEY in metadata:
        raise UsageError(f"the metadata have the key {TAGS_KEY!r} already; give the tags in one way")
    return {**(metadata or {}), TAGS_KEY: unique}


def tags_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tags in the metadata of a manifest; what is none there counts as metadata only."""
    listed = metadata.get(TAGS_KEY)
    if not isinstance(listed, list):
        return ()
    return tuple(dict.fromkeys(tag for tag in listed[:MAX_TAGS] if is_tag(tag)))
