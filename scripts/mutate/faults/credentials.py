"""Faults of the tokens that are shown to servers, and of what a refusal leads to."""

from __future__ import annotations

from fault import Fault

_TOKENS = "tests/integration/test_client_tokens.py"
_LEAKS = "tests/integration/test_token_leaks.py"

FAULTS = [
    Fault(
        name="redirect-takes-the-token-along",
        file="shardcast/peer/redirects.py",
        old="if not isinstance(value, HeaderValue)",
        new="if True",
        tests=[f"{_LEAKS}::test_no_redirect_takes_the_token_along"],
    ),
    Fault(
        name="plain-proxy-reads-the-token",
        file="shardcast/access/client_access.py",
        old='if self.credentials is None or (proxy and not url.startswith("https://")):',
        new="if self.credentials is None:",
        tests=["tests/unit/access/test_credentials.py"],
    ),
    Fault(
        name="token-in-local-variables-of-libraries",
        file="shardcast/access/secret.py",
        old="            trace.tb_frame.clear()",
        new="            pass",
        tests=[f"{_LEAKS}::test_no_error_of_writing_a_request_shows_the_token"],
    ),
    Fault(
        name="header-shows-the-token-in-its-repr",
        file="shardcast/access/secret.py",
        old='return "HeaderValue(…)"',
        new='return f"{self!s}"',
        tests=[f"{_LEAKS}::test_no_error_of_a_request_shows_the_token"],
    ),
    Fault(
        name="http-where-tls-is-required",
        file="shardcast/access/client_access.py",
        old='if self.require_tls and not url.lower().startswith("https://"):',
        new="if False:",
        tests=["tests/unit/access/test_credentials.py"],
    ),
    Fault(
        name="broken-token-file-takes-the-tokens-away",
        file="shardcast/access/credentials.py",
        old='log.warning("%s; the tokens that it had are used on", error)\n            return',
        new='log.warning("%s; the tokens that it had are used on", error)\n            tokens = Tokens()',
        tests=["tests/unit/access/test_credentials.py"],
    ),
    Fault(
        name="padding-of-a-token-is-an-address",
        file="shardcast/access/token_text.py",
        old='if separator and token.strip("="):',
        new="if separator and token:",
        tests=["tests/unit/access/test_token_text.py"],
    ),
    Fault(
        name="server-that-wants-another-token-is-asked-on",
        file="shardcast/transfer/servers.py",
        old="return [url for url in self.peers if url not in self.denied]",
        new="return list(self.peers)",
        tests=[f"{_TOKENS}::test_token_revoked_in_a_transfer_ends_it_and_keeps_what_landed"],
    ),
    Fault(
        name="refusal-is-one-of-many-failures",
        file="shardcast/upstream/follow.py",
        old="if denied := AccessDenied.among(failures.values()):",
        new="if denied := AccessDenied.among([]):",
        tests=[f"{_TOKENS}::test_wrong_token_is_refused_with_the_missing_scope"],
    ),
    Fault(
        name="refusal-is-logged-again-and-again",
        file="shardcast/upstream/denials.py",
        old="if self._logged.get(url) != str(failure):",
        new="if True:",
        tests=["tests/unit/upstream/test_denials.py"],
    ),
    Fault(
        name="refused-report-is-sent-at-once-again",
        file="shardcast/upstream/report.py",
        old="self._clock() - self._refused[url][1] < _DENIED",
        new="False",
        tests=["tests/unit/upstream/test_reporting.py"],
    ),
    Fault(
        name="every-403-is-a-refusal-of-the-feed",
        file="shardcast/peer/server.py",
        old="if wants_token(head.status, head.headers):",
        new="if head.status in (401, 403):",
        tests=[f"{_TOKENS}::test_static_server_that_forbids_what_it_lacks_is_read"],
    ),
    Fault(
        name="refused-copy-goes-on-blob-by-blob",
        file="shardcast/blobs/copy.py",
        old="_FOR_ALL_BLOBS = (ServerUnreachable, TlsFailure, ServerStalled, AccessDenied)",
        new="_FOR_ALL_BLOBS = (ServerUnreachable, TlsFailure, ServerStalled)",
        tests=["tests/integration/test_store_tokens.py"],
    ),
]
