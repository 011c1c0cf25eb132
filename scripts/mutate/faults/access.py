"""Faults in access: tokens, scopes, and the guard before routes."""

from __future__ import annotations

from fault import Fault

AUTHORIZATION = "shardcast/access/authorization.py"
FILE = "shardcast/access/token_file.py"
GUARD = "shardcast/server/guard.py"
ROUTES = "shardcast/server/scoped_routes.py"
WRONG = "shardcast/access/wrong_tokens.py"

IN_THE_TABLE = ["tests/integration/test_access_routes.py"]

FAULTS = [
    Fault(
        name="second-authorization-header-is-passed-over",
        file=AUTHORIZATION,
        old='if len(headers) > 1 or scheme.lower() != "bearer":',
        new='if scheme.lower() != "bearer":',
        tests=IN_THE_TABLE,
    ),
    Fault(
        name="secret-of-a-known-id-is-not-compared",
        file=AUTHORIZATION,
        old="if token is None or not right:",
        new="if token is None:",
        tests=["tests/unit/access/test_authorization.py"],
    ),
    Fault(
        name="token-is-valid-in-the-second-of-its-expiry",
        file="shardcast/access/tokens.py",
        old="self.expires is not None and now >= self.expires",
        new="self.expires is not None and now > self.expires",
        tests=["tests/unit/access/test_authorization.py"],
    ),
    Fault(
        name="any-scope-will-do",
        file=AUTHORIZATION,
        old="return token if scope in token.scopes else Refusal.LACKS_SCOPE",
        new="return token",
        tests=IN_THE_TABLE,
    ),
    Fault(
        name="broken-file-revokes-all-tokens",
        file=FILE,
        old="                self._identity = identity  # else",
        new="                self._identity, self._tokens = identity, {}  # else",
        tests=["tests/unit/access/test_token_file.py"],
    ),
    Fault(
        name="file-that-could-not-be-opened-is-not-tried-again",
        file=FILE,
        old="if isinstance(error, UsageError):",
        new="if True:",
        tests=["tests/unit/access/test_token_file.py"],
    ),
    Fault(
        name="emptied-file-revokes-all-tokens",
        file=FILE,
        old="if read.size == 0 and self._tokens:",
        new="if False:",
        tests=["tests/unit/access/test_token_file.py"],
    ),
    Fault(
        name="failed-append-leaves-half-a-line",
        file=FILE,
        old="os.ftruncate(descriptor, size)",
        new="pass",
        tests=["tests/unit/cli/test_token.py"],
    ),
    Fault(
        name="error-quotes-a-token-in-the-file",
        file="shardcast/access/tokens.py",
        old="if _TOKEN.search(line):",
        new="if False:",
        tests=["tests/unit/access/test_tokens.py"],
    ),
    Fault(
        name="refused-request-is-asked-for-its-body",
        file=ROUTES,
        old="if not request.app[MAY_SEND_BODY](request):",
        new="if False:",
        tests=["tests/integration/test_access.py::test_refused_request_is_never_asked_for_its_body"],
    ),
    Fault(
        name="open-answer-outlives-its-token",
        file=GUARD,
        old="                request.transport.abort()",
        new="                pass",
        tests=["tests/integration/test_access.py"],
    ),
    Fault(
        name="revoked-token-cuts-the-shard-under-way",
        file=GUARD,
        old="if verdict is None or not rule.stays_open:",
        new="if verdict is None:",
        tests=["tests/integration/test_access.py::test_revoked_token_ends_its_feed_and_not_its_shard"],
    ),
    Fault(
        name="wrong-tokens-are-answered-at-once",
        file=GUARD,
        old="await while_connected(request, asyncio.sleep(slowing.seconds))",
        new="await asyncio.sleep(0)",
        tests=["tests/integration/test_access.py"],
    ),
    Fault(
        name="shared-cache-may-keep-what-needed-a-token",
        file=GUARD,
        old='if first in ("", "public"):',
        new="if False:",
        tests=["tests/integration/test_access.py"],
    ),
    Fault(
        name="addresses-of-wrong-tokens-are-kept-for-ever",
        file=WRONG,
        old="if len(self._seen) > MAX_ADDRESSES:",
        new="if False:",
        tests=["tests/unit/access/test_wrong_tokens.py"],
    ),
    Fault(
        name="waiting-answers-are-unbounded",
        file=WRONG,
        old="self._waiting[key] >= MAX_WAITING_OF_ADDRESS or self._waiting.total() >= MAX_WAITING",
        new="False",
        tests=["tests/unit/access/test_wrong_tokens.py"],
    ),
    Fault(
        name="push-token-of-an-archive-is-not-taken-beside-tokens",
        file="shardcast/blobs/server/archive_routes/routes.py",
        old="also_accepts=context.is_push_token",
        new="also_accepts=None",
        tests=["tests/integration/test_access.py"],
    ),
    Fault(
        name="shared-cache-may-keep-what-says-nothing-of-caches",
        file="shardcast/server/guard.py",
        old='if first in ("", "public"):',
        new='if first == "public":',
        tests=["tests/integration/test_access.py"],
    ),
    Fault(
        name="empty-variable-opens-a-server",
        file="shardcast/cli/access_options.py",
        old='if os.environ.get(name) == "":',
        new="if False:",
        tests=["tests/unit/cli/test_token.py"],
    ),
    Fault(
        name="open-listener-says-nothing",
        file="shardcast/server/application.py",
        old="if app[ACCESS].is_open and not guarded and not bound.is_loopback:",
        new="if False:",
        tests=["tests/integration/test_access_nodes.py"],
    ),
]
