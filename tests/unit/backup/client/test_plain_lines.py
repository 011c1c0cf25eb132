"""Lines of plain files: the same bytes as an encoder makes, and of plain files only."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.backup.client import plain_lines
from shardcast.backup.entries import fields_line

OWNERS = st.none() | st.text('aZ9 é€😀%{}\n"\\\u2028\udc80', max_size=6)


@given(
    st.binary(min_size=1, max_size=20) | st.text(min_size=1, max_size=9).map(str.encode),
    OWNERS,
    OWNERS,
    st.integers(0, (1 << 32) - 1),
    st.booleans(),
)
def test_line_is_as_the_encoder_makes_it(
    name: bytes, user: str | None, group: str | None, number: int, empty: bool
) -> None:
    size = 0 if empty else number + 1
    found: Any = SimpleNamespace(
        st_mode=stat.S_IFREG | number % 0o10000,
        st_uid=number,
        st_gid=number,
        st_size=size,
        st_mtime_ns=-number,
    )
    names = {key: value for key, value in (("user", user), ("group", group)) if value}
    chunk = b"c" * 32 if size else b""
    fields = {"name": name, "kind": "file", "mode": number % 0o10000, "uid": number, "gid": number}
    fields |= {"mtime": -number, "size": size, "chunks": (chunk,) if chunk else (), **names}
    plain_lines._shared.cache_clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plain_lines, "owner_names", lambda uid, gid: names)
        assert plain_lines.plain_line(name, chunk, found) == fields_line(fields)
    plain_lines._shared.cache_clear()


def test_file_of_two_names_with_holes_or_of_another_kind_is_not_plain(tmp_path: Path) -> None:
    for name in ("plain", "two"):
        (tmp_path / name).write_bytes(b"x" * 5000)
    os.link(tmp_path / "two", tmp_path / "names")
    (tmp_path / "holes").touch()
    os.truncate(tmp_path / "holes", 1 << 20)
    plain = [file.name for file in tmp_path.iterdir() if plain_lines.is_plain(file.stat())]
    assert plain == ["plain"]
    assert not plain_lines.is_plain(tmp_path.stat())
