"""The shim that makes file-system calls fail, built where a compiler is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")
_COMPILERS = ("cc", "gcc", "clang")


class NoShim(Exception):
    """The shim can't be built on this machine; the text says why."""


def build(folder: Path) -> Path:
    """Compile the shim into a folder, and return the library.

    Raises:
        NoShim: there is no compiler, or it fails.
    """
    if sys.platform != "linux":
        raise NoShim(f"the shim is for Linux's libc, and this is {sys.platform}")
    compiler = os.environ.get("CC") or next(filter(shutil.which, _COMPILERS), None)
    if compiler is None:
        raise NoShim(f"no C compiler: none of {', '.join(_COMPILERS)} is on PATH, and CC is not set")
    library = folder / "faults.so"
    words = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(SOURCE), "-ldl", "-lpthread"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoShim(f"{compiler} can't build the shim: {done.stderr.strip()[-500:]}")
    return library
