"""Groups of commands that import only the running command, since importing all of them takes time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click


@dataclass(frozen=True)
class LazyCommand:
    """A command not imported yet.

    Attributes:
        name: name of the command, and of the function in ``module``.
        module: the module of the function.
        help: the command's line in the list of commands.
    """

    name: str
    module: str
    help: str

    def load(self) -> click.Command:
        """Import the command."""
        command = getattr(import_module(self.module), self.name)
        assert isinstance(command, click.Command)
        return command


class LazyGroup(click.Group):
    """A group whose commands are imported when they run."""

    def __init__(self, *words: Any, lazy: Iterable[LazyCommand], **settings: Any) -> None:
        """Make the group of these commands, in the order of the help text."""
        super().__init__(*words, **settings)
        self._lazy = {command.name: command for command in lazy}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help text."""
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of the name."""
        found = self._lazy.get(cmd_name)
        return found.load() if found else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(command.name, command.help) for command in self._lazy.values()])
