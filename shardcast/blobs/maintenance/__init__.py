"""Garbage collection and scrubbing of directories of blobs."""
