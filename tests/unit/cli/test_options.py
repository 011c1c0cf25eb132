"""Options that reach a command as one object."""

from __future__ import annotations

from dataclasses import dataclass

import click
import pytest
from click.testing import CliRunner

from shardcast.cli import options
from shardcast.constants import HTTP_PORT, MAX_DISTRIBUTION_FOLDERS


@dataclass(frozen=True)
class Pair:
    left: str
    right: int


@click.command()
@click.option("--alone", default="a")
@options.grouped(
    "pair",
    Pair,
    options.option("--left", default="l", help="The first of two."),
    options.option("--right", type=int, default=1, help="The second of two."),
)
def paired(*, alone: str, pair: Pair) -> None:
    """Print what came."""
    click.echo(f"{alone} {pair}")


def test_grouped_options_reach_the_command_as_one_object() -> None:
    result = CliRunner().invoke(paired, ["--right", "2", "--alone", "b"])
    assert result.output == f"b {Pair('l', 2)}\n"


def test_grouped_options_keep_their_order_and_variables_in_the_help() -> None:
    text = CliRunner().invoke(paired, ["--help"]).output
    assert text.index("--alone") < text.index("--left") < text.index("--right")
    assert "SHARDCAST_LEFT" in text and "Print what came." in text


def test_grouped_option_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDCAST_RIGHT", "7")
    assert CliRunner().invoke(paired, []).output == f"a {Pair('l', 7)}\n"


def test_listening_and_retention_have_the_documented_defaults() -> None:
    found: list[object] = []

    @click.command()
    @options.listening_options
    @options.retention_options
    def node(*, listening: options.Listening, retention: options.Retention) -> None:
        found.extend((listening, retention))

    assert CliRunner(env={}).invoke(node, []).exit_code == 0
    assert found == [
        options.Listening("::", HTTP_PORT, None),
        options.Retention(MAX_DISTRIBUTION_FOLDERS, None),
    ]


@pytest.mark.parametrize(
    ("text", "rate"), [("50MB", 50_000_000), ("50MB/s", 50_000_000), ("1MiB/s", 1 << 20), ("7", 7)]
)
def test_rate_is_a_size_with_or_without_per_second(text: str, rate: int) -> None:
    assert options.Rate().convert(text, None, None) == rate
