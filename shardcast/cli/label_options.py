"""Options to describe a version for its receivers: ``--tag`` and ``--metadata``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click

from shardcast.cli import options
from shardcast.errors import UsageError
from shardcast.protocol.manifest import check_metadata
from shardcast.protocol.tags import add_tags


@dataclass(frozen=True)
class LabelOptions:
    """Values of ``--tag`` and ``--metadata``.

    Attributes:
        tags: names of the version beside the number.
        pairs: ``key=value`` each.
    """

    tags: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ()

    def load(self) -> Mapping[str, Any] | None:
        """Return the metadata of the manifest; None where nothing was given.

        Raises:
            UsageError: a tag or a pair is malformed, a key is given twice, or they are too many.
        """
        values: dict[str, str] = {}
        for pair in self.pairs:
            key, equals, value = pair.partition("=")
            if not key or not equals:
                raise UsageError(f"--metadata {pair!r}: write key=value")
            if key in values:
                raise UsageError(f"--metadata {key!r} is given twice")
            values[key] = value
        metadata = add_tags(values or None, self.tags)
        check_metadata(metadata or {})
        return metadata


# Without variables: SHARDCAST_METADATA is in the environment of a hook, and a hook may broadcast itself.
label_options = options.grouped(
    "labels",
    LabelOptions,
    click.option(
        "--tag",
        "tags",
        multiple=True,
        metavar="TAG",
        help="A name of the version beside the number: best, step-1200; may be given again.",
    ),
    click.option(
        "--metadata",
        "pairs",
        multiple=True,
        metavar="KEY=VALUE",
        help="Text about the version for the receivers; may be given again.",
    ),
)
