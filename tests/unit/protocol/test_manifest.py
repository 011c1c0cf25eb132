"""Manifests: what is written is read, and what a stranger writes does no harm."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shardcast.errors import UsageError
from shardcast.protocol import manifest_reader as manifests
from shardcast.protocol.lines import MAX_LINE
from shardcast.protocol.manifest import (
    MAX_METADATA,
    MAX_PIECE_SIZE,
    Header,
    Manifest,
    Shard,
    aborted_line,
    build_manifest,
    closing_line,
    header_line,
    manifest_of_old_node,
    piece_size_for,
    shard_line,
)
from shardcast.protocol.manifest_reader import Aborted, ManifestError, ManifestReader, parse
from tests.support import payloads
from tests.support.payloads import patient, random_bytes

SHA = "ab" * 32
PLAIN = payloads.manifest(random_bytes(10_000), "v3", shard_size=4096, piece_size=1024)
LINES = PLAIN.raw.splitlines(keepends=True)

HEX = st.text("0123456789abcdef", min_size=64, max_size=64)
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=5,
)
NAMES = st.text(st.characters(exclude_characters="/\\"), max_size=20).filter(str.isprintable)


@st.composite
def some_manifests(draw: st.DrawFn) -> Manifest:
    piece_size = draw(st.integers(1024, 4096))
    sizes = draw(st.one_of(st.just([0]), st.lists(st.integers(1, 9000), min_size=1, max_size=5)))
    shards: list[Shard] = []
    for number, size in enumerate(sizes, 1):
        offset = shards[-1].end if shards else 0
        digests = random_bytes(-(-size // piece_size) * 32, seed=number)
        shards.append(Shard(number, offset, size, draw(HEX), digests))
    header = Header(
        version=f"v{draw(st.integers(1, 10**9))}",
        origin=draw(st.one_of(st.none(), st.text(max_size=100))),
        name=draw(NAMES),
        kind=draw(st.sampled_from(["file", "folder"])),
        shard_size=draw(st.one_of(st.none(), st.integers(1, 2**60))),
        piece_size=piece_size,
        created=draw(st.one_of(st.none(), st.floats(0, 1e12))),
        metadata=draw(st.dictionaries(st.text(), JSON, max_size=3)),
    )
    digests_of_all = {"sha256": draw(HEX)}
    if draw(st.booleans()):
        digests_of_all["blake3"] = draw(HEX)
    return build_manifest(header, shards, digests_of_all)


def with_line(number: int, **changes: Any) -> bytes:
    """A good manifest in which some values of a line are others; ``...`` takes one away."""
    values = {**json.loads(LINES[number]), **changes}
    lines = list(LINES)
    lines[number] = (
        json.dumps({key: value for key, value in values.items() if value is not ...}).encode() + b"\n"
    )
    return b"".join(lines)


def assert_sound(found: Manifest) -> None:
    """What is relied on of every manifest that was read, whoever wrote it."""
    assert [shard.number for shard in found.shards] == list(range(1, len(found.shards) + 1))
    assert [shard.offset for shard in found.shards] == [
        sum(shard.size for shard in found.shards[:count]) for count in range(len(found.shards))
    ]
    assert found.header.size in (None, found.size)
    assert 1024 <= found.header.piece_size <= MAX_PIECE_SIZE
    for shard in found.shards:
        assert len(shard.pieces) == -(-shard.size // found.header.piece_size) * 32
        assert shard.sha256 and len(shard.sha256) == 64
    assert all(len(digest) == 64 for digest in found.digests.values())
    again = parse(build_manifest(found.header, found.shards, found.digests).raw)
    assert (again.header.name, again.shards, again.digests) == (
        found.header.name,
        found.shards,
        found.digests,
    )


# What is written is read


def test_the_lines_that_other_nodes_rely_on() -> None:
    header, *shards, closing = map(json.loads, LINES)
    assert header == {
        "format": 1, "version": "v3", "origin": payloads.ORIGIN, "name": "model.bin", "kind": "file",
        "size": 10_000, "shard_size": 4096, "piece_size": 1024, "created": 1.5, "metadata": {},
    }  # fmt: skip
    data = random_bytes(10_000)
    assert shards[2] == {
        "shard": 3,
        "size": 10_000 - 2 * 4096,
        "sha256": payloads.sha256(data[8192:]),
        "blake3": base64.b64encode(payloads.pieces(data[8192:], 1024)).decode(),
    }
    assert closing == {"complete": True, "size": 10_000, "shards": 3, "sha256": payloads.sha256(data)}


@patient
@given(some_manifests())
def test_written_manifest_is_parsed(written: Manifest) -> None:
    assert parse(written.raw) == written
    assert parse(written.raw, written.version).raw == written.raw
    assert written.verifiable
    assert_sound(written)


@patient
@given(some_manifests(), st.lists(st.integers(0, 200), max_size=60))
def test_a_manifest_that_comes_in_chunks_of_any_length_is_the_same(
    written: Manifest, chunks: list[int]
) -> None:
    reader, position = ManifestReader(written.version), 0
    for count in [*chunks, len(written.raw)]:
        reader.feed(written.raw[position : position + count])
        position += count
        lines = written.raw[:position].count(b"\n")
        assert (reader.header is not None) == (lines > 0)
        assert reader.shards == list(written.shards[: max(lines - 1, 0)])
    assert reader.manifest() == written


def test_its_bytes_are_kept_as_they_came() -> None:
    odd = LINES[0].replace(b":", b" : ").replace(b" ", b"  ") + b"".join(LINES[1:])
    assert parse(odd).raw == odd
    assert parse(odd).shards == PLAIN.shards


def test_an_empty_payload_is_one_empty_shard() -> None:
    empty = payloads.manifest(b"")
    assert parse(empty.raw) == empty
    assert (empty.size, len(empty.shards), empty.verifiable) == (0, 1, True)


def test_manifest_of_old_node_has_no_verifiable_shards() -> None:
    told = manifest_of_old_node("v2", [5, 5, 3], {"sha256": SHA})
    assert [(shard.number, shard.offset, shard.size) for shard in told.shards] == [
        (1, 0, 5),
        (2, 5, 5),
        (3, 10, 3),
    ]
    assert (told.version, told.size, told.digests, told.raw) == ("v2", 13, {"sha256": SHA}, b"")
    assert not told.verifiable
    assert manifest_of_old_node("v2", [0], {"sha256": SHA}).verifiable


# What a stranger writes


def _read_anyhow(raw: bytes) -> None:
    try:
        found = parse(raw)
    except ManifestError:
        return
    assert_sound(found)


@patient
@given(
    some_manifests(),
    st.lists(
        st.tuples(st.integers(0, 10**6), st.sampled_from(["put", "cut", "set"]), st.binary(max_size=3)),
        min_size=1,
    ),
)
def test_wrong_bytes_in_a_manifest_never_do_more_than_refuse_it(
    written: Manifest, wounds: list[tuple[int, str, bytes]]
) -> None:
    raw = bytearray(written.raw)
    for where, how, what in wounds:
        at = where % (len(raw) + 1)
        raw[at : at + {"put": 0, "cut": 3, "set": len(what)}[how]] = b"" if how == "cut" else what
    _read_anyhow(bytes(raw))


@patient
@given(st.integers(0, len(LINES) - 1), st.data())
def test_wrong_values_in_a_manifest_never_do_more_than_refuse_it(line: int, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(json.loads(LINES[line]))))
    _read_anyhow(with_line(line, **{key: data.draw(JSON)}))


@patient
@given(st.lists(st.sampled_from([*LINES, b"{}\n", b'{"aborted":1}\n', b"[]\n", b"\n"]), max_size=8))
def test_lines_in_any_order_never_do_more_than_refuse_it(lines: list[bytes]) -> None:
    _read_anyhow(b"".join(lines))


@patient
@given(st.binary())
@example(b"\xff\xfe{\0}\0\n")
@example(b"[" * 60_000 + b"\n")
@example(b'{"format":' + b"1" * 5000 + b"}\n")
@example(LINES[0].replace(b'"metadata":{}', b'"metadata":{"a":' + b"[" * 8000 + b"]" * 8000 + b"}"))
def test_any_bytes_are_a_manifest_or_a_manifest_error(raw: bytes) -> None:
    _read_anyhow(raw)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(raw, id=name)
        for name, raw in {
            "nothing": b"",
            "a web page": b"<!DOCTYPE html>\n",
            "no object": b"[1]\n",
            "no header": b"".join(LINES[1:]),
            "no closing line": b"".join(LINES[:-1]),
            "closing line cut": PLAIN.raw[:-1],
            "no shards": LINES[0] + LINES[-1],
            "shard missing": b"".join([LINES[0], *LINES[2:]]),
            "shard twice": b"".join([LINES[0], LINES[1], *LINES[1:]]),
            "shards swapped": b"".join([LINES[0], LINES[2], LINES[1], *LINES[3:]]),
            "another size than its shards": with_line(0, size=9_999),
            "a larger size than its shards": with_line(0, size=10_001),
            "another size at the end": with_line(-1, size=9_999),
            "another count": with_line(-1, shards=2),
            "no digest": with_line(-1, sha256=...),
            "a digest too short": with_line(-1, sha256="ab"),
            "a blake3 that is none": with_line(-1, blake3="x" * 64),
            "a shard's digest that is none": with_line(1, sha256=None),
            "a shard without size": with_line(1, size=...),
            "a shard of half a byte": with_line(1, size=4095.5),
            "a shard larger than its pieces": with_line(1, size=4097),
            "a negative shard": with_line(1, size=-1),
            "an empty shard among others": with_line(1, size=0, blake3=""),
            "pieces missing": with_line(1, blake3=""),
            "pieces that are no base64": with_line(1, blake3="!" * 172),
            "pieces that are no ASCII": with_line(1, blake3="é" * 172),
            "pieces that are no text": with_line(1, blake3=5),
            "shard true": with_line(1, shard=True),
            "no format": with_line(0, format=...),
            "format 0": with_line(0, format=0),
            "no version": with_line(0, version="../v3"),
            "a path for a name": with_line(0, name="../../etc/passwd"),
            "another system's path": with_line(0, name="..\\x"),
            "a name with NUL": with_line(0, name="a\0b"),
            "a name with a newline": with_line(0, name="a\nb"),
            "a name too long": with_line(0, name="a" * 256),
            "pieces of a byte": with_line(0, piece_size=1),
            "pieces too large to hold": with_line(0, piece_size=MAX_PIECE_SIZE + 1),
            "a payload of no size": with_line(0, size=2**62 + 1),
            "metadata that is a list": with_line(0, metadata=[1]),
            "a kind that a terminal obeys": with_line(0, kind="\x1b[2J"),
            "made at no time": with_line(0, created="now"),
            "made at a time beyond numbers": with_line(0, created=10**400),
            "made at NaN": LINES[0].replace(b"1.5", b"NaN") + b"".join(LINES[1:]),
            "made at infinity": LINES[0].replace(b"1.5", b"1e999") + b"".join(LINES[1:]),
            "metadata that JSON can't hold": LINES[0].replace(b"{}", b'{"loss":NaN}') + b"".join(LINES[1:]),
            "metadata beyond numbers": LINES[0].replace(b"{}", b'{"loss":1e999}') + b"".join(LINES[1:]),
        }.items()
    ],
)
def test_malformed_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(ManifestError):
        parse(raw)


@pytest.mark.parametrize("sizes", [[0, 5], [5, 0], [0, 0], [5, 0, 5]])
def test_an_empty_shard_is_alone(sizes: list[int]) -> None:
    shards: list[Shard] = []
    for number, size in enumerate(sizes, 1):
        offset = shards[-1].end if shards else 0
        shards.append(Shard(number, offset, size, SHA, bytes(32 if size else 0)))
    with pytest.raises(ManifestError, match="empty shard"):
        parse(build_manifest(PLAIN.header, shards, PLAIN.digests).raw)


def test_error_names_the_size_that_the_shards_do_not_have() -> None:
    with pytest.raises(ManifestError, match="shards have 10000 bytes together, and it says 10001"):
        parse(with_line(0, size=10_001))
    with pytest.raises(ManifestError, match="shards have 10000 bytes together, and it says 9999"):
        parse(with_line(len(LINES) - 1, size=9999))


def test_a_shard_beyond_the_payload_is_refused_when_it_comes() -> None:
    reader = ManifestReader()
    reader.feed(with_line(0, size=8191).splitlines(keepends=True)[0] + LINES[1])
    with pytest.raises(ManifestError, match="shard 2 goes beyond"):
        reader.feed(LINES[2])


def test_a_manifest_of_another_version_is_refused() -> None:
    with pytest.raises(ManifestError, match="'v3'"):
        parse(PLAIN.raw, "v4")


def test_a_higher_format_is_refused_and_says_what_to_do() -> None:
    with pytest.raises(ManifestError, match=r"format is 2.* update"):
        parse(with_line(0, format=2))


def test_unknown_keys_and_lines_are_ignored() -> None:
    raw = (
        with_line(0, compressed=True)
        .replace(b"\n", b'\n{"hint":"x"}\n')
        .replace(b'"shard":', b'"more":[1],"shard":')
    )
    found = parse(raw)
    assert (found.shards, found.digests, found.raw) == (PLAIN.shards, PLAIN.digests, raw)


def test_aborted_version_carries_reason() -> None:
    raw = b"".join(LINES[:2]) + aborted_line("the disk is full")
    reader = ManifestReader()
    with pytest.raises(Aborted, match="the disk is full"):
        reader.feed(raw)
    assert len(aborted_line("x" * 10**6)) < MAX_LINE
    with pytest.raises(Aborted) as caught:
        ManifestReader().feed(LINES[0] + aborted_line("\x1b[2J all\nis\ud800 well"))
    assert caught.value.why == "[2J allis well", "it says something that a terminal obeys"


# Bounds


def filled(length: int) -> bytes:
    """A line of this many bytes, of an unknown kind."""
    return b'{"x":"' + b"y" * (length - 8) + b'"}'


def test_a_line_has_at_most_64_kib() -> None:
    parse(LINES[0] + filled(64 * 1024) + b"\n" + b"".join(LINES[1:]))
    for end in (b"\n", b""):  # also where its end has not come yet
        with pytest.raises(ManifestError, match="65536"):
            ManifestReader().feed(LINES[0] + filled(64 * 1024 + 1) + end)


def test_a_line_without_end_is_refused_as_soon_as_it_is_too_long() -> None:
    reader, fed = ManifestReader(), 0
    with pytest.raises(ManifestError):
        while fed < 1 << 20:
            reader.feed(b"x" * 1024)
            fed += 1024
    assert fed <= 64 * 1024


def test_a_manifest_has_at_most_a_million_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    assert manifests.MAX_SHARDS == 10**6
    monkeypatch.setattr(manifests, "MAX_SHARDS", 3)
    assert parse(PLAIN.raw) == PLAIN
    monkeypatch.setattr(manifests, "MAX_SHARDS", 2)
    with pytest.raises(ManifestError, match="more than 2 shards"):
        parse(PLAIN.raw)


def test_a_manifest_has_bounds_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_MANIFEST", len(PLAIN.raw))
    assert parse(PLAIN.raw) == PLAIN
    with pytest.raises(ManifestError, match="bytes"):
        parse(PLAIN.raw + b"{}\n")


def test_lines_of_an_unknown_kind_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_UNKNOWN_LINES", 4)
    assert parse(LINES[0] + b"{}\n" * 2 + b"".join(LINES[1:]) + b"{}\n" * 2).shards == PLAIN.shards
    for raw in (LINES[0] + b"{}\n" * 5, PLAIN.raw + b"{}\n" * 5):
        with pytest.raises(ManifestError, match="unknown"):
            ManifestReader().feed(raw)


def metadata_of(length: int) -> dict[str, str]:
    return {"note": "x" * (length - len(json.dumps({"note": ""})))}


def test_metadata_above_16_kib_is_refused_by_writer_and_reader() -> None:
    header = replace(PLAIN.header, metadata=metadata_of(MAX_METADATA))
    assert parse(build_manifest(header, PLAIN.shards, PLAIN.digests).raw).header == header
    with pytest.raises(UsageError, match="16385 bytes"):
        header_line(replace(header, metadata=metadata_of(MAX_METADATA + 1)))
    with pytest.raises(ManifestError, match="metadata"):
        parse(with_line(0, metadata=metadata_of(MAX_METADATA + 1)))


@pytest.mark.parametrize("metadata", [{"a": float("nan")}, {"a": b"bytes"}, {"a": {1, 2}}, {(1, 2): 3}])
def test_metadata_that_json_can_not_hold_is_a_usage_error(metadata: dict[Any, Any]) -> None:
    with pytest.raises(UsageError):
        header_line(Header("v1", "o", "n", metadata=metadata))


def test_metadata_that_holds_itself_is_a_usage_error() -> None:
    metadata: dict[str, Any] = {}
    metadata["me"] = metadata
    with pytest.raises(UsageError):
        header_line(Header("v1", "o", "n", metadata=metadata))


def _line_length(shard_size: int, piece_size: int) -> int:
    digests = bytes(-(-shard_size // piece_size) * 32)
    return len(shard_line(Shard(10**6, 2**61, shard_size, SHA, digests)))


@patient
@given(st.one_of(st.integers(1, 10**12), st.integers(380_000_000, 400_000_000)))
@example(50_000_000)
def test_a_piece_is_256_kib_doubled_until_a_shards_line_fits(shard_size: int) -> None:
    try:
        piece_size = piece_size_for(shard_size)
    except UsageError:
        assert shard_size > 90 * 10**9
        return
    assert piece_size in [256 * 1024 << doubled for doubled in range(9)]
    assert _line_length(shard_size, piece_size) <= MAX_LINE
    assert piece_size == 256 * 1024 or _line_length(shard_size, piece_size // 2) > MAX_LINE - 2048
    assert shard_size > 380_000_000 or piece_size == 256 * 1024


@pytest.mark.parametrize(
    "line",
    [
        lambda: header_line(
            Header("v" + "9" * 18, "o" * 100, "\U0001f600" * 255, metadata=metadata_of(MAX_METADATA))
        ),
        lambda: closing_line(2**62, 10**6, {"sha256": SHA, "blake3": SHA}),
        lambda: aborted_line("\U0001f600" * 5000),
    ],
)
def test_longest_written_line_fits_reader(line: Callable[[], bytes]) -> None:
    assert len(line()) <= MAX_LINE
