"""The earlier place of ``shardcast.blobs.client.archive``, as docs named it in 0.4.0."""

from shardcast.blobs.client.archive import ArchiveClient as Archive

__all__ = ["Archive"]
