"""Lists of digests, as other programs write them."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.blobs.digest_lists import OPEN_ARGUMENTS, read_digests
from shardcast.blobs.maintenance import gc_roots as roots
from shardcast.errors import LocalDiskError, UsageError
from tests.support.processes import run
from tests.support.stores import fill, sha256

ONE, OTHER = sha256(b"one"), sha256(b"other")


def read(text: str, algorithm: str | None = None) -> list[str]:
    return list(read_digests(io.StringIO(text, newline=""), "the list", algorithm))


@pytest.mark.parametrize(
    "text",
    [
        f"{ONE}  a name\n{OTHER}\n",
        f"{ONE} *a name\n{OTHER.upper()} *b\n",
        f"\\{ONE}  a\\\\name\n\\{OTHER}  a\\nname\n",
        f"\ufeff{ONE}  a name\r\n{OTHER}  b\r\n",
        f"\ufeff# mine\n\n{ONE}\n{OTHER}",
        f"SHA256 (a name) = {ONE}\n\\SHA256 (a (\\n) = {ONE}) = {OTHER}\n",
        f"\ufeffSHA2-256(a name)= {ONE}\nSHA256(b)= {OTHER}\n",
    ],
)
def test_every_list_format_is_read(text: str) -> None:
    assert read(text) == [ONE, OTHER]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense", "\\", "\\ ", "SHA256 (a) =", "SHA256 (a)", f"MD5 (a) = {'0' * 32}",
        f"SHA512 (a) = {'0' * 128}",
        f"BLAKE2b-256 (a) = {ONE}", f"a name  {ONE}", ONE[:-1], f"{ONE}0", f"\\\\{ONE}", f"\ufeff\ufeff{ONE}",
    ],
)  # fmt: skip
def test_malformed_digest_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(UsageError, match="the list, line 2"):
        read(f"{ONE}\n{line}\n")


def test_list_naming_another_algorithm_than_the_store_is_refused() -> None:
    assert read(f"SHA3-256 (a) = {ONE}\n{OTHER}\n", "sha3-256") == [ONE, OTHER]
    with pytest.raises(UsageError, match="line 1: the digest is of sha3-256, and this store uses sha256"):
        read(f"SHA3-256 (a) = {ONE}\n", "sha256")


@pytest.mark.parametrize("option", ["--snapshot", "--registry-references"])
def test_list_with_endless_line_is_refused(option: str, tmp_path: Path) -> None:
    fill(tmp_path, b"one")
    done = run("store", "gc", str(tmp_path), option, "/dev/zero")
    assert (done.returncode, done.stderr) == (
        6, "Error: /dev/zero, line 1: more than 65536 characters\n"
    )  # fmt: skip
    assert run("store", "has", "-d", str(tmp_path), "--from-file", "/dev/zero").returncode == 2


def test_endless_token_file_is_refused(tmp_path: Path) -> None:
    done = run("store", "push", "-d", str(tmp_path), "http://127.0.0.1:1", ONE, "--token-file", "/dev/zero")
    assert (done.returncode, done.stderr) == (
        2, "Error: there are more than 65536 bytes in the token file /dev/zero\n"
    )  # fmt: skip


def test_list_accepts_lines_with_long_names() -> None:
    assert read(f"{ONE}  {'n' * 4096}\n{OTHER}  {'n' * 65000}\n") == [ONE, OTHER]


@given(st.text(), st.sampled_from([f"{ONE}  ", f"\\{ONE} *", f"SHA256 ({{}}) = {ONE}"]))
def test_file_name_cannot_change_the_digest(name: str, form: str) -> None:
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    line = form.format(escaped) if "{}" in form else form + escaped
    assert read(line) == [ONE]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum here")
@pytest.mark.parametrize("words", [[], ["--tag"], ["-b"]])
def test_sha256sum_output_is_read_for_any_file_name(tmp_path: Path, words: list[str]) -> None:
    names = [b"plain", b"a\\name", b"two\nlines", b"not \xff UTF-8", b") = 0", b"#"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    command = [b"sha256sum", *map(os.fsencode, words), b"--", *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    listed = tmp_path / "list"
    listed.write_bytes(done.stdout)
    assert [*roots.snapshot(listed).read()] == [sha256(name) for name in names]


def test_store_has_reads_digests_from_list(tmp_path: Path) -> None:
    (digest,) = fill(tmp_path / "store", b"here")
    listed = tmp_path / "list"
    listed.write_bytes(b"\xef\xbb\xbf\\SHA256 (a\\\\\xff) = " + digest.encode() + b"\r\n")
    done = run("store", "has", "-d", str(tmp_path / "store"), "--from-file", str(listed))
    assert done.returncode == 0, done.stderr
    assert digest in done.stdout


def test_gc_refuses_list_in_another_encoding(tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_bytes(f"{ONE}\n".encode("utf-16"))
    with pytest.raises(LocalDiskError, match="is no text"):
        [*roots.snapshot(listed).read()]
    assert OPEN_ARGUMENTS["encoding"] == "utf-8"
