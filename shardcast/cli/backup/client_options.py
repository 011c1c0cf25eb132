"""Options of the commands for saving a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shardcast.cli import options
from shardcast.disk_errors import disk_errors

if TYPE_CHECKING:
    from shardcast.backup.client.tree_saver import SaveRules

SETTINGS = {"help_option_names": ["-h", "--help"]}
_MAX_PATTERNS_FILE = 1 << 20
"""Bytes read of a file of --exclude-from; the rest is ignored."""

dir_option = options.option(
    "--dir",
    "folder",
    env="BACKUP_DIR",
    type=options.NamedPath(path_type=Path, exists=True, file_okay=False),
    default=".",
    help="The folder; a folder above it may be the registered one.",
)


@dataclass(frozen=True)
class SaveOptions:
    """The part of the folder to save."""

    exclude: tuple[str, ...]
    exclude_from: tuple[Path, ...]
    exclude_caches: bool
    one_file_system: bool
    ignore_files: bool

    def load(self) -> SaveRules:
        """Return the rules that choose the paths to save.

        Raises:
            UsageError: a pattern is malformed.
            LocalDiskError: a file of patterns can't be read.
        """
        from shardcast.backup.client.tree_saver import SaveRules
        from shardcast.backup.ignoring import IgnoreRules, Patterns

        rules = IgnoreRules(Patterns(self._patterns()), by_files=self.ignore_files)
        return SaveRules(rules, exclude_caches=self.exclude_caches, one_file_system=self.one_file_system)

    def record(self) -> dict[str, Any]:
        """Return the options set, except ``ignore_files``, for the record of the snapshot."""
        record = {
            "exclude": self._patterns(),
            "exclude_caches": self.exclude_caches,
            "one_file_system": self.one_file_system,
        }
        return {name: value for name, value in record.items() if value}

    def _patterns(self) -> list[str]:
        from shardcast.folders.patterns import read_patterns

        found = list(self.exclude)
        for file in self.exclude_from:
            with disk_errors("could not read", file), file.open(errors="surrogateescape") as stream:
                found += read_patterns(stream.read(_MAX_PATTERNS_FILE))
        return found


save_options: Callable[[Callable[..., Any]], Callable[..., Any]] = options.grouped(
    "save",
    SaveOptions,
    click.option(
        "--exclude",
        multiple=True,
        metavar="PATTERN",
        help="Leave out matching paths, as in a .gitignore: *.o, logs/, /a/*.bin, !keep.o. Can be repeated.",
    ),
    click.option(
        "--exclude-from",
        multiple=True,
        type=options.NamedPath(path_type=Path, exists=True, dir_okay=False),
        help="A file with such patterns, one a line. Can be repeated.",
    ),
    click.option(
        "--exclude-caches",
        is_flag=True,
        help="Leave out the contents of folders with a CACHEDIR.TAG, except for the tag.",
    ),
    click.option("--one-file-system", is_flag=True, help="Leave out other file systems mounted below."),
    click.option(
        "--ignore-files/--no-ignore-files",
        default=True,
        help="Whether .gitignore, .ignore and .shardcastignore in the folders count.  [default: they do]",
    ),
)
