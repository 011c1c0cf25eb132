"""Names of outputs after a template: ``{version}/{name}`` of v3, a model.bin, is ``v3/model.bin``.

Fields are ``version`` (v3), ``number`` (3), ``name``, ``stem`` and ``suffix``, and ``tag``, the first one.
Name and tags come from a publisher: whatever they contain, a field stays within one component of the path.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath

from shardcast.errors import UsageError
from shardcast.nodes.output_names import LATEST_LINK
from shardcast.protocol.manifest import Header
from shardcast.protocol.wire import version_number

FIELDS = ("version", "number", "name", "stem", "suffix", "tag")
_MAX_COMPONENT = 180
"""Bytes of a component: temporary names repeat the component, and file systems allow 255 bytes."""
_MAX_SUFFIX = 40
"""Longest suffix, in bytes, left whole when a name is cut."""
_MAX_TEMPLATE = 200
"""Characters of a template."""
_FIELD = re.compile(r"\{([^{}]*)\}")
_HOSTILE = re.compile(r"[/\\\0]")


@dataclass(frozen=True, slots=True)
class OutputTemplate:
    """A template of outputs' names below the folder of outputs.

    Attributes:
        text: the template as written by a person.
    """

    text: str

    @classmethod
    def parse(cls, text: str) -> OutputTemplate:
        """Return a template from its text.

        Raises:
            UsageError: the text has unknown fields, or leads out of the folder of outputs.
        """
        if not isinstance(text, str) or not text or len(text) > _MAX_TEMPLATE:
            raise UsageError(f"output name {text!r}: write a template of at most {_MAX_TEMPLATE} characters")
        fields = _FIELD.findall(text)
        for field in fields:
            if field not in FIELDS:
                known = ", ".join(f"{{{name}}}" for name in FIELDS)
                raise UsageError(f"output name {text!r}: there is no field {{{field}}}, only {known}")
        literal = _FIELD.sub("x", text)
        if "{" in literal or "}" in literal:
            raise UsageError(f"output name {text!r}: a brace stands alone; fields are written {{version}}")
        if not fields:
            raise UsageError(f"output name {text!r} has no field, and would be the same for all versions")
        if not literal.isprintable() or any(part in ("", ".", "..") for part in literal.split("/")):
            raise UsageError(
                f"output name {text!r} must be a relative path below the output folder, without empty "
                "parts, . and .., of printable characters"
            )
        return cls(text)

    @property
    def tells_versions_apart(self) -> bool:
        """Whether two versions never get the same name."""
        return any(field in ("version", "number") for field in _FIELD.findall(self.text))

    def render(self, header: Header) -> PurePosixPath:
        """Return the relative path of a version's output."""
        values = _values(header)
        parts = [_component(part, values) for part in self.text.split("/")]
        if parts[0] == LATEST_LINK:  # the name of a link that followers switch
            parts[0] = f"{LATEST_LINK}_"
        return PurePosixPath(*parts)


def _values(header: Header) -> dict[str, str]:
    """Return the fields of a version."""
    name = safe_name(header.content_name) or header.version
    stem, dot, suffix = name.rpartition(".")
    tags = header.tags
    return {
        "version": header.version,
        "number": str(version_number(header.version) or 0),
        "name": name,
        "stem": stem if dot else name,
        "suffix": f".{suffix}" if dot else "",
        "tag": tags[0] if tags else header.version,
    }


def _component(template: str, values: dict[str, str]) -> str:
    """Return one component of a path, with the fields replaced."""
    text = _FIELD.sub(lambda found: values[found[1]], template)
    if text[:1] != template[:1] and text[:1] in ("", ".", "-"):  # not as the person wrote it
        text = f"_{text}"
    return _cut(text)


def safe_name(name: str) -> str:
    """Return a publisher's name as one fully visible component; empty where nothing is left.

    Separators, control and format characters become ``_``; so do dots and dashes at the beginning. Blanks and
    dots at the end go.
    """
    visible = "".join("_" if unicodedata.category(char)[0] == "C" else char for char in name)
    visible = _HOSTILE.sub("_", " ".join(visible.split()))
    shown = visible.lstrip(" .-")
    return _cut("_" * min(len(visible) - len(shown), 1) + shown.rstrip(" ."))


def _cut(text: str) -> str:
    """Return a component short enough for file systems; a cut one keeps its suffix."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= _MAX_COMPONENT:
        return encoded.decode()
    stem, dot, suffix = text.rpartition(".")
    ending = f".{suffix}".encode("utf-8", "replace") if dot and stem else b""
    ending = ending if len(ending) <= _MAX_SUFFIX else b""
    return (encoded[: _MAX_COMPONENT - len(ending)] + ending).decode("utf-8", "ignore")
