"""Readers that take what a server sends, over and over: ``URL COUNT SECONDS WINDOW``.

Prints as JSON the bytes a second of all in the slowest and in the fastest window, of WINDOW seconds each, and
how many times the bytes of the last reader the first one got.
"""

import json
import socket
import sys
import threading
import time
from urllib.parse import urlsplit

url, count, seconds, window = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
address = urlsplit(url)
request = f"GET {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n\r\n".encode()
received = [0] * count
started = time.monotonic()


def read(reader: int) -> None:
    """Read one answer after the other, until the time has come."""
    buffer = bytearray(1 << 20)
    while time.monotonic() - started < seconds:
        with socket.create_connection((address.hostname or "", address.port or 80)) as connection:
            connection.sendall(request)
            while time.monotonic() - started < seconds:
                size = connection.recv_into(buffer)
                if not size:
                    break
                received[reader] += size


threads = [threading.Thread(target=read, args=(reader,)) for reader in range(count)]
for thread in threads:
    thread.start()
samples = [(0.0, 0)]
while time.monotonic() - started < seconds:
    time.sleep(0.1)
    samples.append((time.monotonic() - started, sum(received)))
for thread in threads:
    thread.join()
rates = []
for start, before in samples:
    later = [(at, total) for at, total in samples if at - start >= window]
    if later:
        at, total = later[0]
        rates.append((total - before) / (at - start))
print(
    json.dumps(
        {"slowest": min(rates), "fastest": max(rates), "unequal": max(received) / max(1, min(received))}
    )
)
