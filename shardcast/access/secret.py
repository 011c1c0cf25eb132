"""Secrets, and text made of them, hidden from every log, error, repr and traceback."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, NoReturn


class Secret:
    """A text shown by ``reveal`` alone.

    Neither ``str`` nor ``repr`` shows the text, and so neither does a log, an error or a traceback with local
    variables. The object can't be pickled: a pickle would carry the text to files and other processes.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text. Keep the result out of variables of functions that can raise."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not pickled; have the other process read SHARDCAST_TOKEN_FILE")


class HeaderValue(str):
    """The value of a header, with a repr that hides the text."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "HeaderValue(…)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a header with a secret is not pickled")


AUTHORIZATION = "Authorization"
"""The header with the token."""


def bearer(token: Secret) -> dict[str, str]:
    """Return the header with a token for a server (RFC 6750)."""
    return {AUTHORIZATION: HeaderValue(f"Bearer {token.reveal()}")}


def has_secret(headers: Mapping[str, Any] | None) -> bool:
    """Return whether headers show a token."""
    return bool(headers) and any(isinstance(value, HeaderValue) for value in (headers or {}).values())


def clear_locals(trace: TracebackType | None) -> None:
    """Clear the local variables of ended functions in a traceback.

    The code behind a request has the whole head in a variable; a report of the error with local variables
    would show the token there.
    """
    while trace is not None:
        try:
            trace.tb_frame.clear()
        except RuntimeError:
            pass  # the function still runs
        trace = trace.tb_next
