"""Options of a client for folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from shardcast.cli.limit_options import AddOptions
from shardcast.cli.options import grouped, option
from shardcast.folders.options import SHARDS, WHOLE, FolderOptions


@dataclass(frozen=True)
class ReceivedFolderOptions:
    """The wanted part of a folder, and the reusable files."""

    seeds: tuple[Path, ...] = ()
    link: bool = False
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def load(self, verify: str | None) -> FolderOptions:
        """Return the settings of a client.

        Args:
            verify: the value of ``--verify`` beside ``--version`` or ``--follow``; None without the option.

        Raises:
            UsageError: ``verify`` is neither ``shards`` nor ``whole``, or a pattern is malformed.
        """
        if verify not in (None, SHARDS, WHOLE):
            raise click.UsageError(
                f"--verify {verify!r}: write {SHARDS} or {WHOLE} beside --version and --follow; alone it "
                "names a folder"
            )
        return FolderOptions(self.seeds, self.link, verify, self.only, self.exclude).checked()


def folder_options(name: str) -> AddOptions:
    """Add the options, whose values the parameter ``name`` of the command gets."""
    return grouped(
        name,
        ReceivedFolderOptions,
        option(
            "--only",
            multiple=True,
            metavar="PATTERN",
            help="Fetch only matching paths of a folder: '*.json', 'tokenizer/'; may be given again.",
        ),
        option(
            "--exclude",
            multiple=True,
            metavar="PATTERN",
            help="Leave out matching paths of a folder; may be given again.",
        ),
        option(
            "--seed",
            "seeds",
            multiple=True,
            type=click.Path(path_type=Path, file_okay=False, readable=False),
            metavar="FOLDER",
            help="A downloaded folder with files to reuse, beside those in the output folder; may be "
            "given again.",
        ),
        option(
            "--link",
            is_flag=True,
            help="Link files of earlier folders instead of copying them; never write to linked files.",
        ),
    )
