"""A middle in a child process, ended with the caller's process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shardcast.access.client_access import token_environment
from shardcast.access.secret import Secret
from shardcast.addresses import server_urls
from shardcast.api.file_options import file_options
from shardcast.api.publishing import StrPath
from shardcast.constants import CHECK_INTERVAL, HTTP_PORT
from shardcast.nodes.child_process import NodeProcess
from shardcast.nodes.sharing_settings import checked_site
from shardcast.policy.byte_limit import Rates


class MiddleNode:
    """Middle in a child process, ended with the caller's process.

    Attributes:
        upstream_servers: base URLs of the servers above, the authority first.
        data_dir: the data directory, absolute.
        check_interval: seconds between two requests to servers without a feed.
        port: TCP port of the middle.
    """

    def __init__(
        self,
        upstream_servers: Sequence[str],
        data_dir: StrPath,
        port: int = HTTP_PORT,
        check_interval: float = CHECK_INTERVAL,
        max_bytes: int | None = None,
        *,
        origin_id: str | None = None,
        tokens: StrPath | None = None,
        token: str | None = None,
        upload_limit: int | None = None,
        download_limit: int | None = None,
        site: str | None = None,
        certificate: StrPath | None = None,
        key: StrPath | None = None,
        client_ca: StrPath | None = None,
        ca: StrPath | None = None,
        client_certificate: StrPath | None = None,
        client_key: StrPath | None = None,
    ) -> None:
        """Start the middle and wait until it listens.

        Args:
            upstream_servers: servers as people write them, ``host:port`` or a URL; the authority first.
            data_dir: the folder of the versions; made if missing.
            port: TCP port to listen on; 0 picks a free one.
            check_interval: seconds between two requests to servers without a feed (old ones), and until a
                failed download is tried again.
            max_bytes: maximum bytes of all versions together; None for no maximum.
            origin_id: id of the only line of versions to accept; None for the authority's line.
            tokens: file of tokens, one of them required for each request to this middle; None for the file
                named by ``SHARDCAST_TOKENS``, or none.
            token: token to show to the servers above, or lines ``host=token``; None for those in
                ``SHARDCAST_TOKEN_FILE`` or ``SHARDCAST_TOKEN``. Never shown among the child's options.
            upload_limit: maximum bytes a second sent; None for no limit.
            download_limit: maximum bytes a second received; None for no limit.
            site: name of the site of this machine; None to guess the site from the addresses.
            certificate: file (PEM) with the certificate of the middle, to speak TLS; read again after
                changes.
            key: file with the certificate's key; None if ``certificate`` also has the key.
            client_ca: file with CAs, for certificates required from clients; None to require none.
            ca: file with the CAs to trust for ``https://`` servers; None for the system's.
            client_certificate: file with the certificate to show to servers if asked.
            client_key: file with that certificate's key; None if ``client_certificate`` also has the key.

        Raises:
            UsageError: a server, a token, a limit or a certificate makes no sense, or there is no server.
            DataDirInUse: another process works on the data directory.
            LocalDiskError: the data directory, or a file of the certificates or tokens, can't be used.
            NodeFailed: the port is taken, or the process could not start.
        """
        shown, token = None if token is None else Secret(token), None  # out of sight of tracebacks
        Rates(upload_limit).check()
        Rates(download_limit).check()
        self.upstream_servers = server_urls(upstream_servers)
        self.data_dir = str(Path(data_dir).absolute())
        self.check_interval = check_interval
        options = ["--upstream", ",".join(self.upstream_servers), "--data-dir", self.data_dir]
        options += ["--port", str(port), "--check-interval", str(check_interval)]
        options += ["--max-bytes", str(max_bytes)] if max_bytes else []
        options += ["--origin-id", origin_id] if origin_id is not None else []
        options += ["--site", name] if (name := checked_site(site)) is not None else []
        limits = {"--upload-limit": upload_limit, "--download-limit": download_limit}
        options += [word for name, limit in limits.items() if limit for word in (name, str(limit))]
        options += file_options(tokens=tokens, certificate=certificate, key=key, client_ca=client_ca)
        options += file_options(ca=ca, client_certificate=client_certificate, client_key=client_key)
        self._process = NodeProcess(
            "middle", options, secrets=None if shown is None else token_environment(shown)
        )
        self._process.wait_until_listening()
        self.port = int(self._process.url.rsplit(":", 1)[1])

    @property
    def url(self) -> str:
        """Base URL of the node."""
        return self._process.url

    def shutdown(self) -> None:
        """End the middle; its versions stay in the data directory."""
        self._process.stop()
