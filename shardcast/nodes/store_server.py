"""Where gunicorn finds the hash server, as compose files have it: ``shardcast.nodes.store_server:app()``."""

from shardcast.blobs.server.hash_server import app

__all__ = ["app"]
