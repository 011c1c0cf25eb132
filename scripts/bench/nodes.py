"""Our own commands, as the cases run them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from places import Payload, Place
from processes import Ended, Running, client_words, run_command, shardcast_words


@contextlib.contextmanager
def published(place: Place, payload: Payload) -> Iterator[Path]:
    """Yield a data directory with the payload as v1."""
    with place.folder("data") as data_dir:
        publish(payload, data_dir)
        yield data_dir


def publish(payload: Payload, data_dir: Path) -> Ended:
    """Run ``shardcast broadcast`` where no origin runs."""
    words = ("broadcast", str(payload.path), "--data-dir", str(data_dir), "--quiet")
    return run_command(shardcast_words(*words))


def linked_copy(data_dir: Path, copy: Path) -> Path:
    """Make a second data directory with the same versions, of hard links, for a second origin."""
    own = shutil.ignore_patterns("lock", "socket")
    return Path(shutil.copytree(data_dir, copy, copy_function=os.link, ignore=own))


def origin_options(data_dir: Path, host: str = "127.0.0.1") -> list[str]:
    """Return ``origin`` with its options: on a free port of an address."""
    return ["origin", "--data-dir", str(data_dir), "--host", host, "--port", "0"]


def origin_words(data_dir: Path, host: str = "127.0.0.1") -> list[str]:
    """Return the command of an origin."""
    return shardcast_words(*origin_options(data_dir, host))


def client_options(servers: Sequence[str], output: Path) -> list[str]:
    """Return ``client`` with the options of a download."""
    options = ["--servers", ",".join(servers), "--version", "v1", "--quiet", "--json"]
    return [*options, "--output-file", str(output)]


def download_words(servers: Sequence[str], output: Path) -> list[str]:
    """Return the command of a download."""
    return client_words(*client_options(servers, output))


def middle_words(upstream: str, data_dir: Path) -> list[str]:
    """Return the command of a middle on a free port of 127.0.0.1."""
    options = ["--upstream", upstream, "--data-dir", str(data_dir), "--host", "127.0.0.1", "--port", "0"]
    return shardcast_words("middle", *options)


def follow_words(servers: Sequence[str], output_dir: Path) -> list[str]:
    """Return the command of a client that follows."""
    options = ["--servers", ",".join(servers), "--follow", "--output-dir", str(output_dir), "--quiet"]
    return client_words(*options)


def followed(output_dir: Path, version: str) -> Path:
    """Return the path of a version that a client follows."""
    return output_dir / f"download_{version}.bin"


def announced(client: Running, version: str) -> bool:
    """Return whether a client that follows has announced a version, verified."""
    return f'"version": "{version}"' in client.output


def own_seconds(ended: Ended) -> float:
    """Return the seconds that a client, or a floor, printed itself, without its start-up."""
    return float(json.loads(ended.output.splitlines()[-1])["seconds"])
