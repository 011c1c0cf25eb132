"""Settings: their defaults, the environment, and what is malformed there."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys

import pytest

from shardcast import constants
from shardcast.errors import UsageError
from tests.support import processes

DEFAULTS: dict[str, object] = {
    "SHARD_SIZE": 50_000_000,
    "MAX_DISTRIBUTION_FOLDERS": 15,
    "HTTP_PORT": 8000,
    "RETRY_ATTEMPTS": 5,
    "MAX_CONCURRENT_DOWNLOADS": 10,
    "HTTP_TIMEOUT": 30.0,
    "CHECK_INTERVAL": 30.0,
    "TRANSFER_MEMORY": 512 * 2**20,
    "UNREACHABLE_AT_START": 10.0,
    "UNREACHABLE_ONCE_BEGUN": 120.0,
    "LOG_LEVEL": "INFO",
}
MALFORMED = [
    ("SHARD_SIZE", "0"),
    ("SHARD_SIZE", "large"),
    ("SHARD_SIZE", "-5MB"),
    ("MAX_DISTRIBUTION_FOLDERS", "0"),
    ("MAX_DISTRIBUTION_FOLDERS", "1.5"),
    ("HTTP_PORT", "65536"),
    ("HTTP_PORT", "http://10.0.0.1:8000"),
    ("HTTP_PORT", "٣"),
    ("RETRY_ATTEMPTS", "-1"),
    ("MAX_CONCURRENT_DOWNLOADS", "many"),
    ("HTTP_TIMEOUT", "0"),
    ("HTTP_TIMEOUT", "nan"),
    ("HTTP_TIMEOUT", "inf"),
    ("CHECK_INTERVAL", "soon"),
]


def settings_of_a_process(**env: str) -> dict[str, object]:
    """The settings as a process with this environment has them."""
    code = "import json; from shardcast import constants; print(json.dumps(vars(constants), default=str))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=processes.environment(**env), capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout)
    return {name: found[name] for name in DEFAULTS}


def test_defaults_apply_without_environment() -> None:
    assert settings_of_a_process() == DEFAULTS


def test_environment_overrides_every_setting() -> None:
    given = {
        "SHARD_SIZE": "48MiB",
        "MAX_DISTRIBUTION_FOLDERS": "3",
        "HTTP_PORT": " 9000 ",
        "RETRY_ATTEMPTS": "7",
        "MAX_CONCURRENT_DOWNLOADS": "20",
        "HTTP_TIMEOUT": "2.5",
        "CHECK_INTERVAL": "1",
        "TRANSFER_MEMORY": "1GiB",
        "UNREACHABLE_AT_START": "20",
        "UNREACHABLE_ONCE_BEGUN": "600",
        "LOG_LEVEL": "debug",
    }
    assert settings_of_a_process(**{f"SHARDCAST_{name}": value for name, value in given.items()}) == {
        "SHARD_SIZE": 48 * 2**20,
        "MAX_DISTRIBUTION_FOLDERS": 3,
        "HTTP_PORT": 9000,
        "RETRY_ATTEMPTS": 7,
        "MAX_CONCURRENT_DOWNLOADS": 20,
        "HTTP_TIMEOUT": 2.5,
        "CHECK_INTERVAL": 1.0,
        "TRANSFER_MEMORY": 2**30,
        "UNREACHABLE_AT_START": 20.0,
        "UNREACHABLE_ONCE_BEGUN": 600.0,
        "LOG_LEVEL": "DEBUG",
    }


def test_empty_settings_and_kubernetes_port_are_ignored() -> None:
    env = {"SHARDCAST_SHARD_SIZE": "", "SHARDCAST_HTTP_PORT": " ", "SHARDCAST_PORT": "tcp://10.0.0.1:8000"}
    assert settings_of_a_process(**env) == DEFAULTS
    assert settings_of_a_process(SHARDCAST_HTTP_PORT="tcp://10.0.0.1:8000") == DEFAULTS


@pytest.mark.parametrize(("name", "value"), MALFORMED)
def test_malformed_setting_raises_usage_error_naming_it(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"SHARDCAST_{name}", value)
    with pytest.raises(UsageError, match=f"SHARDCAST_{name}='.*' in the environment"):
        runpy.run_path(constants.__file__)


@pytest.mark.parametrize(
    ("name", "value"),
    [("SHARD_SIZE", "large"), ("RETRY_ATTEMPTS", "many"), ("HTTP_TIMEOUT", "-1"), ("LOG_LEVEL", "loud")],
)
def test_command_with_malformed_setting_exits_with_usage_error(name: str, value: str) -> None:
    env = {f"SHARDCAST_{name}": value}
    done = processes.run("client", "--servers", "127.0.0.1:9", "--list", env=env, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert f"SHARDCAST_{name}" in done.stderr
    assert len(done.stderr.splitlines()) < 10


def test_help_is_printed_with_malformed_settings() -> None:
    done = processes.run("--help", env={"SHARDCAST_RETRY_ATTEMPTS": "many"}, timeout=30)
    assert done.returncode == 0
    assert "client" in done.stdout
