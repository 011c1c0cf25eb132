"""What holds for all tests."""

from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Have an interrupt end what the tests start, as it does at a terminal: a shell has what it runs in the
    background ignore it, and so has whatever is started there."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
