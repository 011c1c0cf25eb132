"""The content store: directories of blobs, their clients, servers, mirrors and maintenance."""
