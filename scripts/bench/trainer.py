"""A busy Python loop alone, and beside a broadcast that ten clients read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

from harness import MIB, Aim, Case, Comparison, Run, Settings, Side, Skipped, expect, interleave, ratio
from places import Place
from processes import Running, program_words, running

SECONDS = 5.0
"""How long the loop runs."""
CLIENTS = 10
SIZE = 32 * MIB


def compare(settings: Settings) -> Iterator[Comparison]:
    """Run the case's comparisons, and yield each as it is ready."""
    core, *others = sorted(os.sched_getaffinity(0))
    if not others:
        raise Skipped("it takes two cores: one for the loop, one for all else")
    place = settings.places.memory
    place.need((CLIENTS + 2) * SIZE)
    sides = [
        Side("alone", lambda: alone(core)),
        Side("beside other work", lambda: alone(core, others)),
        Side("beside a broadcast", lambda: beside(place, core, others)),
    ]
    results = interleave(sides, settings.runs)
    aims = [
        Aim("speed beside a broadcast, × alone", ratio(results, "alone", "beside a broadcast"), least=0.95)
    ]
    notes = [
        f"seconds: of a million rounds of pure Python on core {core}, and their CPU; all else on the other "
        "cores. More seconds than CPU: something else ran on that core.",
        f"broadcast: {SIZE // MIB} MiB, read by {CLIENTS} clients again and again. other work: as many busy "
        "loops as there are other cores, which is what the machine itself costs.",
    ]
    yield Comparison("A trainer beside its broadcast", results, "alone", aims=aims, notes=notes)


def alone(core: int, others: list[int] | None = None) -> Run:
    """Measure the loop alone."""
    with ExitStack() as stack:
        for one in others or []:
            words = program_words("trainer", str(10 * SECONDS), str(one))
            busy = stack.enter_context(running(words, told=True))
            busy.tell("go")
        loop = stack.enter_context(running(program_words("trainer", str(SECONDS), str(core)), told=True))
        return rounds(loop)


def beside(place: Place, core: int, others: list[int]) -> Run:
    """Measure the loop beside a broadcast with ten clients."""
    payload = place.payload(SIZE)
    with ExitStack() as stack:
        data_dir, outputs = (stack.enter_context(place.folder(name)) for name in ("data", "outputs"))
        cores = ",".join(map(str, others))
        words = program_words("trainer", str(SECONDS), str(core), str(data_dir), str(payload.path), cores)
        loop = stack.enter_context(running(words, told=True))
        crowd = program_words("crowd", loop.url(), str(CLIENTS), str(outputs), "--again")
        clients = stack.enter_context(running(crowd, cpus=others, told=True))
        clients.tell("go")
        run = rounds(loop)
        clients.end_input()
        ended = clients.wait(60)
        expect(ended.code == 0, f"the clients ended with {ended.code}: {ended.errors[-500:]}")
        made = json.loads(ended.output.splitlines()[-1])["made"]
        expect(made >= CLIENTS, f"the {CLIENTS} clients read only {made} times")
        return replace(run, detail={"reads": made})


def rounds(loop: Running) -> Run:
    """Let the loop run, and return the seconds of a million rounds."""
    loop.wait_for_output("ready")
    loop.tell("go")
    loop.wait_for_output("seconds", 20 * SECONDS)
    return Run(**json.loads(loop.output.splitlines()[-1]))


CASE = Case("trainer", "a busy Python loop alone, and beside a broadcast read by ten", compare, quick=False)
