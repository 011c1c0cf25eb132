#!/usr/bin/env python3
"""A training loop that broadcasts a checkpoint after every step, and never waits for it.

    python train.py --steps 100 --size 256000000

`infer.py` follows it. The model is a PyTorch tensor where torch is installed, saved as `.pt`; else a NumPy
array, saved as `.npz`. With a real model `save` changes, and the rest stays.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import shardcast

try:
    import torch
except ImportError:
    torch = None
    import numpy

SUFFIX = ".pt" if torch else ".npz"


class Model:
    """Weights that learn sin(i), i being their place, for the first ones: those that the data has."""

    def __init__(self, size: int) -> None:
        count = max(size // 4, 1)
        if torch:
            self.weights, self.goal = torch.randn(count), torch.sin(torch.arange(min(count, 10_000)))
        else:
            self.weights = numpy.random.default_rng(0).standard_normal(count, dtype="float32")
            self.goal = numpy.sin(numpy.arange(min(count, 10_000)))

    def step(self) -> float:
        """Do one step of gradient descent, and return its mean loss."""
        learned = self.weights[: len(self.goal)]
        error = learned - self.goal
        learned -= 0.2 * error  # a view: the weights themselves change
        return float((error * error).mean())


def save(model: Model, path: Path, step: int, loss: float) -> None:
    """Write a checkpoint; a file named ``path`` is whole, also after a crash."""
    state = {"step": step, "loss": loss, "weights": model.weights}
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        if torch:
            torch.save(state, file)
        else:
            numpy.savez(file, **state)
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
        path = options.checkpoints / f"step_{step:06}{SUFFIX}"
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
