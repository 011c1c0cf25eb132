"""Earlier place of the hash server; compose files name gunicorn ``shardcast.nodes.store_server:app()``."""

from shardcast.blobs.server.hash_server import app

__all__ = ["app"]
