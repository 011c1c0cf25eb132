"""The count of vague words takes prose, and neither code nor comments for tools."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WORDS = Path(__file__).resolve().parents[3] / "scripts" / "words"

MODULE = '''"""Return it, `it` and ``its``."""

NAME = "that is no prose"
"""The name that counts."""


def what() -> None:  # noqa: it
    """Do nothing."""
    # Why: the server is slow.
'''
PAGE = """What counts.

```
it its that
```
"""


def test_words_counts_prose_only(tmp_path: Path) -> None:
    (tmp_path / "shardcast").mkdir()
    (tmp_path / "shardcast" / "module.py").write_text(MODULE)
    (tmp_path / "README.md").write_text(PAGE)
    done = subprocess.run([sys.executable, WORDS, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "docstrings and comments: 142.9 vague words in 1000 (2 of 14)",
        "README and docs: 500.0 vague words in 1000 (1 of 2)",
    ]
