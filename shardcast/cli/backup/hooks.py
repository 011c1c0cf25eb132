"""Hooks of a backup: commands to run before and after."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from shardcast.errors import LocalDiskError, ShardcastError


def run_hook(command: str, variables: Mapping[str, str]) -> None:
    """Run a command by ``sh -c``, with its output on stderr.

    Args:
        command: as people write it.
        variables: additions to the command's environment.

    Raises:
        ShardcastError: the command failed.
    """
    try:
        done = subprocess.run(
            ["sh", "-c", command], stdout=sys.stderr, env={**os.environ, **variables}, check=False
        )
    except OSError as error:
        raise LocalDiskError(f"could not run {command!r}: {error.strerror}") from error
    if done.returncode:
        raise ShardcastError(f"the hook {command!r} ended with exit code {done.returncode}")
