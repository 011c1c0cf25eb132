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
    """A data directory with the payload as v1."""
    with place.folder("data") as data_dir:
        publish(payload, data_dir)
        yield data_dir


def publish(payload: Payload, data_dir: Path) -> Ended:
    """Run ``shardcast broadcast`` where no origin runs."""
    words = ("broadcast", str(payload.path), "--data-dir", str(data_dir), "--quiet")
    return run_command(shardcast_words(*words))


def linked_copy(data_dir: Path, copy: Path) -> Path:
    """A second data directory with the same versions, of hard links, for a second origin."""
    own = shutil.ignore_patterns("lock", "socket")
    return Path(shutil.copytree(data_dir, copy, copy_function=os.link, ignore=own))


def origin_options(data_dir: Path) -> list[str]:
    """``origin`` with its options: on a free port of this machine alone."""
    return ["origin", "--data-dir", str(data_dir), "--host", "127.0.0.1", "--port", "0"]


def origin_words(data_dir: Path) -> list[str]:
    return shardcast_words(*origin_options(data_dir))


def client_options(servers: Sequence[str], output: Path) -> list[str]:
    """What a client downloads, from where, and into what."""
    options = ["--servers", ",".join(servers), "--version", "v1", "--quiet", "--json"]
    return [*options, "--output-file", str(output)]


def download_words(servers: Sequence[str], output: Path) -> list[str]:
    return client_words(*client_options(servers, output))


def middle_words(upstream: str, data_dir: Path) -> list[str]:
    """A middle that follows its upstream, on a free port of this machine alone."""
    options = ["--upstream", upstream, "--data-dir", str(data_dir), "--host", "127.0.0.1", "--port", "0"]
    return shardcast_words("middle", *options)


def follow_words(servers: Sequence[str], output_dir: Path) -> list[str]:
    """A client that follows."""
    options = ["--servers", ",".join(servers), "--follow", "--output-dir", str(output_dir), "--quiet"]
    return client_words(*options)


def followed(output_dir: Path, version: str) -> Path:
    """Where a client that follows puts a version."""
    return output_dir / f"download_{version}.bin"


def announced(client: Running, version: str) -> bool:
    """Whether a client that follows has said that it has a version, verified."""
    return f'"version": "{version}"' in client.output


def own_seconds(ended: Ended) -> float:
    """What a client, or a floor, says itself that it took, without its start-up."""
    return float(json.loads(ended.output.splitlines()[-1])["seconds"])
