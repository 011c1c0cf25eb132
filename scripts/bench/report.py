"""Comparisons as text tables, as JSON with a description of the machine, and as plots."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from harness import GIB, MIB, Aim, Comparison, Result
from places import Places, filesystem

_OURS = ("shardcast", "aiohttp", "uvloop", "blake3")


def table(comparison: Comparison) -> str:
    """Return a comparison as text: medians, spread, ratio to one side, CPU, memory and details."""
    columns = comparison.columns
    if columns is None:
        columns = list(
            dict.fromkeys(
                key for result in comparison.results for run in result.figures for key in run.detail
            )
        )
    heads = ["", "median s", "min–max", f"× {comparison.against}" if comparison.against else "", "MB/s"]
    heads += ["CPU s/GiB" if comparison.payload else "CPU s", "peak MB", *columns]
    rows = [_row(comparison, result, columns) for result in comparison.results]
    used = [n for n, head in enumerate(heads) if n == 0 or any(row[n] for row in rows)]
    lines = [[heads[n] for n in used], *([row[n] for n in used] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(used))]
    text = [
        "  ".join(_aligned(cell, width, n) for n, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    runs = max((len(result.figures) for result in comparison.results), default=0)
    title = f"{comparison.title} ({runs} {'run' if runs == 1 else 'runs'} each, in turn)"
    text = [title, "─" * len(title), *(line.rstrip() for line in text)]
    for result in comparison.results:
        if result.skipped or result.failed:
            text.append(
                f"{result.name}: "
                + (f"skipped: {result.skipped}" if result.skipped else f"FAILED: {result.failed}")
            )
    text += [f"{aim.what}: {_outcome(aim)}" for aim in comparison.aims]
    return "\n".join([*text, *comparison.notes, ""])


def _outcome(aim: Aim) -> str:
    """Return an aim and whether it was reached."""
    bound = f"at least {aim.least:g}" if aim.least is not None else f"at most {aim.most:g}"
    if aim.value is None:
        return f"not measured ({bound})"
    return f"{figure(aim.value)} ({bound}: {'reached' if aim.reached else 'NOT reached'})"


def _row(comparison: Comparison, result: Result, columns: Sequence[str]) -> list[str]:
    """Return the cells of a side."""
    seconds, spread = result.median(), result.spread()
    if seconds is None or spread is None:
        return [result.name, "failed" if result.failed else "skipped", *[""] * (len(columns) + 5)]
    payload, cpu, memory = comparison.payload, result.median("cpu_seconds"), result.median("peak_memory")
    ratio = comparison.ratio(result) if result.name != comparison.against else None
    per = payload / GIB if payload else 1.0
    details = [result.median(name) for name in columns]
    return [
        result.name,
        figure(seconds),
        f"{figure(spread[0])}–{figure(spread[1])}",
        "" if ratio is None else f"{ratio:.2f}",
        f"{payload / seconds / 1e6:.0f}" if payload and seconds else "",
        "" if cpu is None else figure(cpu / per),
        "" if memory is None else f"{memory / 1e6:.0f}",
        *("" if value is None else figure(value) for value in details),
    ]


def figure(value: float) -> str:
    """Return a number with three significant digits."""
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def format_size(size: int) -> str:
    """Return a size as ``1 GiB`` or ``64 MiB``."""
    return f"{size / GIB:g} GiB" if size >= GIB else f"{size / MIB:g} MiB"


def _aligned(cell: str, width: int, column: int) -> str:
    """Return a cell, the first column to the left, the others to the right."""
    return cell.ljust(width) if column == 0 else cell.rjust(width)


# ── JSON ──────────────────────────────────────────────────────────────────────────────────────────


def document(comparisons: Sequence[Comparison], places: Places, peers: dict[str, str]) -> dict[str, Any]:
    """Return everything that was measured, each run of it, and on which machine."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": shlex.join(["python", "scripts/bench", *sys.argv[1:]]),
        "machine": machine(places),
        "versions": {**{name: _version(name) for name in _OURS}, **peers},
        "comparisons": [_comparison(item) for item in comparisons],
    }


def machine(places: Places) -> dict[str, Any]:
    """Return what a reader has to know of the machine."""
    cpu = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu[1] if cpu else platform.machine(),
        "architecture": platform.machine(),
        "memory_gib": round(int(memory[1]) / MIB, 1) if memory else None,
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "filesystems": {place.name: filesystem(place.root) for place in (places.memory, places.disk)},
    }


def _version(package: str) -> str:
    """Return the installed version of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _comparison(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON has it."""
    return {
        "case": comparison.case,
        "title": comparison.title,
        "against": comparison.against,
        "payload": comparison.payload,
        "aims": [asdict(aim) | {"reached": aim.reached} for aim in comparison.aims],
        "notes": comparison.notes,
        "sides": [
            {
                "name": result.name,
                "skipped": result.skipped,
                "failed": result.failed,
                "median": {name: result.median(name) for name in ("seconds", "cpu_seconds", "peak_memory")},
                "spread": result.spread(),
                "ratio": comparison.ratio(result),
                "runs": [asdict(run) for run in result.figures],
            }
            for result in comparison.results
        ],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# ── Plots ─────────────────────────────────────────────────────────────────────────────────────────


def plot(comparisons: Sequence[Comparison], folder: Path) -> list[Path]:
    """Draw a PNG for each comparison: bars of the medians, with the spread.

    Raises:
        ImportError: there is no matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for comparison in comparisons:
        name = comparison.plot
        shown = [result for result in comparison.results if name and result.median(name) is not None]
        if not shown:
            continue
        scale = 1e6 if name == "peak_memory" else 1.0
        medians = [(result.median(name) or 0.0) / scale for result in shown]
        spreads = [result.spread(name) or (0.0, 0.0) for result in shown]
        errors = [
            [middle - low / scale for middle, (low, _) in zip(medians, spreads, strict=True)],
            [high / scale - middle for middle, (_, high) in zip(medians, spreads, strict=True)],
        ]
        figure_, axes = pyplot.subplots(figsize=(8, 1.2 + 0.42 * len(shown)), layout="constrained")
        ours = [result.name.startswith("ours") for result in shown]
        colors = ["#1f6fb4" if mine else "#b8bec6" for mine in ours]
        bars = axes.barh(
            [result.name for result in shown], medians, xerr=errors, color=colors, ecolor="#555555", capsize=3
        )
        axes.bar_label(bars, [f" {figure(value)}" for value in medians], padding=4, fontsize=9)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set_xlim(left=0)
        axes.set_xlabel(_label(name))
        axes.set_title(comparison.title, fontsize=11, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        path = folder / f"{_slug(comparison.title)}.png"
        figure_.savefig(path, dpi=130)
        pyplot.close(figure_)
        made.append(path)
    return made


def _label(name: str) -> str:
    """Return a figure's name as an axis shows it."""
    known = {
        "seconds": "seconds (median, least to most)",
        "peak_memory": "peak memory, MB",
        "cpu_seconds": "CPU seconds",
    }
    return known.get(name, name)


def _slug(title: str) -> str:
    """Return a title as a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
