#!/usr/bin/env python3
"""A checkpoint that is a folder: sharded safetensors with an index, published, and loaded by a follower.

    python checkpoint_folder.py publish --steps 5
    python checkpoint_folder.py load --servers 127.0.0.1

The layout is that of large models: `model-00001-of-00003.safetensors` and so on, their index
`model.safetensors.index.json`, and small files beside them. Needs `pip install safetensors numpy`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy
from safetensors.numpy import load_file, save_file

import shardcast

PARTS = 3


def save(folder: Path, step: int, size: int) -> None:
    """Write a checkpoint into a folder: every tensor holds the number of the step."""
    weight_map = {}
    for part in range(1, PARTS + 1):
        file = f"model-{part:05}-of-{PARTS:05}.safetensors"
        # The first layers are frozen: their file is the same at each step, and goes over the network once.
        value = 0 if part == 1 else step
        tensors = {
            f"layers.{part}.{number}.weight": numpy.full(size // PARTS // 4 // 2, value, numpy.float32)
            for number in range(2)
        }
        weight_map |= dict.fromkeys(tensors, file)
        save_file(tensors, folder / file, metadata={"format": "np"})
    index = {"metadata": {"step": step}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / "config.json").write_text(json.dumps({"architectures": ["Example"], "step": step}))
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.txt").write_text("hello\nworld\n")


def load(folder: Path) -> int:
    """Load a checkpoint as a model's loader does, and return its step.

    Raises:
        ValueError: parts of two checkpoints are mixed.
    """
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    step = index["metadata"]["step"]
    for file in sorted(set(index["weight_map"].values())):
        for name, tensor in load_file(folder / file).items():
            expected = 0 if name.startswith("layers.1.") else step
            if index["weight_map"][name] != file or not (tensor == expected).all():
                raise ValueError(f"{folder}: {name} is not of step {step}")
    if json.loads((folder / "config.json").read_text())["step"] != step:
        raise ValueError(f"{folder}: config.json is not of step {step}")
    return step


def publish(options: argparse.Namespace) -> None:
    """Publish a checkpoint for each step."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the origin ends, too
    shardcast.initialize(data_dir=str(options.data_dir), port=options.port)
    try:
        for step in range(1, options.steps + 1):
            with tempfile.TemporaryDirectory() as folder:
                save(Path(folder), step, options.size)
                print(f"step {step} is {shardcast.broadcast(folder)}", flush=True)
            time.sleep(options.pause)
        print(f"serving for {options.linger:g} s more", flush=True)
        time.sleep(options.linger)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    finally:
        shardcast.shutdown()


def follow(options: argparse.Namespace) -> None:
    """Load each new version, as soon as all of it is here and verified."""
    over = threading.Event()

    def take(release: shardcast.Release) -> None:
        step = load(release.path)
        print(f"{release.version} is loaded: step {step}, {len(release.files)} entries", flush=True)
        if step >= options.until:
            over.set()

    client = shardcast.ClientNode(options.servers, str(options.output_dir))
    with client.follow(take) as following:
        while not over.is_set():
            try:
                following.wait(0.2)
                return  # it failed, and said why
            except TimeoutError:
                pass


def main() -> None:
    """Run the command."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = line.add_subparsers(required=True)
    sender = commands.add_parser("publish", help="publish checkpoints")
    sender.set_defaults(run=publish)
    sender.add_argument("--steps", type=int, default=5, help="how many (default: %(default)s)")
    sender.add_argument("--size", type=int, default=48_000_000, help="bytes of one (default: %(default)s)")
    sender.add_argument("--pause", type=float, default=1, help="seconds between two (default: %(default)s)")
    text = "seconds to serve after the last (default: %(default)s)"
    sender.add_argument("--linger", type=float, default=60, help=text)
    text = "where the origin listens (default: %(default)s)"
    sender.add_argument("--port", type=int, default=8000, help=text)
    # Not that of train.py: a directory's versions are followed by all who ask its origin.
    text = "the origin's data directory (default: %(default)s)"
    sender.add_argument("--data-dir", type=Path, default=Path("folder_data"), help=text)
    reader = commands.add_parser("load", help="load each new checkpoint")
    reader.set_defaults(run=follow)
    text = "middles or origins, comma-separated"
    reader.add_argument("--servers", type=lambda text: text.split(","), default="127.0.0.1", help=text)
    text = "where versions arrive (default: %(default)s)"
    reader.add_argument("--output-dir", type=Path, default=Path("folder_downloads"), help=text)
    reader.add_argument("--until", type=int, default=sys.maxsize, help="end once this step is loaded")
    options = line.parse_args()
    try:
        options.run(options)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)


if __name__ == "__main__":
    main()
