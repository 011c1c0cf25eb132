"""The file of ``start --config``: hashstore's keys in YAML, limited to lines ``key: value``."""

from __future__ import annotations

import re
from pathlib import Path

from shardcast.disk_errors import disk_errors
from shardcast.errors import UsageError

KEYS = ("store_dir", "port")
"""The supported keys."""
_PASSED_OVER = ("access_mode", "mounts")
"""hashstore's keys without a meaning here: each client has its own key, and no folder is served directly."""
_PORT = re.compile(
    r"[0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]", re.ASCII
)
_MAX_SIZE = 64 << 10
"""Bytes of the file."""


def read_config(file: Path) -> tuple[dict[str, str], list[str]]:
    """Return the settings of a file, and the ignored keys.

    Raises:
        UsageError: a line is malformed (as for ``parse_config``), or the file is too large or no UTF-8.
        LocalDiskError: the file can't be read.
    """
    with disk_errors("could not read", file), file.open("rb") as opened:
        data = opened.read(_MAX_SIZE + 1)
    if len(data) > _MAX_SIZE:
        raise UsageError(f"{file} has more than {_MAX_SIZE} bytes")
    try:
        return parse_config(data.decode())
    except UnicodeDecodeError:
        raise UsageError(f"{file} is no UTF-8") from None
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None


def parse_config(text: str) -> tuple[dict[str, str], list[str]]:
    """Return the settings of a text, and the ignored keys.

    Raises:
        UsageError: a line is no ``key: value``, a key is unknown or repeated, or a value is missing or wrong.
    """
    settings, passed_over = dict[str, str](), list[str]()
    nested = False
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#") or stripped in ("---", "..."):
            continue
        if line[0].isspace() or stripped.startswith("- "):
            if nested:
                continue  # below a key that is passed over
            raise UsageError(f"line {number} is indented below a key with one value")
        key, colon, value = stripped.partition(":")
        key, value = _unquote(key), _value(value, number)
        if not colon:
            raise UsageError(f"line {number} is no `key: value`")
        if key in settings or key in passed_over:
            raise UsageError(f"line {number} sets {key} again")
        nested = key in _PASSED_OVER
        if nested:
            passed_over.append(key)
        elif key == "port" and not _PORT.fullmatch(value):
            raise UsageError(f"line {number} has no port from 0 to 65535")
        elif key in KEYS and value:
            settings[key] = value
        else:
            wanted = (
                f"has no value for {key}" if key in KEYS else f"names {key!r}; the keys are {', '.join(KEYS)}"
            )
            raise UsageError(f"line {number} {wanted}")
    return settings, passed_over


def _value(text: str, number: int) -> str:
    """Return a value without quotes and trailing comment.

    Raises:
        UsageError: a quote does not end, text follows a quote, or the value is no plain text.
    """
    text = text.strip()
    if text[:1] in ("'", '"'):
        quoted, quote, rest = text[1:].partition(text[0])
        if not quote or (rest.strip() and not rest.strip().startswith("#")):
            raise UsageError(f"line {number} has an unclosed quote, or text after a quote")
        return quoted
    if text[:1] in ("[", "{", "&", "*", "!", "|", ">", "%", "@", "`"):
        raise UsageError(f"line {number} has a value other than plain text; put quotes around it")
    return text.partition(" #")[0].strip()


def _unquote(text: str) -> str:
    """Return a key without quotes."""
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
