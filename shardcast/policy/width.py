"""Concurrency limit: the number of simultaneous answers, as few as reach the highest rate.

Over a near link two or three connections are as fast as ten, and better: shards arrive nearly in their order,
so the whole digest keeps up, and fewer threads are woken for the same bytes. Over a far one, each connection
is held back by its window, and more connections bring more. Trials find out the kind of link.
"""

from __future__ import annotations

from shardcast.policy.backoff import Backoff

MIN_LIMIT = 3
"""Answers under way at first; two for each server where there are more servers."""
STEP = 1.5
"""Factor of the limit in a trial."""
MEASURING_SECONDS = 0.5
"""Seconds of measuring a limit."""
WARM_UP = 0.2
"""Seconds of a trial to ignore, while its connections are new."""
GAIN = 0.5
"""Minimum gain of the rate, as a share of the gain in connections, for a trial's limit to be kept."""
FIRST_PAUSE, MAX_PAUSE = 5.0, 60.0
"""Seconds until the next trial after one with too little gain; doubled each time."""
_REST = Backoff(FIRST_PAUSE, MAX_PAUSE)


class ConcurrencyLimit:
    """The concurrency limit of one transfer.

    Attributes:
        value: present maximum of simultaneous answers.
    """

    def __init__(self, servers: int, max_limit: int) -> None:
        self._max = max_limit
        self._servers = servers
        self._kept = self.value = self._initial
        self._kept_rate = 0.0
        self._vain_trials = 0
        self._next_trial_at = 0.0
        self._not_before = 0.0
        self._since: float | None = None  # when the measurement began
        self._received = 0

    def add_server(self) -> None:
        """Record one more server; the limit grows with their number while no trial has changed it."""
        self._servers += 1
        if self.value == self._kept < self._initial:
            self._kept = self.value = self._initial

    @property
    def _initial(self) -> int:
        """The limit to begin with."""
        return min(max(MIN_LIMIT, 2 * self._servers), self._max)

    def cap(self, under_way: int) -> None:
        """Record ``under_way`` as this machine's maximum of answers, and never try more again."""
        self._max = max(1, min(self._max, under_way))
        self._kept = self.value = min(self.value, self._max)
        self._since = None

    def observe(self, now: float, received: int, under_way: int) -> None:
        """Take a measurement, and widen or narrow the limit.

        Args:
            now: time of the look, in seconds.
            received: bytes since the beginning of the transfer.
            under_way: present number of answers.
        """
        if under_way < self.value or not received:
            self._since = None  # a limit that isn't used up can't be measured
        elif self._since is None:
            if now >= self._not_before:
                self._since, self._received = now, received
        elif now >= self._since + MEASURING_SECONDS:
            self._measured(now, (received - self._received) / (now - self._since))
            self._since = None
            self._not_before = now + (WARM_UP if self.value > self._kept else 0.0)

    def _measured(self, now: float, rate: float) -> None:
        """Keep or undo a trial by its bytes a second, and begin the next one when due."""
        if self.value == self._kept:
            self._kept_rate = rate
            if now >= self._next_trial_at:
                self._try()
        elif rate >= self._kept_rate * (1 + GAIN * (self.value / self._kept - 1)):
            self._kept, self._kept_rate, self._vain_trials = self.value, rate, 0
            self._try()
        else:
            self.value = self._kept
            self._next_trial_at = now + _REST.pause(self._vain_trials)
            self._vain_trials += 1

    def _try(self) -> None:
        """Begin a trial of a wider limit."""
        self.value = min(self._max, int(self._kept * STEP + 0.5))
