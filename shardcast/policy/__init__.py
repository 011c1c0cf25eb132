"""Decisions as pure functions of plain values: no clock and no random source of their own, no I/O."""
