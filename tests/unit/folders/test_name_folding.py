"""File systems that fold case or normalise: which names collide there, and that nothing is written then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shardcast.errors import LocalDiskError
from shardcast.folders import output
from shardcast.folders.name_folding import NameFolding, find_collision, probe_folding
from shardcast.folders.options import FolderOptions
from shardcast.folders.output import FolderOutput
from shardcast.store.live_manifest import LiveManifest
from tests.support.folder_manifests import folder_manifest
from tests.support.folder_tables import table_of_files

COMPOSED, DECOMPOSED = "\N{LATIN SMALL LETTER E WITH ACUTE}", "e\N{COMBINING ACUTE ACCENT}"
CASE, FORM, BOTH = NameFolding(case=True), NameFolding(form=True), NameFolding(case=True, form=True)


@pytest.mark.parametrize(
    ("names", "folding", "found"),
    [
        (["A", "a"], CASE, ("A", "a")),
        (["A/", "A/x", "a/", "a/x"], CASE, ("A", "a")),
        (["a/", "a/X", "a/x"], CASE, ("a/X", "a/x")),
        (["Readme", "b", "readme/", "readme/x"], CASE, ("Readme", "readme")),
        (["STRASSE", "stra\N{LATIN SMALL LETTER SHARP S}e"], CASE, ("STRASSE", "straße")),
        ([DECOMPOSED, COMPOSED], FORM, (DECOMPOSED, COMPOSED)),
        ([DECOMPOSED.upper(), COMPOSED], BOTH, (DECOMPOSED.upper(), COMPOSED)),
        (["A", "a", COMPOSED, DECOMPOSED], NameFolding(), None),
        (["A", "a"], FORM, None),
        ([COMPOSED, DECOMPOSED], CASE, None),
        (["a/", "a/x", "x"], BOTH, None),
        (["\udcff", "\udcfe"], BOTH, None),
    ],
)
def test_collision_is_found(names: list[str], folding: NameFolding, found: tuple[str, str] | None) -> None:
    collision = find_collision(map(os.fsencode, names), folding)
    assert (collision and tuple(map(os.fsdecode, collision))) == found


def test_probe_tells_names_apart_here_and_leaves_nothing(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        assert not probe_folding(root)
        (tmp_path / "x").mkdir()
        gone = os.open(tmp_path / "x", os.O_RDONLY)
        (tmp_path / "x").rmdir()
        assert not probe_folding(gone)  # where no name can be made, nothing is known
        os.close(gone)
    finally:
        os.close(root)
    assert not list(tmp_path.iterdir())


def test_probe_finds_a_file_system_that_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test can mount one everywhere, so the look-up folds the case of the names here."""
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda name, **options: stat(name[:-1] + name[-1].lower(), **options))
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        assert probe_folding(root) == CASE
    finally:
        os.close(root)


def test_colliding_names_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "probe_folding", lambda root: CASE)
    manifest, _ = folder_manifest(table_of_files(["A", "a", "b"]))
    with pytest.raises(LocalDiskError, match=r"'A' and 'a' of v1 are one name .* another one.*--exclude"):
        FolderOutput(tmp_path / "v1", LiveManifest.of(manifest))
    assert not list(tmp_path.iterdir())
    FolderOutput(tmp_path / "v1", LiveManifest.of(manifest), FolderOptions(exclude=("A",))).close()
