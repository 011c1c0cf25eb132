"""The options of sharing: what is refused before anything is begun, and what variables do."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shardcast.cli.client import client
from shardcast.cli.exit_codes import exit_code
from shardcast.nodes import runtime
from shardcast.nodes.sharing_settings import SharingSettings

BEGUN = 99
"""Exit code of a command that would have begun."""


@pytest.fixture(autouse=True)
def begins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(work: Coroutine[Any, Any, object], *, fast_loop: bool = False) -> None:
        work.close()
        raise SystemExit(BEGUN)

    monkeypatch.setattr(runtime, "run", run)


def invoke(*words: str, **variables: str) -> Result:
    return CliRunner().invoke(client, ["--servers", "127.0.0.1:1", *words], env=variables)


@pytest.mark.parametrize(
    "words",
    [
        ("--port", "9000"),
        ("--share-host", "127.0.0.1"),
        ("--upload-limit", "5MB"),
        ("--seed-for", "1m"),
        ("--site", "rack7"),
        ("--advertise", "10.0.0.7"),
    ],
)
def test_option_of_sharing_needs_share(words: tuple[str, str]) -> None:
    result = invoke("--version", "v1", *words)
    assert result.exit_code == 2
    assert f"{words[0]} can't be given without --share" in result.output
    assert invoke("--version", "v1", "--share", *words).exit_code == BEGUN


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--port", "80"), "ports from 1024 on"),
        (("--upload-limit", "1"), "too low"),
        (("--site", "a\nb"), "no name of a site"),
        (("--site", "a" * 65), "no name of a site"),
        (("--site", ""), "no name of a site"),
        (("--advertise", ""), "no address to advertise"),
        (("--advertise", "host.example"), "no address to advertise"),
        (("--advertise", "10.0.0.7:port"), "no address to advertise"),
        (("--advertise", "10.0.0.7:65536"), "no address to advertise"),
        (("--advertise", "10.0.0.7:80"), "ports from 1024 on"),
        (("--advertise", "0.0.0.0:9000"), "no address of one machine"),
        (("--advertise", "[ff02::1]:9000"), "no address of one machine"),
    ],
)
def test_value_that_no_server_takes_is_refused_at_once(words: tuple[str, str], said: str) -> None:
    result = invoke("--version", "v1", "--share", *words)
    assert isinstance(result.exception, Exception)
    assert said in str(result.exception)
    assert exit_code(result.exception) == 2


@pytest.mark.parametrize("address", ["10.0.0.7", "10.0.0.7:9000", "fd00::7", "[fd00::7]:9000"])
def test_advertised_addresses_of_both_kinds_are_taken(address: str) -> None:
    assert SharingSettings(advertise=address).advertise == address


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--list", "--share"), "--share goes with --version and --follow"),
        (("--follow", "--share", "--seed-for", "1m"), "--seed-for goes with --version"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: tuple[str, ...], said: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.parametrize("words", [("--version", "v1"), ("--follow",), ("--list",)])
def test_variables_of_other_nodes_break_no_client(words: tuple[str, ...]) -> None:
    assert invoke(*words, SHARDCAST_UPLOAD_LIMIT="5MB", SHARDCAST_SITE="rack7").exit_code == BEGUN
    everywhere = {"SHARDCAST_SHARE": "1", "SHARDCAST_SEED_FOR": "1m", "SHARDCAST_UPLOAD_LIMIT": "5MB"}
    assert invoke(*words, **everywhere).exit_code == BEGUN
