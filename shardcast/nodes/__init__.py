"""Nodes: origin, middle and client, put together of a store, a server and a transfer."""
