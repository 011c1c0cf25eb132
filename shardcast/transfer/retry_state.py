"""The consequences of a transfer's failed answers: attempts, the outage, pauses and the final error."""

from __future__ import annotations

import logging
from collections.abc import Callable
from random import Random

from shardcast.errors import (
    AccessDenied,
    CannotAsk,
    IntegrityError,
    LocalLimit,
    NoServerReachable,
    PeerError,
    ServerBusy,
    ServerLacks,
    ServerUnreachable,
    ShardcastError,
    TlsFailure,
    TransferFailed,
    WrongBytes,
)
from shardcast.log_fields import about
from shardcast.policy.backoff import Backoff
from shardcast.policy.retries import counts_as_attempt, outage_exceeds
from shardcast.store.live_manifest import LiveManifest
from shardcast.transfer.limits import Limits
from shardcast.transfer.ranges import ShardDownload
from shardcast.transfer.servers import Servers

log = logging.getLogger(__name__)

_BUSY_PAUSE = 0.2
"""Seconds until a server is asked again for a shard whose arrival there had not begun."""
_BACKOFF = Backoff(first=0.5, longest=8.0)
"""Pauses between two attempts at a shard."""


class RetryState:
    """The failures of one transfer, of all its shards and servers.

    Attributes:
        started: whether the first byte has arrived. From then on an outage may last longer.
        progress_at: time of the last bytes; at first, of the transfer's beginning.
    """

    def __init__(
        self,
        servers: Servers,
        manifest: LiveManifest,
        limits: Limits,
        *,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self.started = False
        self.progress_at = clock()
        self._servers = servers
        self._manifest = manifest
        self._limits = limits
        self._clock = clock
        self._random = random
        self._unreachable_since: float | None = None
        self._last_failure: PeerError | None = None

    @property
    def outage(self) -> PeerError | None:
        """The last failure, while no server can be reached."""
        return self._last_failure if self._unreachable_since is not None else None

    def answered(self) -> None:
        """Record the contact with a server: bytes came, or a whole answer, perhaps an empty one."""
        self._unreachable_since, self.started = None, True

    def failed(self, download: ShardDownload, url: str, error: PeerError, *, useful: bool) -> None:
        """Count a failed answer, and record the outage behind it.

        The score of the server falls, except for a missing shard; a refusal for want of a token ends all
        requests to the server.

        Args:
            download: the shard.
            url: URL of the server.
            error: the failure.
            useful: whether the answer brought a verified piece before the failure.
        """
        now = self._clock()
        self._last_failure = error
        download.failures[url] = download.failures.get(url, 0) + 1
        if isinstance(error, WrongBytes):
            download.wrong = error
        if isinstance(error, AccessDenied) and error.wants_token:
            self._deny(url, error)
        elif isinstance(error, ServerUnreachable):
            self._unreachable_since = now if self._unreachable_since is None else self._unreachable_since
        else:
            self._unreachable_since = None
            download.attempts += counts_as_attempt(
                useful=useful,
                wrong=isinstance(error, WrongBytes),
                lacking=isinstance(error, ServerLacks),
                too_early=self._is_too_early(error, now),
                asked_all=self._servers.asked_all(download),
            )
        if not isinstance(error, ServerLacks):
            self._servers.ranking.failed(url, now)

    def _deny(self, url: str, error: AccessDenied) -> None:
        """Send a server no more requests: it would refuse any shard."""
        servers = self._servers
        if url not in servers.denied and len(servers.usable) > 1:
            log.warning(
                "%s is fetched from other servers: %s",
                self._manifest.version,
                error,
                extra=about(version=self._manifest.version),
            )
        servers.denied[url] = error

    def _is_too_early(self, error: PeerError, now: float) -> bool:
        """Return whether a server may get the shard yet, while other answers still bring bytes.

        A missing shard is no sign of an aborted version: the manifest has a line for that.
        """
        is_open = self._manifest.manifest is None and isinstance(error, ServerLacks)
        may_come = is_open or isinstance(error, ServerBusy)
        return may_come and now - self.progress_at < self._limits.timeout

    def is_exhausted(self, download: ShardDownload, error: BaseException | None) -> bool:
        """Return whether to give up a shard after this error."""
        if not self._servers.usable:
            return True
        if isinstance(error, ServerUnreachable):
            limits = self._limits
            budget = limits.unreachable_once_begun if self.started else limits.unreachable_at_start
            asked_all = self._servers.asked_all(download)
            return outage_exceeds(budget, self._unreachable_since, self._clock(), asked_all=asked_all)
        return download.attempts >= self._limits.attempts

    def pause(self, download: ShardDownload, error: BaseException | None, failures: int) -> float:
        """Return the seconds to pause after an error that followed ``failures`` earlier ones.

        There is no pause before a request to a server without a failure at this shard.
        """
        if isinstance(error, ServerBusy):
            return _BUSY_PAUSE  # the server waited for the shard itself
        return 0.0 if self._servers.has_untried(download) else _BACKOFF.spread(failures, self._random)

    def final_error(self, download: ShardDownload, error: PeerError) -> ShardcastError:
        """Return the final error of the transfer: shard, last server, and advice."""
        shard = download.landing.shard
        where = f"{self._manifest.version} shard {shard.number} of {len(self._manifest.shards)}"
        if isinstance(error, CannotAsk):
            return LocalLimit(error.what)
        if refusal := self._refusal(download, error):
            return refusal.at(where, "; what is here is kept, so try again then")
        if isinstance(error, (ServerUnreachable, TlsFailure)):
            return NoServerReachable(
                f"{where}: no server could be reached any more ({error}); what is here is kept, so try again"
            )
        if download.wrong:
            return IntegrityError(
                f"{where}: {download.wrong}; after {download.attempts} failed answers no server "
                "sent the right bytes; name other servers, or broadcast it again"
            )
        return TransferFailed(
            f"{where}: given up after {download.attempts} failed answers, the last from {error}; "
            "what is here is kept, so try again, or name other servers"
        )

    def _refusal(self, download: ShardDownload, error: PeerError) -> AccessDenied | None:
        """Return the final refusal of a transfer; None where the failure is not for want of access."""
        if denied := self._servers.all_denied:
            return denied
        if isinstance(error, AccessDenied):
            return error
        if isinstance(error, (ServerUnreachable, ServerLacks)) and not download.wrong:
            return AccessDenied.among([*self._servers.denied.values(), error])
        return None
