"""Faults in limits of bytes a second."""

from __future__ import annotations

from fault import Fault

POLICY = "shardcast/policy/byte_limit.py"
BULK = "shardcast/peer/bulk.py"
PACE = "shardcast/peer/pace.py"
SCHEDULER = "shardcast/transfer/scheduler.py"
SENDER = "shardcast/server/file_sender.py"
UPLOADS = "shardcast/server/upload_limit.py"
WRITING = "shardcast/server/writing.py"

SHARES = ["tests/unit/policy/test_byte_limit.py"]
SERVED = ["tests/integration/test_upload_limit.py"]

FETCHED = ["tests/integration/test_download_limit.py"]

FAULTS = [
    Fault(
        name="limit-makes-up-for-any-pause",
        file=POLICY,
        old="""        start = max(self._free_at, now - self._credit)
        self._free_at = start + count / self.rate""",
        new="""        start = self._free_at
        self._free_at = start + count / self.rate""",
        tests=SHARES,
    ),
    Fault(
        name="limit-gives-each-connection-an-equal-share",
        file=POLICY,
        old="self._busy * address.readers",
        new="self.readers",
        tests=SHARES,
    ),
    Fault(
        name="unused-slot-is-lost",
        file=POLICY,
        old="            if schedule and unused:",
        new="            if False:",
        tests=SHARES,
    ),
    Fault(
        name="idle-addresses-are-remembered",
        file=POLICY,
        old="if not one.is_idle(now)}",
        new="}",
        tests=SHARES,
    ),
    Fault(
        name="urgent-bytes-delay-without-a-bound",
        file=POLICY,
        old="min(start + count / self.rate, now + MAX_DEBT)",
        new="start + count / self.rate",
        tests=SHARES,
    ),
    Fault(
        name="files-are-sent-without-the-upload-limit",
        file=SENDER,
        old="granted or await take(self._request, end - offset)",
        new="end - offset",
        tests=SERVED,
    ),
    Fault(
        name="wait-for-a-turn-counts-as-a-stall",
        file=SENDER,
        old="            granted = granted or await take(self._request, end - offset)",
        new="""            async with asyncio.timeout(bounds_of(self._request).reader_seconds):
                granted = granted or await take(self._request, end - offset)""",
        tests=SERVED,
    ),
    Fault(
        name="small-answers-do-not-count",
        file=WRITING,
        old="            count(request, len(body))",
        new="            pass",
        tests=SERVED,
    ),
    Fault(
        name="small-blobs-do-not-wait",
        file=WRITING,
        old="        if isinstance(response, BlobResponse):",
        new="        if False:",
        tests=SERVED,
    ),
    Fault(
        name="small-answers-wait-for-readers",
        file=WRITING,
        old="        if isinstance(response, BlobResponse):",
        new="        if True:",
        tests=SERVED,
    ),
    Fault(
        name="share-of-an-ended-reader-is-kept",
        file=UPLOADS,
        old="        share.close()",
        new="        pass",
        tests=SERVED,
    ),
    Fault(
        name="trusted-proxy-is-limited-as-an-address",
        file=UPLOADS,
        old="return (request.transport, False) if address is None else (address, True)",
        new="return (request.remote, True)",
        tests=SERVED,
    ),
    Fault(
        name="any-number-of-readers-is-served",
        file=UPLOADS,
        old="    if not is_free():\n        with",
        new="    if False:\n        with",
        tests=SERVED,
    ),
    Fault(
        name="shards-are-received-without-the-download-limit",
        file=BULK,
        old="        if self._share is None or room <= 0:",
        new="        if True:",
        tests=FETCHED,
    ),
    Fault(
        name="server-is-blamed-for-the-download-limit",
        file=BULK,
        old="        self._request.writing = True  # the server is not to blame\n",
        new="",
        tests=FETCHED,
    ),
    Fault(
        name="cancelled-answer-waits-for-the-download-limit",
        file=BULK,
        old="        self.ended.set()\n",
        new="",
        tests=FETCHED,
    ),
    Fault(
        name="blobs-are-received-without-the-download-limit",
        file=PACE,
        old="            await share.take_all(len(chunk))",
        new="            pass",
        tests=FETCHED,
    ),
    Fault(
        name="blobs-are-pushed-without-the-upload-limit",
        file=PACE,
        old="size = await share.take(size, len(chunk) - start)",
        new="pass",
        tests=FETCHED,
    ),
    Fault(
        name="limited-answers-are-split",
        file=SCHEDULER,
        old="        if victim.peer.is_limited_here:",
        new="        if False:",
        tests=FETCHED,
    ),
]
