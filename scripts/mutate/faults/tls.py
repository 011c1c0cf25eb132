"""Faults in TLS: what is trusted, what is refused, and what the certificates' files do."""

from __future__ import annotations

from fault import Fault

CERTIFICATES = "shardcast/access/certificates.py"
CONTEXT = "shardcast/access/live_context.py"
LISTENER = "shardcast/server/tls_listener.py"
TRANSPORT = "shardcast/server/tls_transport.py"
FAILURES = "shardcast/peer/tls_failures.py"
TLS = "shardcast/access/tls.py"

FILES = ["tests/unit/access/test_tls.py"]
SOCKETS = ["tests/unit/server/test_tls_transport.py"]
NODES = ["tests/integration/test_tls.py"]
REFUSED = ["tests/integration/test_tls.py::test_refused_tls_fails_at_once_and_says_why"]

FAULTS = [
    Fault(
        name="client-certificates-are-optional",
        file=TLS,
        old="context.verify_mode = ssl.CERT_REQUIRED",
        new="context.verify_mode = ssl.CERT_OPTIONAL",
        tests=REFUSED,
    ),
    Fault(
        name="tls-1-1-is-spoken",
        file=TLS,
        old="context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        "    context.minimum_version = ssl.TLSVersion.TLSv1_2",
        new="context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        '    context.set_ciphers("ALL:@SECLEVEL=0")\n'
        "    context.minimum_version = ssl.TLSVersion.TLSv1",
        tests=["tests/integration/test_tls.py::test_tls_1_1_is_refused"],
    ),
    Fault(
        name="half-replaced-pair-is-loaded",
        file=CONTEXT,
        old="if self._seen == self._loaded or self._seen != before:",
        new="if self._seen == self._loaded:",
        tests=FILES,
    ),
    Fault(
        name="broken-pair-is-logged-each-second",
        file=CONTEXT,
        old="        self._loaded = self._seen\n        names =",
        new="        names =",
        tests=FILES,
    ),
    Fault(
        name="renewed-certificate-is-not-served",
        file=LISTENER,
        old="self._live = live",
        new="self._live = LiveContext(live._tls)",
        tests=[
            "tests/integration/test_tls.py::test_renewed_certificate_serves_new_connections_while_open_ones_go_on"
        ],
    ),
    Fault(
        name="encrypted-key-asks-at-the-terminal",
        file=TLS,
        old="context.load_cert_chain(certificate, key, password=refuse)",
        new='context.load_cert_chain(certificate, key, password="")',
        tests=FILES,
    ),
    Fault(
        name="refused-client-gets-no-alert",
        file=LISTENER,
        old="        except OSError as error:\n            self._refuse(error)",
        new="        except OSError as error:\n            self._fail(error)",
        tests=SOCKETS,
    ),
    Fault(
        name="silent-handshake-stays",
        file=LISTENER,
        old="call_later(seconds, self._time_out, seconds)",
        new="call_later(600, self._time_out, seconds)",
        tests=["tests/integration/test_tls.py::test_silent_handshake_is_dropped_within_the_bound_of_heads"],
    ),
    Fault(
        name="handshakes-of-an-address-are-not-counted",
        file=LISTENER,
        old="        connections.accept(self)\n",
        new="",
        tests=["tests/integration/test_tls.py::test_handshakes_of_one_address_are_limited"],
    ),
    Fault(
        name="plain-http-at-a-tls-port-gets-no-words",
        file=LISTENER,
        old="in _METHODS:",
        new="in ():",
        tests=["tests/integration/test_tls.py::test_plain_http_to_tls_port_says_https"],
    ),
    Fault(
        name="answer-over-tls-dies-with-an-unread-request",
        file=TRANSPORT,
        old="OrderlyClose(self._sock, lambda: self._lost(error))",
        new="self._sock.close()",
        tests=SOCKETS,
    ),
    Fault(
        name="file-is-encrypted-for-a-reader-that-has-gone",
        file=TRANSPORT,
        old="                if self._closing:\n                    raise ConnectionResetError",
        new="                if False:\n                    raise ConnectionResetError",
        tests=SOCKETS,
    ),
    Fault(
        name="expired-certificate-has-no-date",
        file=FAILURES,
        old="if code in (_EXPIRED, _NOT_YET, *_WRONG_NAMES) and proxy_of(server) is None:",
        new="if False:",
        tests=REFUSED,
    ),
    Fault(
        name="any-bytes-crash-the-reader-of-certificates",
        file=CERTIFICATES,
        old="if position + 2 > len(data):",
        new="if False:",
        tests=["tests/unit/access/test_certificates.py"],
    ),
    Fault(
        name="status-names-what-a-node-calls-itself",
        file="shardcast/server/routes/report.py",
        old="    if not subject:\n",
        new="    if True:\n",
        tests=["tests/integration/test_tls.py::test_client_certificate_names_the_node_in_status"],
    ),
    Fault(
        name="head-read-over-tls-waits-for-a-full-buffer",
        file="shardcast/peer/bounded_answers.py",
        old="            and len(buffer) > io.DEFAULT_BUFFER_SIZE\n",
        new="",
        tests=["tests/integration/test_tls.py::test_small_shards_arrive_over_tls_without_a_wait"],
    ),
]
