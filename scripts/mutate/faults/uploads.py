"""Faults in uploads: publishing from elsewhere."""

from __future__ import annotations

from fault import Fault

TESTS = ["tests/integration/test_uploads.py"]
INCOMING = "shardcast/nodes/incoming_upload.py"
STORED = "shardcast/nodes/stored_upload.py"
LIVE = "shardcast/nodes/live_upload.py"
TABLE = "shardcast/nodes/upload_table.py"
ENDING = "shardcast/nodes/upload_ending.py"
SENDER = "shardcast/nodes/remote_broadcast.py"
FOLDER = "shardcast/store/upload_folder.py"

FAULTS = [
    Fault(
        name="web-page-publishes",
        file="shardcast/server/routes/uploads.py",
        old="if hdrs.ORIGIN in request.headers:",
        new="if False:",
        tests=TESTS,
    ),
    Fault(
        name="blob-is-put-when-its-token-has-ended",
        file="shardcast/blobs/server/hash_routes/routes.py",
        old="writes.put, Scope.STORE_WRITE, stays_open=True)",
        new="writes.put, Scope.STORE_WRITE)",
        tests=["tests/integration/test_access.py"],
    ),
    Fault(
        name="push-goes-on-when-its-token-has-ended",
        file="shardcast/blobs/server/archive_routes/routes.py",
        old="        stays_open=True,\n",
        new="",
        tests=["tests/integration/test_access.py"],
    ),
    Fault(
        name="upload-goes-on-when-its-token-has-ended",
        file="shardcast/server/routes/uploads.py",
        old='("PATCH", one, append, True)',
        new='("PATCH", one, append, False)',
        tests=["tests/integration/test_access.py"],
    ),
    Fault(
        name="stored-upload-is-published-whatever-its-digest",
        file=STORED,
        old="if (sha256 := self.folder.digest()) != ending.whole.sha256:",
        new='if (sha256 := self.folder.digest()) == "":',
        tests=TESTS,
    ),
    Fault(
        name="live-upload-is-published-whatever-its-digest",
        file=ENDING,
        old="if (manifest.size, sha256) != (self.whole.size, self.whole.sha256):",
        new="if manifest.size != self.whole.size:",
        tests=TESTS,
    ),
    Fault(
        name="upload-needs-no-confirmation",
        file=ENDING,
        old="                await self._confirmed.wait()",
        new="                self._confirmed.set()",
        tests=TESTS,
    ),
    Fault(
        name="unconfirmed-version-stays-open",
        file=ENDING,
        old="async with asyncio.timeout(self._confirm_seconds):",
        new="async with asyncio.timeout(None):",
        tests=TESTS,
    ),
    Fault(
        name="bytes-at-any-offset-are-taken",
        file=INCOMING,
        old="if offset != self.offset or self.complete or self.ending:",
        new="if self.complete or self.ending:",
        tests=TESTS,
    ),
    Fault(
        name="older-request-for-an-upload-goes-on",
        file=INCOMING,
        old="        await self._stop_receiving()\n        self.check_open()\n        if offset",
        new="        self.check_open()\n        if offset",
        tests=TESTS,
    ),
    Fault(
        name="upload-takes-more-bytes-than-it-announced",
        file=INCOMING,
        old="if size is not None and self.offset + len(data) > size:",
        new="if size is not None and self.offset > size:",
        tests=TESTS,
    ),
    Fault(
        name="bytes-that-may-not-be-durable-count-after-a-restart",
        file=FOLDER,
        old="                os.truncate(loaded.payload, loaded.offset)",
        new="                loaded.offset = loaded.payload.stat().st_size",
        tests=TESTS,
    ),
    Fault(
        name="bytes-that-could-not-be-synced-count-as-received",
        file=FOLDER,
        old="                self._count_durable()\n",
        new="                pass\n",
        tests=["tests/unit/store/test_upload_folder.py"],
    ),
    Fault(
        name="upload-that-could-not-be-removed-is-taken-up",
        file=FOLDER,
        old="        (folder / _RECORD).unlink(missing_ok=True)",
        new="        pass",
        tests=["tests/unit/store/test_upload_folder.py"],
    ),
    Fault(
        name="bytes-of-an-upload-are-not-synced",
        file=FOLDER,
        old="                    os.fsync(self._descriptor)",
        new="                    os.fstat(self._descriptor)",
        tests=["tests/faults/test_power_cuts.py"],
    ),
    Fault(
        name="folder-of-an-upload-is-not-durable",
        file=FOLDER,
        old="            make_folder(folder)\n",
        new="            folder.mkdir()\n",
        tests=["tests/faults/test_power_cuts.py"],
    ),
    Fault(
        name="version-of-an-upload-is-not-written-down",
        file=STORED,
        old="await in_thread(lambda: self.folder.write_record(version=version))",
        new="self.folder.record = self.folder.record",
        tests=["tests/faults/test_upload_kills.py"],
    ),
    Fault(
        name="version-of-the-line's-record-counts-as-published",
        file=TABLE,
        old="return number in {*self._folders.complete_numbers, *self._folders.line.withdrawn}",
        new="return number in {*self._folders.complete_numbers, *self._folders.line.digests}",
        tests=TESTS,
    ),
    Fault(
        name="active-upload-expires",
        file=TABLE,
        old="if not upload.active and now - upload.last_used",
        new="if now - upload.last_used",
        tests=TESTS,
    ),
    Fault(
        name="interrupted-live-broadcast-waits-for-its-time-out",
        file=SENDER,
        old="given_up = self._announcement.live or not self._source.resumable",
        new="given_up = False",
        tests=TESTS,
    ),
    Fault(
        name="file-that-changed-while-it-was-sent-is-published",
        file="shardcast/nodes/payload_sources.py",
        old="if not now.same_content(self._before):",
        new="if now.size != self._before.size:",
        tests=TESTS,
    ),
    Fault(
        name="published-upload-stays-at-the-origin",
        file=SENDER,
        old="        await self._forget(patience=UNREACHABLE_AT_START)",
        new="        await self._forget()",
        tests=TESTS,
    ),
]
