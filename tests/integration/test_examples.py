"""The examples run, and do what examples/README.md says of them."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import processes

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def port() -> Iterator[int]:
    with processes.reserved_port() as port:
        yield port


class Script:
    """An example that runs; ``lines`` is what it printed so far."""

    def __init__(self, name: str, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name), *words],
            # The package of this checkout, installed or not.
            env=processes.environment(PYTHONPATH=str(ROOT)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def ends(self, timeout: float = 60) -> int:
        code = self.process.wait(timeout)
        self.reader.join(30)
        return code


@contextmanager
def script(name: str, *words: str) -> Iterator[Script]:
    running = Script(name, *words)
    try:
        yield running
    finally:
        running.process.kill()
        running.ends(30)
        assert not running.reader.is_alive(), f"what {name} started outlives it"
        assert running.process.stdout is not None
        running.process.stdout.close()


def test_worker_follows_training_run(port: int, tmp_path: Path) -> None:
    train = ("--steps", "5", "--size", "4000000", "--port", str(port), "--linger", "600")
    folders = ("--data-dir", str(tmp_path / "data"), "--checkpoints", str(tmp_path / "checkpoints"))
    infer = ("--servers", f"127.0.0.1:{port}", "--output-dir", str(tmp_path / "output"))
    with script("infer.py", *infer, "--until", "5") as worker:
        with script("train.py", *train, *folders) as trainer:
            assert worker.ends(120) == 0, worker.output + trainer.output
            assert trainer.process.poll() is None, trainer.output
            processes.wait_until(lambda: "serving for 600 s more" in trainer.output, what="the last step")
            trainer.process.send_signal(signal.SIGTERM)
            assert trainer.ends() == 0, trainer.output
        answered = re.findall(
            r"^v(\d+) answers now: step (\d+), error ([\d.]+);", worker.output, re.MULTILINE
        )
    assert answered[-1][:2] == ("5", "5"), worker.output
    assert all(version == step for version, step, _ in answered)
    numbers = [int(version) for version, *_ in answered]
    assert numbers == sorted(set(numbers))
    errors = [float(error) for *_, error in answered]
    assert errors == sorted(errors, reverse=True)
    outputs = {path.name for path in (tmp_path / "output").iterdir() if not path.name.startswith(".")}
    assert {f"v5-step_000005{suffix}" for suffix in (".npz", ".pt")} & outputs, outputs
    assert len(outputs - {"latest"}) <= 2, outputs  # the last two: the worker ended while it took v5
    assert [f"published v{n}\n" in trainer.lines for n in range(1, 6)] == [True] * 5
    assert list((tmp_path / "checkpoints").iterdir()) == []  # each removed once it was published
    with pytest.raises(OSError):  # the origin ended with the trainer
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


# Both say what they were started with; a step that serves or follows goes on until it is ended.
SCONTROL = """#!/bin/sh
[ "$*" = "show hostnames n[0-5]" ] && printf 'n%s\\n' 0 1 2 3 4 5
"""
SRUN = """#!/bin/bash
printf '%s\\n' "IP_ADDR_LIST=$IP_ADDR_LIST" "$@" >"$STEPS_DIR/$$"
case "$*" in
    *train.py*) until (( $(ls "$STEPS_DIR" | wc -l) == 3 )); do sleep 0.05; done ;;
    *middle*|*infer.py*) trap 'touch "$STEPS_DIR/../ended.$$"; exit 0' TERM; while :; do sleep 0.05; done ;;
esac
"""


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_slurm_script_places_its_steps(tmp_path: Path) -> None:
    sbatch = str(EXAMPLES / "slurm.sbatch")
    assert subprocess.run(["bash", "-n", sbatch], check=False).returncode == 0
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "steps").mkdir()
    env = processes.environment(
        PATH=f"{tmp_path}:{os.environ['PATH']}", SLURM_JOB_ID="7", SLURM_JOB_NODELIST="n[0-5]",
        SLURM_SUBMIT_DIR="/examples", STEPS_DIR=str(tmp_path / "steps"),
    )  # fmt: skip
    done = subprocess.run(["bash", sbatch], env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    steps = [path.read_text().splitlines() for path in (tmp_path / "steps").iterdir()]

    def step(word: str) -> list[str]:
        (found,) = (words for words in steps if word in words)
        return found

    middle, infer = step("shardcast-middle"), step("/examples/infer.py")
    train, client = step("/examples/train.py"), step("shardcast-client")
    assert middle[0] == "IP_ADDR_LIST=n0:8000"
    assert middle[1:4] == ["--overlap", "--nodelist=n1,n5", "--nodes=2"]
    assert infer[2:4] == ["--nodelist=n1,n2,n3,n4,n5", "--nodes=5"]
    assert infer[infer.index("--servers") + 1] == "n1:8000,n5:8000"
    assert train[2:4] == ["--nodelist=n0", "--nodes=1"]
    assert client[0] == "IP_ADDR_LIST=n1:8000,n5:8000"
    assert len(list(tmp_path.glob("ended.*"))) == 2


def test_compose_file_names_network_services() -> None:
    text = (EXAMPLES / "compose.yaml").read_text()
    if importlib.util.find_spec("yaml") is None:
        names = re.findall(
            r"^  ([\w-]+):$", text[text.index("\nservices:") : text.index("\nvolumes:")], re.MULTILINE
        )
        assert names == ["origin", "middle-1", "middle-2", "client"]
        assert "\t" not in text
        return
    compose = importlib.import_module("yaml").safe_load(text)
    services = compose["services"]
    assert list(services) == ["origin", "middle-1", "middle-2", "client"]
    for name, service in services.items():
        assert "python:3.12-slim" in service["build"]["dockerfile_inline"]
        assert service["command"].split()[0] == f"shardcast-{name.partition('-')[0]}"
        assert set(service.get("depends_on", [])) <= set(services)
        assert name == "client" or "/healthcheck" in service["healthcheck"]["test"][-1]


@pytest.mark.parametrize("name", ["train.py", "infer.py"])
def test_example_scripts_have_help(name: str) -> None:
    with script(name, "--help") as running:
        assert running.ends() == 0
    assert "usage:" in running.output


def test_follower_loads_checkpoint_folders_and_never_a_mixture(port: int, tmp_path: Path) -> None:
    publishing = ("publish", "--steps", "4", "--size", "6000000", "--pause", "0.3", "--port", str(port))
    data = ("--data-dir", str(tmp_path / "data"), "--linger", "600")
    loading = ("load", "--servers", f"127.0.0.1:{port}", "--output-dir", str(tmp_path / "output"))
    with (
        script("checkpoint_folder.py", *publishing, *data) as trainer,
        script("checkpoint_folder.py", *loading, "--until", "4") as loader,
    ):
        assert loader.ends() == 0, loader.output + trainer.output
    assert "v4 is loaded: step 4, 7 entries" in loader.output
    assert "is not of step" not in loader.output
