#!/usr/bin/env python3
"""An inference worker that follows a training run: it receives each new version and switches to it.

    python infer.py --servers 10.0.0.2,10.0.0.3

It learns of a version from the servers' feed when that begins, and answers with the version it has while the
next one arrives. The checkpoints are those of `train.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import threading
import time
from contextlib import aclosing
from pathlib import Path

import shardcast


class Model:
    """A checkpoint in memory."""

    def __init__(self, path: Path) -> None:
        if path.suffix == ".pt":
            import torch

            state = torch.load(path, weights_only=True)
        else:
            import numpy

            with numpy.load(path) as file:
                state = dict(file)
        self.step, self.weights = int(state["step"]), state["weights"]

    def answer(self, place: int) -> float:
        """Return the model's value of sin(place)."""
        return float(self.weights[place % min(len(self.weights), 10_000)])


class Worker:
    """A thread that answers requests with the newest model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.answered = 0
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        """Stand in for the loop that takes requests from a socket or a queue."""
        while True:
            model = self.model  # once a request: all of its answer comes from one model
            model.answer(self.answered)
            self.answered += 1
            time.sleep(0.001)


async def run(options: argparse.Namespace) -> None:
    """Follow the servers, and switch to each new version."""
    worker: Worker | None = None
    # Loaders go by a file's suffix, so outputs keep the names that the trainer gave them. A loaded version is
    # in memory, so its file may go once the next one is loaded.
    client = shardcast.Client(options.servers, options.output_dir, output_name="{version}-{name}")
    async with client, aclosing(client.follow(keep=1)) as releases:
        async for release in releases:
            model = await asyncio.to_thread(Model, release.path)
            if worker is None:
                worker = Worker(model)
            worker.model = model  # one assignment: a request meets the old model or the new one
            error = sum((model.answer(place) - math.sin(place)) ** 2 for place in range(1000)) / 1000
            print(
                f"{release.version} answers now: step {model.step}, error {error:.6f}; "
                f"{worker.answered} requests answered before",
                flush=True,
            )
            if options.until and release.number >= options.until:
                return


def main() -> None:
    """Run the command."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "middles or origins, comma-separated (default: %(default)s)"
    line.add_argument("--servers", default="127.0.0.1", help=text)
    text = "where versions arrive (default: %(default)s)"
    line.add_argument("--output-dir", type=Path, default=Path("downloads"), help=text)
    text = "end once version N, or a newer one, answers (default: go on)"
    line.add_argument("--until", type=int, metavar="N", help=text)
    try:
        asyncio.run(run(line.parse_args()))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    except shardcast.ShardcastError as error:
        sys.exit(f"following ended: {error}")


if __name__ == "__main__":
    main()
