"""systemd units, the Containerfile and Kubernetes manifests in examples/ are what their readers take."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from shardcast.cli.main import shardcast as program
from tests.support import processes
from tests.support.legacy import installed_peer

EXAMPLES = Path(__file__).parents[2] / "examples"
UNITS = sorted((EXAMPLES / "systemd").glob("*.service"))
MANIFESTS = sorted((EXAMPLES / "kubernetes").glob("*.yaml"))


def check_words(name: str, *words: str) -> None:
    """Fail where a command has no such option, or none of its values parses."""
    command = program.get_command(click.Context(program), name.removeprefix("shardcast-"))
    assert command is not None, name
    command.make_context(name, list(words))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    text = unit.read_text()
    found = re.search(r"^ExecStart=/usr/local/bin/(.+)$", text, re.MULTILINE)
    assert found is not None
    check_words(*found[1].split())
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    copy = tmp_path / unit.name
    copy.write_text(text.replace("/usr/local/bin", str(Path(sys.executable).parent)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if "Failed to" in done.stderr and "initialize" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest.stem)
def test_kubernetes_takes_the_manifest(manifest: Path) -> None:
    peer = installed_peer("kubernetes-validate")
    done = subprocess.run(
        [sys.executable, "-m", "kubernetes_validate", "--strict", manifest],
        env=processes.environment(PYTHONPATH=str(peer)),
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda manifest: manifest.stem)
def test_commands_of_a_manifest_parse(manifest: Path) -> None:
    commands = re.findall(r"command: \[(shardcast-.+)\]", manifest.read_text())
    assert commands
    for command in commands:
        check_words(*(word.strip().strip('"') for word in command.split(",")))


def test_containerfile_has_no_faults_known_to_its_linter() -> None:
    linter = installed_peer("hadolint") / "bin" / "hadolint"
    done = subprocess.run(
        [linter, EXAMPLES / "Containerfile"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
