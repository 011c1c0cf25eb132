"""Options of the commands for the backup server's machine."""

from __future__ import annotations

from pathlib import Path

from shardcast.cli import options

SETTINGS = {"help_option_names": ["-h", "--help"]}
PORT = 7532
"""The port of backup servers, as hashstore's."""

store_dir_option = options.option(
    "--store_dir",
    "--store-dir",
    "store_dir",
    env="BACKUP_STORE_DIR",
    type=options.NamedPath(path_type=Path, file_okay=False),
    default=".",
    help="The folder of the backup server.",
)
