"""Entry points of the programs: run a command, and exit with the code of its error."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import click

from shardcast.cli.exit_codes import DONE, INTERRUPTED, LOCAL_DISK, OTHER_FAILURE, exit_code
from shardcast.cli.streams import guard_streams, print_failure
from shardcast.disk_errors import error_text
from shardcast.errors import LocalLimit, ShardcastError

_COMMANDS = {
    "origin": "Publish files and serve them.",
    "middle": "Keep what other servers offer, and serve it.",
    "client": "Download versions.",
    "broadcast": "Publish a file as the next version.",
    "pin": "Keep a version until it is unpinned.",
    "unpin": "Let a pinned version go.",
    "withdraw": "Take a published version back.",
    "store": "Keep blobs under their digests, and serve them.",
    "archive": "Keep blobs as Casa does, many in a request.",
    "token": "Make tokens for servers that ask for them.",
    "demo": "See a whole network work on this machine.",
}


_MODULES = {"unpin": "pin", "store": "blobs.store", "serve": "blobs.store", "archive": "blobs.archive"}
"""Modules of the commands that have no module of their own name here."""


class _Lazy(click.Group):
    """Group that imports only the command that runs, since the imports of the others cost time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help text."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None where there is none of the name."""
        return _load(cmd_name) if cmd_name in _COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _load(name: str) -> click.Command:
    """Import a command by its name."""
    command = getattr(import_module(f"shardcast.cli.{_MODULES.get(name, name)}"), name)
    assert isinstance(command, click.Command)
    return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shardcast", prog_name="shardcast")
def shardcast() -> None:
    """Get something large and new from one machine to many, version after version, every byte verified."""


def main() -> NoReturn:
    """Run ``shardcast``."""
    _run("shardcast")


def origin_main() -> NoReturn:
    """Run ``shardcast-origin``."""
    _run("shardcast-origin", "origin")


def middle_main() -> NoReturn:
    """Run ``shardcast-middle``."""
    _run("shardcast-middle", "middle")


def client_main() -> NoReturn:
    """Run ``shardcast-client``."""
    _run("shardcast-client", "client")


def store_main() -> NoReturn:
    """Run ``shardcast-store``."""
    _run("shardcast-store", "serve")


def _run(program: str, subcommand: str | None = None) -> NoReturn:
    """Run a command, print its error in a line, and exit.

    Args:
        program: name of the program in its messages.
        subcommand: the command that the program is; None for the whole group.
    """
    code = DONE
    guard_streams()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command = _load(subcommand) if subcommand else shardcast
        result = command.main(prog_name=program, standalone_mode=False)
        code = result if isinstance(result, int) else DONE
        if unprinted := print_failure():
            click.echo(f"Warning: the result could not be printed: {unprinted}", err=True)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except ShardcastError as error:
        click.echo(f"Error: {error}", err=True)
        code = exit_code(error)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted.", err=True)
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of the results has gone
        code = OTHER_FAILURE
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        why = LocalLimit.of(error) or (_in_words(error) if isinstance(error, OSError) else None)
        if why is None:
            raise
        click.echo(f"Error: {why}", err=True)
        code = LOCAL_DISK
    sys.exit(code)


def _in_words(error: OSError) -> str:
    """Return an error of the system as a person reads it; a removed working directory has no file name."""
    if isinstance(error, FileNotFoundError) and not error.filename:
        try:
            Path.cwd()
        except FileNotFoundError:
            return "the current directory was removed; change to another one"
    return error_text(error)
