#!/usr/bin/env python3
"""A training loop that broadcasts a checkpoint after every step, and never waits for it.

    python train.py --steps 100 --size 256000000

`infer.py` follows it. The model is a table of numbers in plain Python; with a real one, `save` is what
`safetensors.torch.save_file` or `torch.save` does, and the rest stays.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import signal
import sys
import time
from array import array
from pathlib import Path

import shardcast


class Model:
    """Weights that learn sin(i), i being their place, for the first ones: those that the data has."""

    def __init__(self, size: int) -> None:
        self.random = random.Random(0)
        block = array("f", (self.random.gauss(0, 1) for _ in range(65_536)))
        count = max(size // block.itemsize, 1)
        self.weights = (block * -(-count // len(block)))[:count]

    def step(self, batch: int = 20_000) -> float:
        """Do one step of gradient descent over a random batch, and return its mean loss."""
        loss = 0.0
        for _ in range(batch):
            place = self.random.randrange(min(len(self.weights), 10_000))
            error = self.weights[place] - math.sin(place)
            self.weights[place] -= 0.2 * error
            loss += error * error / batch
        return loss


def save(model: Model, path: Path, step: int, loss: float) -> None:
    """Write a checkpoint; a file named ``path`` is whole, also after a crash."""
    header = json.dumps({"step": step, "loss": loss, "weights": len(model.weights)}).encode()
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        model.weights.tofile(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def train(options: argparse.Namespace) -> None:
    """Train, and broadcast a checkpoint after every step."""
    model = Model(options.size)
    options.checkpoints.mkdir(parents=True, exist_ok=True)
    under_way = []
    for step in range(1, options.steps + 1):
        loss = model.step()
        path = options.checkpoints / f"step_{step:06}.ckpt"
        save(model, path, step, loss)
        handle = shardcast.broadcast(str(path), wait=False)
        print(f"step {step}: loss {loss:.6f}, broadcasting {path.name} as {handle.version}", flush=True)
        under_way.append((path, handle))
        under_way = [(path, handle) for path, handle in under_way if not finished(path, handle, wait=False)]
    for path, handle in under_way:
        finished(path, handle, wait=True)


def finished(path: Path, handle, wait: bool) -> bool:
    """Remove a checkpoint once it is published; until then shardcast reads it."""
    if not wait and not handle.done():
        return False
    try:
        print(f"published {handle.result(600)}", flush=True)
    except shardcast.ShardcastError as error:
        print(f"{path.name} was not published, so it stays: {error}", file=sys.stderr)
        return True
    path.unlink()
    return True


def main() -> None:
    """Run the command."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("--steps", type=int, default=10, help="how long to train (default: %(default)s)")
    text = "bytes of a checkpoint (default: %(default)s)"
    line.add_argument("--size", type=int, default=64_000_000, help=text)
    text = "where the origin listens (default: %(default)s)"
    line.add_argument("--port", type=int, default=8000, help=text)
    text = "the origin's data directory (default: %(default)s)"
    line.add_argument("--data-dir", type=Path, default=Path("data"), help=text)
    text = "where checkpoints are written (default: %(default)s)"
    line.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), help=text)
    text = "seconds to go on serving after the last step (default: %(default)s)"
    line.add_argument("--linger", type=float, default=60, help=text)
    options = line.parse_args()

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that `except` and `finally` are reached
    shardcast.initialize(data_dir=str(options.data_dir), port=options.port)
    wait = None  # as long as the nodes below need for the last checkpoint, a minute at most
    try:
        train(options)
        print(f"serving for {options.linger:g} s more", flush=True)
        time.sleep(options.linger)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        wait = 0
    finally:
        shardcast.shutdown(wait=wait)


if __name__ == "__main__":
    main()
