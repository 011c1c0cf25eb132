"""Faults in what keeps versions and outputs on the disk."""

from __future__ import annotations

from fault import Fault

LANDING = "shardcast/store/landing.py"
ROOM = "shardcast/store/room.py"
OUTPUT = "shardcast/store/output.py"
OPEN_VERSION = "shardcast/store/open_version.py"

FAULTS = [
    # Cancelling and races
    Fault(
        name="cancelled-write-counts-as-ended",
        file=LANDING,
        old="return await asyncio.shield(under_way)",
        new="return await under_way",
        tests=["tests/test_cancelling.py"],
    ),
    Fault(
        name="landing-is-closed-under-its-thread",
        file=LANDING,
        old="if self.descriptor >= 0 and not self._at_work:",
        new="if self.descriptor >= 0:",
        tests=["tests/test_cancelling.py"],
    ),
    Fault(
        name="landing-stays-open-after-its-thread",
        file=LANDING,
        old="        if self._closing:\n            self.close()\n",
        new="",
        tests=["tests/test_cancelling.py"],
    ),
    Fault(
        name="completing-goes-on-after-an-interrupt",
        file=OUTPUT,
        old="await asyncio.wait([under_way])  # it uses the file, which is closed next",
        new="pass",
        tests=["tests/test_cancelling.py"],
    ),
    Fault(
        name="completing-is-cancelled-with-who-waits",
        file=OUTPUT,
        old="await asyncio.shield(under_way)",
        new="await under_way",
        tests=["tests/test_cancelling.py"],
    ),
    Fault(
        name="lines-reach-the-disk-unchecked",
        file=OPEN_VERSION,
        old="""            self.live.add(lines)
            with file.open("ab") as manifest:
                manifest.write(lines)
""",
        new="""            with file.open("ab") as manifest:
                manifest.write(lines)
            self.live.add(lines)
""",
        tests=["tests/test_cancelling.py"],
    ),
    Fault(
        name="cancelled-thread-is-not-waited-for",
        file="shardcast/concurrency.py",
        old="while not task.done():  # also when it is cancelled again",
        new="if not task.done():",
        tests=["tests/test_concurrency.py"],
    ),
    Fault(
        name="unwanted-result-is-not-undone",
        file="shardcast/concurrency.py",
        old="if task.exception() is None and undo:",
        new="if False:",
        tests=["tests/test_concurrency.py"],
    ),
    Fault(
        name="resuming-needs-room-for-all-of-it",
        file=OUTPUT,
        old="if room.f_bavail * room.f_frsize + here < self._live.size:",
        new="if room.f_bavail * room.f_frsize < self._live.size:",
        tests=["tests/test_accounting.py"],
    ),
    Fault(
        name="own-claim-counts-twice",
        file=ROOM,
        old="over = self._claimed_by_all - self._claimed.get(number, 0) + size - self.most",
        new="over = self._claimed_by_all + size - self.most",
        tests=["tests/test_accounting.py"],
    ),
    Fault(
        name="room-is-not-checked",
        file=OUTPUT,
        old="                self._check_room()\n",
        new="",
        tests=["tests/test_accounting.py"],
    ),
]
