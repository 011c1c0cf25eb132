"""A busy Python loop on one core: ``SECONDS CORE [DATA_DIR PAYLOAD OTHER_CORES]``.

With a data directory it broadcasts meanwhile, as a trainer does: the origin runs on the other cores
(comma-separated). Says where the origin listens, begins at a line on stdin, and prints the seconds that a
million rounds take, and those of CPU, as JSON.
"""

import json
import os
import socket
import sys
import time

seconds, core, *more = sys.argv[1:]
ROUNDS = 20_000


def compute() -> int:
    """Run a round of pure Python: numbers, a list, a dictionary."""
    value, seen, row = 1, {}, [0] * 64
    for index in range(ROUNDS):
        value = (value * 1103515245 + 12345) & 0x7FFFFFFF
        row[index & 63] ^= value
        seen[value & 255] = index
    return sum(row) + len(seen)


if more:
    import shardcast

    data_dir, payload, others = more
    os.sched_setaffinity(0, set(map(int, others.split(","))))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shardcast.initialize(data_dir, port)
    print(f"Listening on http://127.0.0.1:{port}", file=sys.stderr, flush=True)
os.sched_setaffinity(0, {int(core)})
compute()
print("ready", flush=True)
sys.stdin.readline()
if more:
    shardcast.broadcast(payload, wait=False)
started, worked, done = time.monotonic(), time.thread_time(), 0
while time.monotonic() - started < float(seconds):
    compute()
    done += ROUNDS
took = {"seconds": time.monotonic() - started, "cpu_seconds": time.thread_time() - worked}
print(json.dumps({name: value / done * 1e6 for name, value in took.items()}), flush=True)
