"""The first frames of a stream: each end shows its ticket, and proves to have the ticket's key.

The connecting end speaks first; the other one shows nothing of itself before it has checked the first ticket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from shardcast.access.proofs import End, ProofContext, is_proof, new_challenge, prove
from shardcast.access.signing import SigningKey
from shardcast.access.tickets import Ticket, TicketRefused, TicketVersion, Vouchers, check_ticket
from shardcast.protocol.swarm_frames import Control, FrameError, ProofFrame
from shardcast.protocol.swarm_hello import HelloFrame
from shardcast.swarm.stream import SwarmStream

GREETING_SECONDS = 5.0
"""Seconds from a connection to the other end's proof."""


class StreamRefused(ConnectionError):
    """A stream refused by the other end, or with the wrong node there."""


@dataclass(frozen=True, slots=True)
class SwarmPass:
    """The credentials of a node towards its neighbours in the swarm of one version.

    Attributes:
        version: the version.
        node: the node's generation id.
        ticket: returns the node's current ticket for a neighbour, by the neighbour's key and the id of the
            key behind the neighbour's own ticket; None while unknown.
        key: the key of this ticket.
        vouchers: the servers with valid tickets.
        certificate: returns the SHA-256 of the present TLS certificate of this node's server; empty without
            TLS.
    """

    version: TicketVersion
    node: str
    ticket: Callable[[bytes, str | None], str]
    key: SigningKey
    vouchers: Vouchers
    certificate: Callable[[], bytes] = bytes

    def hello(self, challenge: bytes, neighbour: bytes, signer: str | None = None) -> HelloFrame:
        """Return the hello of this node to a neighbour; the arguments are those of ``ticket``."""
        version, ticket = self.version, self.ticket(neighbour, signer)
        return HelloFrame(version.number, version.origin, version.digest, self.node, ticket, challenge)

    def check(self, ticket: str) -> Ticket:
        """Return the facts in another member's ticket.

        Raises:
            TicketRefused: it lets nobody in.
        """
        return check_ticket(ticket, self.version, self.vouchers)


class Greeting:
    """The user of a stream until both ends know each other.

    Attributes:
        met: ends once they do; fails with ``StreamRefused`` where they never will.
    """

    def __init__(
        self,
        end: End,
        find: Callable[[TicketVersion], SwarmPass | None],
        meet: Callable[[SwarmStream, Ticket, SwarmPass], None],
    ) -> None:
        """Greet.

        Args:
            end: which one this is.
            find: returns this node's pass in the swarm of a version; None where it has none.
            meet: called once both ends know each other, with the other end's ticket and this end's
                pass, to give the stream its next user; raises ``StreamRefused`` to end it.
        """
        self.met: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._end = end
        self._find = find
        self._meet = meet
        self._challenge = new_challenge()
        self._stream: SwarmStream | None = None
        self._certificate = b""
        self._pass: SwarmPass | None = None
        self._ticket: Ticket | None = None
        self._context: ProofContext | None = None

    def begin(self, stream: SwarmStream) -> None:
        """Wait for the opener's hello on an attached stream."""
        self._stream = stream

    def open(self, stream: SwarmStream, version: TicketVersion, neighbour: bytes, certificate: bytes) -> None:
        """Say hello on an attached stream.

        Args:
            stream: the stream.
            version: the version to ask for.
            neighbour: the key of the member at the other end.
            certificate: SHA-256 of the certificate shown by the other end; empty without TLS.

        Raises:
            StreamRefused: this node is no member for this version.
        """
        self._stream = stream
        self._pass, self._certificate = self._find(version), certificate
        if self._pass is None:
            raise StreamRefused("this node is no member for that version")
        stream.send(self._pass.hello(self._challenge, neighbour))

    # As the user of the stream

    def took(self, frame: Control) -> None:
        """Take a hello or a proof.

        Raises:
            FrameError: the frame is something else, or not right.
        """
        if self.met.done():
            raise FrameError("frames after a greeting that failed")
        try:
            if isinstance(frame, HelloFrame) and self._ticket is None:
                self._take_hello(frame)
            elif isinstance(frame, ProofFrame) and self._context is not None:
                self._take_proof(frame)
            else:
                raise FrameError("no hello, or no proof after it")
        except (TicketRefused, StreamRefused) as error:
            assert self._stream is not None
            self._fail(str(error))
            self._stream.close(str(error))

    def _take_hello(self, hello: HelloFrame) -> None:
        """Check the other end's ticket; at the accepting end, also send this end's ticket and proof.

        Raises:
            TicketRefused, StreamRefused: the other end is no member of this version's swarm.
        """
        assert self._stream is not None
        version = TicketVersion(hello.version, hello.origin, hello.digest)
        swarm_pass = self._pass or self._find(version)
        if swarm_pass is None:
            raise StreamRefused("there is no such version here")
        self._ticket = ticket = swarm_pass.check(hello.ticket)
        if ticket.node != hello.node or ticket.node == swarm_pass.node:
            raise StreamRefused("the ticket is another node's")
        self._pass = swarm_pass
        keys, challenges = (swarm_pass.key.public, ticket.key), (self._challenge, hello.challenge)
        if self._end is End.OPENER:
            self._context = ProofContext(*keys, *challenges, self._certificate)
        else:
            certificate = swarm_pass.certificate()
            self._context = ProofContext(*keys[::-1], *challenges[::-1], certificate)
            hello = swarm_pass.hello(self._challenge, ticket.key, ticket.signer)
            self._stream.send(hello, self._proof())

    def _proof(self) -> ProofFrame:
        """Return this end's proof."""
        assert self._context is not None and self._pass is not None
        return ProofFrame(prove(self._context, self._end, self._pass.key))

    def _take_proof(self, frame: ProofFrame) -> None:
        """Check the other end's proof, show the opener's after it, and hand the stream to its next user.

        Raises:
            StreamRefused: the proof is wrong.
        """
        assert self._context and self._ticket and self._pass and self._stream
        other = End.ACCEPTOR if self._end is End.OPENER else End.OPENER
        if not is_proof(self._context, other, frame.signature):
            raise StreamRefused("the proof is wrong")
        if self._end is End.OPENER:
            self._stream.send(self._proof())
        self._meet(self._stream, self._ticket, self._pass)
        self.met.set_result(None)

    def length_of(self, request: int) -> int:
        """Return 0: nothing was asked for yet."""
        return 0

    def progressed(self, request: int) -> None:
        """Do nothing: nothing was asked for yet."""

    async def came(self, request: int, data: memoryview) -> None:
        """Do nothing: nothing was asked for yet."""

    def ended(self, reason: str) -> None:
        """Fail ``met``, unless both ends know each other."""
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        """Record that the two ends do not meet."""
        if not self.met.done():
            self.met.set_exception(StreamRefused(reason))
            self.met.exception()  # retrieved: there may be nobody who waits any more
