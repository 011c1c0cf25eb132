#!/usr/bin/env python3
"""An inference worker that follows a training run: it fetches each new version and switches to it.

    python infer.py --servers 10.0.0.2,10.0.0.3

It answers with the version it has while the next one is on its way. The checkpoints are those of
`train.py`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import shardcast


class Model:
    """A checkpoint in memory."""

    def __init__(self, path: Path) -> None:
        self.weights = array("f")
        with path.open("rb") as file:
            self.header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            self.weights.fromfile(file, self.header["weights"])

    def answer(self, place: int) -> float:
        """Return the model's value of sin(place)."""
        return self.weights[place % min(len(self.weights), 10_000)]


class Worker:
    """A thread that answers requests with the newest model."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.answered = 0
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        """Stand in for the loop that takes requests from a socket or a queue."""
        while True:
            self.model.answer(self.answered)
            self.answered += 1
            time.sleep(0.001)


def new_versions(servers: list[str], output_dir: Path, interval: float) -> Iterator[tuple[int, Model]]:
    """Yield each version newer than the one before, loaded; those overtaken meanwhile are left out."""
    client = shardcast.ClientNode(servers, str(output_dir))
    current = 0
    while True:
        try:
            newest = max((int(name[1:]) for name in client.list_available_versions()), default=0)
            # None is said of a version that was retired since: the next list has a newer one.
            if newest > current and (output := client.download_version(f"v{newest}")):
                current = newest
                yield newest, Model(Path(output))
                Path(output).unlink()
        except shardcast.ShardcastError as error:
            print(f"asking again in {interval:g} s: {error}", file=sys.stderr, flush=True)
        time.sleep(interval)


def run(options: argparse.Namespace) -> None:
    """Follow the servers, and switch to each new version."""
    worker: Worker | None = None
    for version, model in new_versions(options.servers, options.output_dir, options.interval):
        if worker is None:
            worker = Worker(model)
        worker.model = model  # one assignment: a request meets the old model or the new one, never a mixture
        error = sum((model.answer(place) - math.sin(place)) ** 2 for place in range(1000)) / 1000
        print(
            f"v{version} answers now: step {model.header['step']}, error {error:.6f}; "
            f"{worker.answered} requests answered before",
            flush=True,
        )
        if options.until and version >= options.until:
            return


def main() -> None:
    """Run the command."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "middles or origins, comma-separated (default: %(default)s)"
    line.add_argument("--servers", type=lambda text: text.split(","), default="127.0.0.1", help=text)
    text = "where versions arrive (default: %(default)s)"
    line.add_argument("--output-dir", type=Path, default=Path("downloads"), help=text)
    text = "seconds between two looks for a new version (default: %(default)s)"
    line.add_argument("--interval", type=float, default=1, help=text)
    text = "end once version N, or a newer one, answers (default: go on)"
    line.add_argument("--until", type=int, metavar="N", help=text)
    try:
        run(line.parse_args())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)


if __name__ == "__main__":
    main()
