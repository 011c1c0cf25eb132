"""The blocks of docs/ and of examples/README.md run as they stand, with hosts, ports and paths of the test.

README and docs/security.md have tests of their own.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import pages, processes
from tests.support.page_shell import page_shell

HOSTS = {
    r"10\.0\.0\.1(?![\d:])": "127.0.0.1:PORT_1",
    r"10\.0\.0\.[23](:8001)?": "127.0.0.1:PORT_2",
}
"""The origin and the middle of the pages, which are those of ``NETWORK``."""
NETWORK = """
shardcast-origin --data-dir above --host 127.0.0.1 --port PORT_1 --broadcast 1 --broadcast 2 --broadcast 3
shardcast-middle --upstream 127.0.0.1:PORT_1 --data-dir below --host 127.0.0.1 --port PORT_2
until shardcast status 127.0.0.1:PORT_2; do sleep 0.1; done
"""
TORCH = "class torch:\n    save = staticmethod(lambda state, file: file.write(state))\n\n"


@dataclass(frozen=True)
class Session:
    """A page, and what its blocks find when they run.

    Attributes:
        page: its name.
        replacements: regular expressions of hosts, paths and sizes, and the text in their place; in both this
            and the next ones PORT_1 to PORT_3 are free ports, FOLDER the folder.
        files: files that are there before, with their content.
        before: shell commands of the reader's before the first block.
        python: lines before a block of Python.
        last: text of blocks that a reader comes to in another situation, after the others.
        made: files and folders that are there afterwards.
        printed: what the commands print.
    """

    page: str
    replacements: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    python: str = ""
    last: tuple[str, ...] = ()
    made: tuple[str, ...] = ()
    printed: tuple[str, ...] = ()


SESSIONS = (
    Session(
        "folders.md",
        replacements={**HOSTS, '"/data/tokenizer': '"tokenizer'},
        files={"checkpoint/a.bin": "weights", "tokenizer.json": "{}"},
        before="shardcast-origin --data-dir data --host 127.0.0.1 --port PORT_2\n",
        python=(
            "import shardcast\n"
            "shardcast.initialize(data_dir='steps', port=PORT_3)\n"
            "data = state = b'weights'\n"
            "n = len(data)\n" + TORCH
        ),
        made=("downloads/v1/a.bin", "steps/v1"),
    ),
    Session(
        "operations.md",
        replacements={
            **HOSTS,
            "--data-dir ./data": "--data-dir ./data --host 127.0.0.1 --port PORT_3",
            r"\| jq '.*'": r"\g<0>" if shutil.which("jq") else "",
        },
        files={"1": "step 1", "2": "step 2", "3": "step 3"},
        before=NETWORK,
        made=("origin.log",),
        printed=("HELD BY", "ON ITS WAY", '"ready"'),
    ),
    Session(
        "python.md",
        replacements={**HOSTS, r"(async for .*\n +load\(release.path\))$": r"\1\n        break"},
        files={"1": "step 1", "2": "step 2", "3": "step 3", "model.bin": "step 4"},
        before=NETWORK,
        python=(
            "import shardcast\n"
            "shardcast.initialize(data_dir='own', port=PORT_3)\n"
            "def load(path):\n    assert open(path).read() == 'step 3'\n"
        ),
        made=("base.bin", "own/v1"),
        printed=("v3",),
    ),
    Session(
        "compatibility-registry.md",
        files={"store/.keep": ""},
        python=(
            "import json, sqlite3\n"
            "from shardcast import registry\n"
            "here = {'protocol': 'file', 'location': 'FOLDER/store'}\n"
            "registry.configure({'default': 'here', 'here': here})\n"
            "database = sqlite3.connect(':memory:')\n"
            "database.execute('CREATE TABLE files (content TEXT)')\n"
            "registry.put_hash(b'unreferenced', 'lab')\n"
            "kept = json.dumps(registry.put_hash(b'kept', 'lab'))\n"
            "database.execute('INSERT INTO files VALUES (?)', (kept,))\n"
        ),
        printed=("referenced   1 item", "too young    1 item"),
    ),
    Session("from-0.1.md"),
    Session(
        "simulation.md",
        replacements={r"scripts/simulate [^#\n]*": r"\g<0> --size 1MiB "},
        printed=("100 nodes done", "into a site", "all rules"),
    ),
    Session(
        "backup.md",
        replacements={
            "--port 9753": "--host 127.0.0.1 --port PORT_1",
            "backup-host:9753": "127.0.0.1:PORT_1",
            r"^(shardcast-backup invite [^#\n]*)": r"\1 | tee invitation ",
            r"--invitation \S+": '--invitation "$(cat invitation)"',
            r"^15 2 \* \* \* ": "",
            "/home/me": "FOLDER",
            r"diff \w+ \w+": "diff $(shardcast-backup snapshots --dir ~/work | cut -c 1-8)",
            "vm-work": "$(hostname)-work",
        },
        files={"work/a.txt": "text\n", "work/x.bin": "bytes"},
        last=("--replace", "~/new.key"),
        made=("out/a.txt", "back/a.txt"),
        printed=("text\n", "x.bin"),
    ),
    Session(
        "README.md",
        replacements={
            r"--steps 20 --size 64000000": "--steps 3 --size 1000000 --port PORT_1 --linger 600",
            r"infer.py --servers 127.0.0.1": r"\g<0>:PORT_1 --until 3",
            r"publish --steps 5": r"\g<0> --size 2000000 --pause 0.1 --port PORT_2 --data-dir steps",
            r"load --servers 127.0.0.1": r"\g<0>:PORT_2 --until 5 --output-dir loaded",
        },
        printed=("v3 answers now", "v5 is loaded", "Get something large"),
    ),
)
FOLDERS = {"README.md": pages.ROOT / "examples"}
"""Folders of pages that are not in docs/."""


@pytest.fixture
def ports() -> Iterator[dict[str, str]]:
    with ExitStack() as stack:
        yield {f"PORT_{n}": str(stack.enter_context(processes.reserved_port())) for n in (1, 2, 3)}


@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: session.page)
def test_blocks_of_page_run_as_written(session: Session, ports: dict[str, str], tmp_path: Path) -> None:
    def filled(text: str) -> str:
        for name, value in {**ports, "FOLDER": str(tmp_path)}.items():
            text = text.replace(name, value)
        return text

    for name in ("examples", "scripts", "README.md"):  # a reader is in a clone
        (tmp_path / name).symlink_to(pages.ROOT / name)
    for name, content in session.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    page = FOLDERS.get(session.page, pages.ROOT / "docs") / session.page
    python = pages.blocks_to_run(page, "python")
    blocks = sorted(pages.blocks_to_run(page), key=lambda block: any(word in block for word in session.last))
    replacements = {pattern: filled(text) for pattern, text in session.replacements.items()}
    with page_shell(tmp_path, replacements, HOME=str(tmp_path)) as shell:
        if session.before:
            shell.run(filled(session.before))
        printed = [
            shell.run_python(block, filled(session.python)) if block in python else shell.run(block)
            for block in blocks
        ]
    assert blocks
    assert [text for text in session.printed if text not in "".join(printed)] == []
    assert [name for name in session.made if not (tmp_path / name).exists()] == []
