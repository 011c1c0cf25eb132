"""The floor of a fully verified transfer: ``URL OUTPUT THREADS [--sync]``.

Bare threads do the work and nothing else: a keep-alive connection each, whole shards, 1 MiB at a time into
one buffer, the BLAKE3 of every piece of 256 KiB compared with the manifest's, pwrite; and one more thread
computes the whole SHA-256 in order, reading behind. Prints what it took as JSON.
"""

import base64
import http.client
import json
import os
import sys
import threading
import time
from hashlib import sha256
from urllib.parse import urlsplit

from blake3 import blake3

BUFFER = 1 << 20

url, output, threads, *more = sys.argv[1:]
address = urlsplit(url)
started = time.monotonic()


def connect() -> http.client.HTTPConnection:
    """Open a connection."""
    return http.client.HTTPConnection(address.hostname or "", address.port)


def ask(connection: http.client.HTTPConnection, path: str) -> http.client.HTTPResponse:
    """Send a request, and return the answer."""
    connection.request("GET", f"{address.path}/{path}")
    answer = connection.getresponse()
    if answer.status != 200:
        sys.exit(f"{path}: {answer.status}")
    return answer


lines = [json.loads(line) for line in ask(connect(), "v1/manifest.jsonl").read().splitlines()]
piece_size, shards, closing = lines[0]["piece_size"], lines[1:-1], lines[-1]
offsets = [sum(one["size"] for one in shards[:n]) for n in range(len(shards))]
file = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

todo = iter(range(len(shards)))
here = [0] * len(shards)
news, writing = threading.Condition(), threading.Lock()
wrong: list[str] = []


def receive() -> None:
    """Take shards, verify their pieces, and write them."""
    connection, buffer = connect(), memoryview(bytearray(BUFFER))
    while True:
        with news:
            number = next(todo, None)
        if number is None or wrong:
            return
        pieces = base64.b64decode(shards[number]["blake3"])
        answer, done, size = ask(connection, f"v1/shard_{number + 1:03d}.bin"), 0, shards[number]["size"]
        while done < size:
            count = answer.readinto(buffer[: min(BUFFER, size - done)])
            for start in range(0, count, piece_size):
                index = (done + start) // piece_size * 32
                if (
                    blake3(buffer[start : min(start + piece_size, count)]).digest()
                    != pieces[index : index + 32]
                ):
                    wrong.append(f"a piece of shard {number + 1} is wrong")
                    return
            with writing:  # who waits for the file's own lock spins
                os.pwrite(file, buffer[:count], offsets[number] + done)
            done += count
            with news:
                here[number] = done
                news.notify_all()
        answer.read()


def hash_behind() -> None:
    """Compute the whole digest, in order, behind the shards."""
    whole, buffer = sha256(), memoryview(bytearray(BUFFER))
    for number, shard in enumerate(shards):
        done = 0
        while done < shard["size"]:
            with news:
                news.wait_for(lambda number=number, done=done: here[number] > done)
                until = here[number]
            while done < until:
                count = os.preadv(file, [buffer[: min(BUFFER, until - done)]], offsets[number] + done)
                whole.update(buffer[:count])
                done += count
    if whole.hexdigest() != closing["sha256"]:
        wrong.append("the payload is wrong")


workers = [threading.Thread(target=receive, daemon=True) for _ in range(int(threads))]
behind = threading.Thread(target=hash_behind, daemon=True)
for one in (*workers, behind):
    one.start()
for one in workers:
    one.join()
if wrong:
    sys.exit(wrong[0])
behind.join()
if wrong:
    sys.exit(wrong[0])
if "--sync" in more:
    os.fsync(file)
print(json.dumps({"seconds": time.monotonic() - started}))
