"""The access rules of a listener."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerAccess:
    """Who may send requests to a listener, and over which lines; by default everybody, in plain HTTP."""
