"""Entry points of the programs: run a command, and exit with the code of the error."""

from __future__ import annotations

import gc
import signal
import sys
from pathlib import Path
from typing import NoReturn

import click

from shardcast.cli.backup.group import BACKUP
from shardcast.cli.blobs.store import SERVE
from shardcast.cli.exit_codes import DONE, INTERRUPTED, LOCAL_DISK, OTHER_FAILURE, exit_code
from shardcast.cli.lazy_group import LazyCommand, LazyGroup
from shardcast.cli.streams import guard_streams, print_failure
from shardcast.disk_errors import error_text
from shardcast.errors import LocalLimit, ShardcastError

_ORIGIN = LazyCommand("origin", "shardcast.cli.origin", "Publish files and serve them.")
_MIDDLE = LazyCommand("middle", "shardcast.cli.middle", "Keep and serve the versions of other servers.")
_CLIENT = LazyCommand("client", "shardcast.cli.client", "Download versions.")
_CLUSTER = LazyCommand(
    "cluster", "shardcast.cli.cluster.command", "Run a network, over ssh or on this machine."
)
_COMMANDS = (
    _ORIGIN,
    _MIDDLE,
    _CLIENT,
    LazyCommand("broadcast", "shardcast.cli.broadcast", "Publish a file as the next version."),
    LazyCommand("status", "shardcast.cli.status", "Show the versions of nodes, and their waits."),
    LazyCommand("pin", "shardcast.cli.pin", "Keep a version until it is unpinned."),
    LazyCommand("unpin", "shardcast.cli.pin", "Let a pinned version go."),
    LazyCommand("withdraw", "shardcast.cli.withdraw", "Take a published version back."),
    LazyCommand("store", "shardcast.cli.blobs.store", "Keep blobs under their digests, and serve them."),
    LazyCommand("archive", "shardcast.cli.blobs.archive", "Keep blobs as Casa does, many in a request."),
    BACKUP,
    LazyCommand("token", "shardcast.cli.token", "Make access tokens for clients of servers."),
    _CLUSTER,
    LazyCommand("demo", "shardcast.cli.demo", "See a whole network work on this machine."),
)
"""The commands in the order of the help text."""


@click.group(cls=LazyGroup, lazy=_COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="shardcast", prog_name="shardcast")
def shardcast() -> None:
    """Get something large and new from one machine to many, version after version, every byte verified."""


def main() -> NoReturn:
    """Run ``shardcast``."""
    _run("shardcast")


def origin_main() -> NoReturn:
    """Run ``shardcast-origin``."""
    _run("shardcast-origin", _ORIGIN)


def middle_main() -> NoReturn:
    """Run ``shardcast-middle``."""
    _run("shardcast-middle", _MIDDLE)


def client_main() -> NoReturn:
    """Run ``shardcast-client``."""
    _run("shardcast-client", _CLIENT)


def store_main() -> NoReturn:
    """Run ``shardcast-store``."""
    _run("shardcast-store", SERVE)


def backup_main() -> NoReturn:
    """Run ``shardcast-backup``."""
    _run("shardcast-backup", BACKUP)


def cluster_main() -> NoReturn:
    """Run ``scripts/cluster``."""
    _run("cluster", _CLUSTER)


def _run(program: str, subcommand: LazyCommand | None = None) -> NoReturn:
    """Run a command, print an error as one line, and exit.

    Args:
        program: name of the program in its messages.
        subcommand: the only command of the program; None for the whole group.
    """
    code = DONE
    guard_streams()
    if subcommand and sys.argv[1:] == ["--version"]:  # of `shardcast-client` an option with a value, too
        subcommand = None
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command = subcommand.load() if subcommand else shardcast
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
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo(f"Interrupted. {error}".rstrip(), err=True)
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of the results has gone
        code = OTHER_FAILURE
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        why = LocalLimit.of(error) or (_in_words(error) if isinstance(error, OSError) else None)
        if why is None:
            raise
        click.echo(f"Error: {why}", err=True)
        code = LOCAL_DISK
    # No cycles worth finding are left: the search is a sixth of the CPU time of a short command.
    gc.freeze()
    sys.exit(code)


def _in_words(error: OSError) -> str:
    """Return a system error in words; for a removed working directory the error has no file name."""
    if isinstance(error, FileNotFoundError) and not error.filename:
        try:
            Path.cwd()
        except FileNotFoundError:
            return "the current directory was removed; change to another one"
    return error_text(error)
