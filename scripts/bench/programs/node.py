"""Run a published shardcast from a folder of its own: ``FOLDER ROLE OPTION…``, ROLE being client, origin
(on a port that the system picks), middle, or broadcast (``DATA_DIR PATH [--link]``, says how long that took).

``ours`` as FOLDER means the shardcast of this environment, which has the same names.
"""

import sys
import threading
import time

folder, role, *words = sys.argv[1:]
if folder != "ours":
    sys.path.insert(0, folder)
import shardcast  # noqa: E402

assert folder == "ours" or str(shardcast.__file__).startswith(folder), shardcast.__file__

if role == "client":
    from shardcast.client_node import main

    sys.argv = ["shardcast-client", *words]
    sys.exit(main())
if role == "broadcast":
    data_dir, path, *linked = words
    node = shardcast.OriginServer(data_dir, 0)
    started = time.monotonic()
    node.broadcast(path, **({"copy": False} if linked else {}))
    print(time.monotonic() - started, flush=True)
    node.shutdown()
    sys.exit()
if role == "origin":
    node = shardcast.OriginServer(words[0], 0)
else:
    data_dir, interval, *upstream = words
    node = shardcast.MiddleNode(upstream, data_dir, 0, int(interval))
print(f"Listening on http://127.0.0.1:{node.http_server.server_address[1]}", file=sys.stderr, flush=True)
threading.Event().wait()
