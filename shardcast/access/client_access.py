"""The access of a node to the servers above it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClientAccess:
    """What a node shows to servers, and what it requires of them; by default nothing."""
