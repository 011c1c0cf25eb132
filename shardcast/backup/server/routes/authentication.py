"""From a request's key to the client; wrong keys and invitations are slowed down."""

from __future__ import annotations

import asyncio
import hmac
import logging

from aiohttp import hdrs, web

from shardcast.access.authorization import Refusal, bearer_of
from shardcast.backup.server.accounts import BackupClient, authenticate
from shardcast.backup.server.refusals import BackupRefused
from shardcast.backup.server.state import BackupServerState
from shardcast.backup.wire import ADMIN_KEY_HEADER
from shardcast.server.hang_ups import while_connected

log = logging.getLogger(__name__)


async def client_of(state: BackupServerState, request: web.Request, *, writes: bool) -> BackupClient:
    """Return the client of the key in a request.

    Args:
        state: of the server.
        request: the request.
        writes: whether the request needs a key with the right to write.

    Raises:
        BackupRefused: the key is missing, wrong, revoked, or read-only for a request that writes.
        ConnectionError: the sender of a wrong key hung up while waiting.
    """
    client = await known_client(state, request)
    if client is None:
        await slow_down(state, request, "a key that this server does not know")
        raise BackupRefused(
            "this server does not know the key, or it was revoked; register again with an invitation by "
            "`shardcast backup invite --for CLIENT`",
            status=401,
        )
    if writes and client.read_only:
        raise BackupRefused("this key only reads: it was made by an invitation with --read-only", status=403)
    return client


async def known_client(state: BackupServerState, request: web.Request) -> BackupClient | None:
    """Return the client whose key a request shows; None for a wrong or revoked key.

    Raises:
        BackupRefused: the request shows no key, several, or a malformed header.
        LocalDiskError: the database cannot be read.
    """
    bearer = bearer_of(request.headers.getall(hdrs.AUTHORIZATION, []))
    if isinstance(bearer, Refusal):
        raise BackupRefused("send the client's key as `Authorization: Bearer shardcast_…`, once", status=401)
    return await state.store.database.read(authenticate, bearer)


async def slow_down(state: BackupServerState, request: web.Request, what: str) -> None:
    """Delay the answer to a wrong key or invitation, and log the first one of an address.

    Raises:
        BackupRefused: too many answers wait already, to this address or to all.
        ConnectionError: the client hung up.
    """
    address = request.remote or ""
    with state.wrong_keys.attempt(address) as slowing:
        if slowing.first:
            log.warning("%s sent %s", address, what)
        if slowing.seconds is None:
            raise BackupRefused(
                "too many wrong keys or invitations came, from this address or in all; wait a minute",
                status=429,
            )
        await while_connected(request, asyncio.sleep(slowing.seconds))


async def check_admin_key(state: BackupServerState, request: web.Request) -> None:
    """Check the admin key of a request, needed for deleting from an append-only server.

    Raises:
        BackupRefused: the key is missing, or wrong.
        ConnectionError: the sender of a wrong key hung up while waiting.
    """
    shown = request.headers.getall(ADMIN_KEY_HEADER, [])
    if not shown:
        raise BackupRefused(
            "this server is append-only: deleting needs --admin-key-file, with the key in admin.key of the "
            "server's folder",
            status=403,
        )
    if len(shown) != 1 or not hmac.compare_digest(shown[0].strip().encode(), state.admin_key.encode()):
        await slow_down(state, request, "a wrong admin key")
        raise BackupRefused("this is not the admin key of this server", status=403)
