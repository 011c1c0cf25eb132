"""Names of outputs after a template, whatever a publisher calls its payload."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardcast.errors import UsageError
from shardcast.nodes.output_template import FIELDS, OutputTemplate
from shardcast.protocol.manifest import FolderFacts, Header


def rendered(
    template: str, name: str, version: str = "v3", tags: tuple[str, ...] = (), folder: str = ""
) -> str:
    facts = FolderFacts(folder, 1) if folder else None
    header = Header(version, None, name, metadata={"tags": list(tags)}, folder=facts)
    return str(OutputTemplate.parse(template).render(header))


@pytest.mark.parametrize(
    ("template", "name", "path"),
    [
        ("{version}/{name}", "model.safetensors", "v3/model.safetensors"),
        ("{stem}-{number}{suffix}", "model.tar.gz", "model.tar-3.gz"),
        ("{number}", "x", "3"),
        ("{tag}{suffix}", "x.pt", "v3.pt"),
        ("{name}", "noext", "noext"),
        ("{suffix}", "x.pt", "_.pt"),
        ("{suffix}", "x", "_"),
        (".{version}", "x", ".v3"),
        ("{name}", "../../etc/passwd", "__.._etc_passwd"),
        ("{name}", "..", "_"),
        ("{name}", "", "v3"),
        ("{name}", "-rf", "_rf"),
        ("{name}", ".bashrc", "_bashrc"),
        ("{name}", "a\0b\nc\x1b[31m", "a_b_c_[31m"),
        ("{name}", "evil\u202egnp.exe", "evil_gnp.exe"),
        ("{name}", "C:\\x", "C:_x"),
        ("{name}", "latest", "latest_"),
        ("{name}/{version}", "latest", "latest_/v3"),
        ("{name}", "model.bin . ", "model.bin"),
    ],
)  # fmt: skip
def test_fields_are_replaced_within_one_component(template: str, name: str, path: str) -> None:
    assert rendered(template, name) == path


def test_tag_is_the_first_and_a_folder_has_its_own_name() -> None:
    assert rendered("{tag}", "x", tags=("best", "last")) == "best"
    assert rendered("{version}-{name}", "ckpt.tar", folder="ckpt") == "v3-ckpt"


NAMES = st.text(max_size=400) | st.text("./-~ \\\0\na", max_size=20)


@given(NAMES, st.lists(st.sampled_from([f"{{{field}}}" for field in FIELDS]), min_size=1, max_size=4))
@example("a" * 300 + ".safetensors", ["{name}"])
@example("\ud800", ["{name}"])
def test_any_name_fills_one_safe_component(name: str, fields: list[str]) -> None:
    for template in ("".join(fields), "/".join(fields)):
        path = rendered(template, name)
        parts = path.split("/")
        assert len(parts) == (1 if template == "".join(fields) else len(fields))
        for part in parts:
            assert part not in ("", ".", "..")
            assert part[0] not in ".- "
            assert len(part.encode()) <= 200
            assert not any(unicodedata.category(char)[0] == "C" for char in part)
            assert "\\" not in part
        assert not Path(path).is_absolute()


@pytest.mark.parametrize(
    "template",
    ["", "model.bin", "/{name}", "../{name}", "{name}/", "a//{name}", "./{name}", "{x}", "{name", "name}",
     "{}", "{name!r}", "{name.x}", "{version}\n", "{version}\0", "x" * 201 + "{name}", "{name}/.."],
)  # fmt: skip
def test_template_that_makes_no_sense_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="output name"):
        OutputTemplate.parse(template)


@given(st.text(max_size=30))
def test_any_template_is_taken_or_refused_in_words(text: str) -> None:
    try:
        template = OutputTemplate.parse(text)
    except UsageError:
        return
    assert template.render(Header("v1", None, "x.bin"))


def test_version_or_number_tells_versions_apart() -> None:
    assert OutputTemplate.parse("{version}/{name}").tells_versions_apart
    assert OutputTemplate.parse("{number}").tells_versions_apart
    assert not OutputTemplate.parse("{tag}{suffix}").tells_versions_apart
