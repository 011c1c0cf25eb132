"""An output gives its pieces to neighbours only as long as its bytes are those that were verified."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from shardcast.store.output_pieces import OutputPieces
from tests.support.filling import DATA, MANIFEST, fill, open_output


async def completed(output: Path) -> OutputPieces:
    """Fill an output until it has its name, and return its bytes."""
    with open_output(output) as opened:
        pieces = opened.open_pieces()
        assert pieces.unchanged
        await fill(opened)
        await opened.complete(MANIFEST)
        assert opened.final
        pieces.mark_named(opened.final)
    return pieces


def write(output: Path) -> None:
    """Write one byte to a file, and put its time of writing back to a moment that shows."""
    with output.open("r+b") as file:
        file.write(b"x")
    os.utime(output, ns=(1, 1))


async def test_pieces_can_be_read_after_the_output_got_its_name(tmp_path: Path) -> None:
    pieces = await completed(tmp_path / "out")
    assert pieces.unchanged
    assert pieces.file.read() == DATA
    pieces.close()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(write, id="written"),
        pytest.param(lambda output: os.truncate(output, 10), id="truncated"),
        pytest.param(lambda output: output.unlink(), id="removed"),
        pytest.param(lambda output: output.rename(output.with_name("other")), id="renamed"),
        pytest.param(
            lambda output: (output.unlink(), output.write_bytes(DATA)), id="replaced by equal bytes"
        ),
    ],
)
async def test_pieces_count_as_changed_once_the_output_is(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    pieces = await completed(tmp_path / "out")
    change(tmp_path / "out")
    assert not pieces.unchanged
    pieces.close()


async def test_linked_output_is_unchanged(tmp_path: Path) -> None:
    pieces = await completed(tmp_path / "out")
    (tmp_path / "link").hardlink_to(tmp_path / "out")
    assert pieces.unchanged
    pieces.close()
