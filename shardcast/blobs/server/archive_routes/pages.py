"""Pages about an archive: the metadata of a blob, the most pulled blobs, and the last upload."""

from __future__ import annotations

import contextlib
import html
import logging
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from aiohttp import web

from shardcast.blobs.server.archive_routes.answers import compressed, key_of, page
from shardcast.blobs.server.archive_routes.context import ArchiveContext
from shardcast.disk_errors import disk_errors
from shardcast.errors import BlobCorrupt, BlobMissing
from shardcast.server.hang_ups import open_while_connected
from shardcast.sizes import format_size

log = logging.getLogger(__name__)

_PREVIEW, _LONG_PREVIEW = 80, 512
"""Bytes of a blob shown in its metadata and on its page."""
_LISTED = 100
"""Keys in ``/stats``, and keys tried for the last upload."""

# fmt: off
_NAMES = (
    "NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "a", "b", "t", "n", "v", "f", "r", "SO", "SI",
    "DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US",
)
# fmt: on
"""Control characters, as Haskell writes them."""


class Pages:
    """Answers to requests for pages about an archive."""

    def __init__(self, context: ArchiveContext) -> None:
        self._context = context

    async def metadata(self, request: web.Request) -> web.StreamResponse:
        """Send a blob's metadata as JSON."""
        key = key_of(request)
        size, shown = await self._look(request, key, _PREVIEW)
        metadata = {
            "key": key,
            "created": iso(await self._created(key)),
            "length": size,
            "preview": preview(shown),
        }
        return compressed(request, web.json_response(metadata))

    async def page(self, request: web.Request) -> web.StreamResponse:
        """Send a blob's metadata as a page."""
        key = key_of(request)
        size, shown = await self._look(request, key, _LONG_PREVIEW)
        rows = [
            ("Key", f"<code>{key}</code>"),
            ("Content", f'<a href="/{key}">Download raw</a>'),
            ("Created", iso(await self._created(key))),
            ("Size", f"{size} ({format_size(size)})"),
            ("Preview", f"<code>{html.escape(preview(shown))}</code>"),
        ]
        return page(f"Metadata of {key}", f"<h1>Metadata</h1>{table(('', ''), rows)}")

    async def stats(self, request: web.Request) -> web.StreamResponse:
        """Send a page with the most pulled blobs."""
        listed = await self._context.access_stats.most_pulled(_LISTED)
        rows = [
            (f'<a href="/meta/{entry.key}"><code>{entry.key}</code></a>', str(entry.pulls), iso(entry.last))
            for entry in listed
        ]
        listing = table(("Key", "Pulls", "Last access"), rows)
        return compressed(request, page("Statistics", f"<h1>Statistics</h1>{listing}"))

    async def liveness(self, request: web.Request) -> web.StreamResponse:
        """Send the duration of a query of the access statistics, in Casa's words."""
        started = time.perf_counter()
        await self._context.access_stats.newest(1)
        seconds = time.perf_counter() - started
        return web.Response(text=f"Database connectivity is OK!Database responded in {seconds:.6f}s")

    async def home(self, request: web.Request) -> web.StreamResponse:
        """Send a page with the last upload still in the store."""
        last = "Never"
        for key, created in await self._context.access_stats.newest(_LISTED):
            if await self._context.store.size(key) is not None:
                last = f'<a href="/meta/{key}"><code>{key}</code></a> at {iso(created)}'
                break
        return page(
            "Archive", f'<h1>Archive</h1><p>Last upload: {last}</p><p><a href="/stats">Statistics</a></p>'
        )

    async def _look(self, request: web.Request, key: str, max_size: int) -> tuple[int, bytes]:
        """Return a blob's size, and its first ``max_size`` bytes.

        Raises:
            HTTPNotFound: the archive does not have the blob.
            LocalDiskError: the blob cannot be read.
        """
        try:
            async with open_while_connected(request, self._context.store.open(key)) as blob:
                return blob.size, await blob.read(min(max_size, blob.size)) if blob.size else b""
        except (BlobMissing, BlobCorrupt) as error:
            if isinstance(error, BlobCorrupt):
                log.error("can't look at %s: %s", key, error)
            raise web.HTTPNotFound from None

    async def _created(self, key: str) -> float:
        """Return the time of a blob's put, in seconds since 1970.

        Without a record, this is the time of the blob's file, or else now, and gets recorded.

        Raises:
            LocalDiskError: the blob's file cannot be accessed.
        """
        known = await self._context.access_stats.put_time(key)
        if known is not None:
            return known
        when = self._context.access_stats.now()
        with contextlib.suppress(BlobMissing, BlobCorrupt, FileNotFoundError):
            async with self._context.store.open(key) as blob:
                if blob.span:
                    with disk_errors("could not look at", blob.span.path):
                        when = blob.span.path.stat().st_mtime
        await self._context.access_stats.record_put([key], when)
        return when


def preview(data: bytes) -> str:
    """Return bytes as a Haskell string literal, as Casa shows a blob's."""
    shown = []
    for position, byte in enumerate(data):
        following = data[position + 1 : position + 2]
        if byte == 0x22 or byte == 0x5C:
            shown.append("\\" + chr(byte))
        elif 0x20 <= byte < 0x7F:
            shown.append(chr(byte))
        elif byte == 0x7F:
            shown.append("\\DEL")
        elif byte > 0x7F:
            shown.append(f"\\{byte}" + ("\\&" if following.isdigit() else ""))
        else:
            shown.append(f"\\{_NAMES[byte]}" + ("\\&" if byte == 0x0E and following == b"H" else ""))
    return f'"{"".join(shown)}"'


_EARLIEST = datetime(1, 1, 1, tzinfo=UTC).timestamp()
_LATEST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()


def iso(seconds: float) -> str:
    """Return a time as ``2019-12-09T11:51:18.123456Z``.

    A file can have any time; outside the years 1 to 9999 the nearest time within them is returned.
    """
    moment = datetime.fromtimestamp(min(max(seconds, _EARLIEST), _LATEST), UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table; the cells of ``rows`` are HTML."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
