"""Variables of the environment: each is in docs/variables.md, and none can be broken by what others set."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from shardcast.cli.guarded_options import PortOption, VersionOption
from shardcast.cli.main import shardcast as program
from shardcast.constants import HOOK_VARIABLES, IN_HOOK

ROOT = Path(__file__).parents[3]
GIVEN_TO_HOOKS = {"SHARDCAST_BACKUP_SNAPSHOT", IN_HOOK, *HOOK_VARIABLES}


def options_of(command: click.Command, parent: click.Context | None = None) -> Iterator[click.Option]:
    yield from (one for one in command.params if isinstance(one, click.Option))
    if isinstance(command, click.Group):
        context = click.Context(command, parent=parent)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from options_of(below, context)


def test_every_variable_in_the_code_is_in_the_table() -> None:
    table = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "variables.md").read_text(), re.MULTILINE))
    sources = (path.read_text() for path in (ROOT / "shardcast").rglob("*.py"))
    named = {name for text in sources for name in re.findall(r"\bSHARDCAST_[A-Z_]*[A-Z]\b", text)}
    assert named - table - GIVEN_TO_HOOKS == set()


def test_every_port_ignores_what_kubernetes_sets() -> None:
    ports = [one for one in options_of(program) if "PORT" in str(one.envvar)]
    assert len(ports) >= 6
    assert [one.opts for one in ports if not isinstance(one, PortOption)] == []


@pytest.mark.parametrize(
    ("first", "second", "value"),
    [
        ("tcp://10.0.0.1:80", None, None),
        ("tcp://10.0.0.1:80", "81", 81),
        ("80", "81", 80),
        ("", "udp://10.0.0.1:80", None),
    ],
)
def test_port_is_the_first_that_is_none_of_a_service(
    first: str, second: str | None, value: int | None
) -> None:
    @click.command()
    @click.option("--port", cls=PortOption, type=int, envvar=["FIRST", "SECOND"])
    def show(port: int | None) -> None:
        click.echo(repr(port))

    found = CliRunner().invoke(show, env={"FIRST": first, "SECOND": second})
    assert found.output == f"{value!r}\n"


def test_port_that_is_no_number_is_refused() -> None:
    command = click.Command("show", params=[PortOption(["--port"], type=int, envvar="FIRST")])
    assert CliRunner().invoke(command, env={"FIRST": "http://x:80"}).exit_code == 2


@pytest.mark.parametrize(
    ("environment", "value"),
    [
        ({"SHARDCAST_VERSION": "0.4.0"}, None),
        ({"SHARDCAST_VERSION": "v4"}, "v4"),
        ({"SHARDCAST_VERSION": "latest"}, "latest"),
        ({"SHARDCAST_VERSION": "v4", IN_HOOK: "1"}, None),
        ({"SHARDCAST_VERSION": "v4", "SHARDCAST_FETCH_VERSION": "0.4.0"}, "0.4.0"),
    ],
)
def test_version_of_an_image_is_not_downloaded(environment: dict[str, str], value: str | None) -> None:
    @click.command()
    @click.option("--version", cls=VersionOption, envvar=["SHARDCAST_FETCH_VERSION", "SHARDCAST_VERSION"])
    def show(version: str | None) -> None:
        click.echo(repr(version))

    assert CliRunner().invoke(show, env=dict(environment)).output == f"{value!r}\n"
