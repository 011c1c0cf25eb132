"""The floor of publishing: ``PAYLOAD FOLDER SHARD_SIZE`` (FOLDER - for no copy).

Bare threads compute what publishing does and nothing else: one the whole SHA-256 in order; as many more as
there are cores left, at least one, take shards: SHA-256, the BLAKE3 of every piece of 256 KiB, and the copy,
which one more makes durable. Prints what it took as JSON.
"""

import json
import os
import queue
import sys
import threading
import time
from hashlib import sha256

from blake3 import blake3

BUFFER = 1 << 20
PIECE = 1 << 18

payload, folder, shard_size = sys.argv[1], sys.argv[2], int(sys.argv[3])
started = time.monotonic()
source = os.open(payload, os.O_RDONLY)
size = os.fstat(source).st_size
todo = iter(range(0, size, shard_size))
lock = threading.Lock()
digests: dict[int, tuple[str, bytes]] = {}
written: queue.SimpleQueue[int] = queue.SimpleQueue()
whole = sha256()


def hash_whole() -> None:
    """Compute the whole digest, in order."""
    buffer, done = memoryview(bytearray(BUFFER)), 0
    while done < size:
        count = os.preadv(source, [buffer], done)
        whole.update(buffer[:count])
        done += count


def cut() -> None:
    """Take shards, and compute their digests."""
    buffer = memoryview(bytearray(BUFFER))
    while True:
        with lock:
            start = next(todo, None)
        if start is None:
            return
        single, pieces, done, length = sha256(), [], 0, min(shard_size, size - start)
        part = -1
        if folder != "-":
            part = os.open(f"{folder}/{start}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        while done < length:
            count = os.preadv(source, [buffer[: min(BUFFER, length - done)]], start + done)
            single.update(buffer[:count])
            for at in range(0, count, PIECE):
                pieces.append(blake3(buffer[at : min(at + PIECE, count)]).digest())
            if part >= 0:
                os.write(part, buffer[:count])
            done += count
        if part >= 0:
            written.put(part)
        digests[start] = single.hexdigest(), b"".join(pieces)


def make_durable() -> None:
    """Sync files in the background."""
    while (part := written.get()) >= 0:
        os.fsync(part)
        os.close(part)


shard_threads = max(1, len(os.sched_getaffinity(0)) - 1)
workers = [threading.Thread(target=hash_whole), *(threading.Thread(target=cut) for _ in range(shard_threads))]
disk = threading.Thread(target=make_durable)
for one in (*workers, disk):
    one.start()
for one in workers:
    one.join()
written.put(-1)
disk.join()
print(json.dumps({"seconds": time.monotonic() - started, "sha256": whole.hexdigest()}))
