"""Content negotiation (RFC 9110, 12.5): ``Accept`` and ``Accept-Encoding`` of requests."""

from __future__ import annotations

from collections.abc import Sequence


def accepted_forms(header: str | None, codings: Sequence[str]) -> tuple[tuple[str | None, ...], bool]:
    """Return the acceptable forms of a blob by an ``Accept-Encoding``, and whether the decoded blob is one.

    Args:
        header: the header's value; None where there is none.
        codings: content codings known here.

    Returns:
        The forms, the best first (None for the unchanged blob), and whether ``identity`` is acceptable.
    """
    if header is None:
        return (None,), True
    weights: dict[str, float] = {}
    for part in header.lower().split(","):
        name, _, parameters = part.partition(";")
        name = name.strip().removeprefix("x-")
        if name:
            weights[name] = max(weights.get(name, 0.0), _weight(parameters))
    named = sorted(
        (coding for coding in codings if weights.get(coding, 0.0) > 0), key=lambda coding: -weights[coding]
    )
    identity = weights.get("identity", weights.get("*") if "*" in weights else None)
    if identity is None:
        return (*named, None), True
    if not identity:
        return (*named,), False
    before = [coding for coding in named if weights[coding] >= identity]
    return (*before, None, *(coding for coding in named if coding not in before)), True


def prefers_json(accept: str) -> bool:
    """Return whether an ``Accept`` gives JSON a higher weight than HTML, or names it first."""
    best, json = 0.0, False
    for item in accept.lower().split(","):
        kind, _, parameters = item.partition(";")
        kind, weight = kind.strip(), _weight(parameters)
        if weight > best and kind in ("application/json", "text/html", "text/*", "*/*"):
            best, json = weight, kind == "application/json"
    return json


def _weight(parameters: str) -> float:
    """Return the weight in the parameters of an item, 0 to 1; 0 for nonsense."""
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
