"""This process as the machine with the failing disk: commands run in it, nodes beside them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from shardcast.cli import main
from shardcast.cli.exit_codes import exit_code
from shardcast.errors import ShardcastError

T = TypeVar("T")

Until = Callable[[str], bool]

BARE = 1000
"""Instead of an exit code: an error came that is none of shardcast's."""


@dataclass(frozen=True)
class Outcome:
    """End of a command: the exit code, and what it printed."""

    code: int
    out: str = ""
    stderr: str = ""


class CapturedStderr(io.StringIO):
    """Stderr of this process, kept until it is taken."""

    def take(self) -> str:
        """Return the text so far, and forget it."""
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@dataclass
class Watch:
    """Watch for what must not happen in this process.

    Attributes:
        stderr: stderr.
        unhandled: exceptions that no code handled.
    """

    stderr: CapturedStderr
    unhandled: list[str]

    @classmethod
    def begin(cls) -> Watch:
        """Take over stderr, and the hooks for unhandled exceptions."""
        watch = cls(CapturedStderr(), [])
        sys.stderr = watch.stderr
        threading.excepthook = lambda what: watch.unhandled.append(repr(what.exc_value))
        sys.unraisablehook = lambda what: watch.unhandled.append(f"{what.err_msg} {what.exc_value!r}")
        logging.basicConfig(level="INFO", handlers=[logging.StreamHandler(watch.stderr)], force=True)
        logging.captureWarnings(True)
        return watch

    def take(self) -> tuple[str, list[str]]:
        """Return stderr and the unhandled exceptions so far, and forget them."""
        unhandled, self.unhandled[:] = list(self.unhandled), []
        return self.stderr.take(), unhandled

    def on_loop(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Note an unhandled exception of a loop."""
        self.unhandled.append(f"{context.get('message')}: {context.get('exception')!r}")


def command(*words: object, stdin: bytes | None = None, until: Until | None = None) -> Outcome:
    """Run ``shardcast WORDS…`` in this process, as its ``main`` does.

    Args:
        words: the command and its options.
        stdin: its input.
        until: gets what was printed so far; the command is interrupted once it returns true.

    Returns:
        The exit code and the output.
    """
    captured = sys.stderr
    assert isinstance(captured, CapturedStderr)
    begin = len(captured.getvalue())
    out, before_out, before_in, before_words = io.StringIO(), sys.stdout, sys.stdin, sys.argv
    sys.argv = ["shardcast", *map(str, words)]
    sys.stdout = out
    code: Any = 0
    try:
        with _stdin(stdin), _interrupting(out, until):
            main.main()
    except SystemExit as end:
        code = end.code
    except BaseException as error:  # noqa: BLE001  what a person would see as a traceback
        return Outcome(BARE, out.getvalue(), repr(error))
    finally:
        sys.stdout, sys.stdin, sys.argv = before_out, before_in, before_words
    return Outcome(code or 0, out.getvalue(), captured.getvalue()[begin:])


@contextlib.contextmanager
def _stdin(data: bytes | None) -> Iterator[None]:
    """Put bytes at stdin while the block runs."""
    if data is None:
        yield
        return
    reading, writing = os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "wb") as pipe:
            pipe.write(data)

    feeding = threading.Thread(target=feed)
    feeding.start()
    try:
        with os.fdopen(reading) as sys.stdin:
            yield
    finally:
        feeding.join()


@contextlib.contextmanager
def _interrupting(out: io.StringIO, until: Until | None) -> Iterator[None]:
    """Interrupt this process once ``until`` is true of what was printed."""
    if until is None:
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            if until(out.getvalue()):
                os.kill(os.getpid(), signal.SIGINT)
                return

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()


def outcome_of(work: Callable[[], object]) -> Outcome:
    """Call a function of the library, and return how a command would have ended."""
    try:
        work()
    except ShardcastError as error:
        return Outcome(exit_code(error), stderr=f"Error: {error}")
    except Exception as error:  # noqa: BLE001  it is the outcome
        return Outcome(BARE, stderr=repr(error))
    return Outcome(0)


class Nodes:
    """A thread with an event loop, in which nodes run beside the commands of the main thread."""

    def __init__(self, watch: Watch) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(watch.on_loop)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the thread to its end."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def start(self, node: AbstractAsyncContextManager[T]) -> Running[T]:
        """Start a node, which runs until it is stopped.

        Raises:
            ShardcastError: it can't start.
        """
        running: Running[T] = Running(self)
        self.run(running.begin(node))
        return running

    def close(self) -> None:
        """End the loop and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


class Running(Generic[T]):
    """A node that runs."""

    node: T

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._ended: asyncio.Event | None = None
        self._task: asyncio.Task[None] | None = None

    async def begin(self, node: AbstractAsyncContextManager[T]) -> None:
        """Enter the node in a task of its own, which also leaves it."""
        self._ended, up = asyncio.Event(), asyncio.get_running_loop().create_future()
        self._task = asyncio.ensure_future(self._run(node, self._ended, up))
        await up

    async def _run(
        self, node: AbstractAsyncContextManager[T], ended: asyncio.Event, up: asyncio.Future[None]
    ) -> None:
        """Enter the node, wait for the order to end, and leave it."""
        try:
            async with node as self.node:
                up.set_result(None)
                await ended.wait()
        except BaseException as error:
            if up.done():
                raise
            up.set_exception(error)

    def stop(self) -> None:
        """Stop the node."""

        async def end() -> None:
            assert self._ended and self._task
            self._ended.set()
            await self._task

        self._nodes.run(end())


def get(url: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """Send a request to a node; return 0 and the part that came where the answer breaks off."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (http.client.HTTPException, ConnectionError) as error:
        return 0, getattr(error, "partial", b"")
    finally:
        connection.close()


def descriptors(below: Path) -> list[str]:
    """Return what this process has open below a folder."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(entry.readlink()))
    return sorted(name for name in found if name.startswith(f"{below}/"))
