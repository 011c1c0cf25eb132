"""Work as a user who is not root: root may read and remove anything, so permissions show only to others."""

from __future__ import annotations

import os
import pickle
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

NOBODY = 65534
Result = TypeVar("Result")


@contextmanager
def place_for_all() -> Iterator[Path]:
    """Make a temporary folder that any user can write to, and remove it at the end."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        yield Path(place)


def as_nobody(work: Callable[[], Result]) -> Result:
    """Return the result of a function called in a child process, as another user where this one is root."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _work_in_child(work, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    done, result = pickle.loads(answer)
    assert done, result
    return result  # type: ignore[no-any-return]


def _work_in_child(work: Callable[[], Result], pipe: int) -> None:
    """Write the function's result, or the text of its error, to the pipe, and end."""
    try:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        answer = pickle.dumps((True, work()))
    except BaseException:  # noqa: BLE001  the test shows it
        answer = pickle.dumps((False, traceback.format_exc()))
    os.write(pipe, answer)
    os._exit(0)
