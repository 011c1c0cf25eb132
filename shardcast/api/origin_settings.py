"""A program's requirements of its origin: options of the command, compared with those of a running origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shardcast.api.process_tree import is_descendant_of
from shardcast.constants import HTTP_PORT, MAX_DISTRIBUTION_FOLDERS
from shardcast.control.running import RunningOrigin
from shardcast.errors import DataDirInUse, UsageError
from shardcast.nodes.child_process import pid_namespace

_OF_EACH_START = ("--data-dir", "--port")
"""Options with an own value in each process: a directory's path differs between containers."""


@dataclass(frozen=True, slots=True)
class OriginSettings:
    """A program's requirements of the origin of a data directory.

    Attributes:
        port: TCP port; None for the default port, or the port of a running origin.
        keep: number of versions to keep; None likewise.
        options: further options of the command, each with its value.
        attach: whether to use an origin started by any process; else only by an ancestor of this one.
        log: whether the log of an origin started by this program goes through ``logging`` here.
    """

    port: int | None
    keep: int | None
    options: Sequence[tuple[str, str | None]]
    attach: bool
    log: bool = False

    @property
    def first_port(self) -> int:
        """TCP port for an origin started by this program."""
        return HTTP_PORT if self.port is None else self.port

    def words(self) -> list[str]:
        """Return the options of the command, without those of each start."""
        keep = MAX_DISTRIBUTION_FOLDERS if self.keep is None else self.keep
        return ["--keep", str(keep), *(word for pair in self.options for word in pair if word is not None)]

    def check(self, running: RunningOrigin, data_dir: Path) -> None:
        """Check that this program may use a running origin, and that the origin meets the requirements.

        Raises:
            DataDirInUse: another program started the origin, and ``attach`` is false.
            UsageError: the origin has another port, keeps another number of versions, or has other options.
        """
        if not self.attach and not _descends(running):
            raise DataDirInUse(
                f"the data directory {data_dir} is in use by a shardcast origin at {running.url}; "
                "attach=True uses that one, else choose another data_dir",
                "origin",
            )
        where = f"the origin that runs on {data_dir}"
        if self.port not in (None, 0, running.port):
            raise UsageError(
                f"{where} listens on port {running.port}, not on {self.port}; give its port, or none"
            )
        if self.keep not in (None, running.keep):
            raise UsageError(
                f"{where} keeps {running.keep} versions, not {self.keep}; give max_distribution_folders="
                f"{running.keep}, or none"
            )
        if running.options is not None:
            self._check_options(running.options, where)

    def _check_options(self, words: Sequence[str], where: str) -> None:
        """Check that a command has each of the further options, with the same value.

        Raises:
            UsageError: the command lacks an option, or has another value.
        """
        for name, value in self.options:
            given = option_value(words, name)
            if name not in words or (value is not None and given != value):
                differs = f"has no {name}" if name not in words else f"has {name} {given}"
                wanted = "" if value is None else f", not {name} {value}"
                raise UsageError(
                    f"{where} {differs}{wanted}; leave that argument out, or end the origin first"
                )


def option_value(words: Sequence[str], name: str) -> str | None:
    """Return the word after an option of a command; None without the option."""
    after = words.index(name) + 1 if name in words else len(words)
    return words[after] if after < len(words) else None


def options_to_start_again(options: Sequence[str]) -> list[str]:
    """Return the options of a command for a restart, without data directory and port."""
    words, kept = iter(options), []
    for word in words:
        if word in _OF_EACH_START:
            next(words, None)
        else:
            kept.append(word)
    return kept


def _descends(running: RunningOrigin) -> bool:
    """Return whether the starter of an origin is an ancestor of this process."""
    if running.parent is None or running.namespace != pid_namespace():
        return False
    return is_descendant_of(running.parent)
