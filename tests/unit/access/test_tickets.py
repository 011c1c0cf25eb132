"""Tickets of a swarm's members, and the proofs that their holders give."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardcast.access import signing
from shardcast.access.key_ring import KEY_SECONDS, MAX_KEYS, KeyRing, VouchingKey, fingerprint
from shardcast.access.nonces import NONCE_SECONDS, Nonces, challenge_of
from shardcast.access.proofs import End, ProofContext, is_proof, new_challenge, prove
from shardcast.access.server_key import load_key_seed
from shardcast.access.signing import SigningKey, is_signed
from shardcast.access.tickets import (
    MAX_TICKET,
    TicketRefused,
    TicketVersion,
    check_ticket,
    sign_ticket,
)
from shardcast.errors import UsageError

SERVER, OTHER_SERVER, MEMBER = (SigningKey.from_seed(bytes([n]) * 32) for n in (1, 2, 3))
DIGEST, OTHER_DIGEST = "a" * 64, "b" * 64
V3 = TicketVersion(3, "ce0d", DIGEST)
NOW = 1_764_367_200.0


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def ring_of(*keys: SigningKey, now: float = NOW) -> KeyRing:
    ring = KeyRing(Clock())
    ring.tell("server", [VouchingKey(key.public, now) for key in keys])
    return ring


def ticket(version: TicketVersion = V3, signer: SigningKey = SERVER, expires: float = NOW + 300) -> str:
    return sign_ticket(version, "81ab", MEMBER.public, expires=expires, signer=signer)


def changed(text: str, **values: object) -> str:
    """Return a ticket with other values, and the signature that it had."""
    body, _, signature = text.partition(".")
    said = json.loads(base64.urlsafe_b64decode(body + "=="))
    again = base64.urlsafe_b64encode(json.dumps(said | values).encode()).rstrip(b"=").decode()
    return f"{again}.{signature}"


def test_ticket_says_whose_it_is() -> None:
    found = check_ticket(ticket(), V3, ring_of(SERVER))
    assert (found.node, found.key, found.version, found.expires) == ("81ab", MEMBER.public, V3, NOW + 300)


def test_ticket_of_an_unknown_server_is_refused() -> None:
    with pytest.raises(TicketRefused, match="not known"):
        check_ticket(ticket(signer=OTHER_SERVER), V3, ring_of(SERVER))


@pytest.mark.parametrize("values", [{"key": "A" * 43}, {"node": "c2d0"}, {"expires": 2**39}, {"version": 4}])
def test_forged_ticket_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(TicketRefused, match="signature"):
        check_ticket(changed(ticket(), **values), V3, ring_of(SERVER))


def test_ticket_that_names_a_known_server_but_another_signed_is_refused() -> None:
    forged = changed(ticket(signer=OTHER_SERVER), signer=SERVER.id)
    with pytest.raises(TicketRefused, match="signature"):
        check_ticket(forged, V3, ring_of(SERVER, OTHER_SERVER))


def test_ticket_expires_by_the_clock_of_its_server() -> None:
    ring = KeyRing(clock := Clock(5.0))  # this node's clock stands elsewhere
    ring.tell("server", [VouchingKey(SERVER.public, NOW)])
    clock.now += 60
    check_ticket(ticket(expires=NOW + 61), V3, ring)
    with pytest.raises(TicketRefused, match="expired"):
        check_ticket(ticket(expires=NOW + 60), V3, ring)


@pytest.mark.parametrize(
    ("mine", "theirs", "same"),
    [
        (V3, replace(V3, digest=None), True),  # it was open when the ticket was signed
        (V3, replace(V3, origin=None), True),
        (V3, replace(V3, number=4), False),
        (V3, replace(V3, digest=OTHER_DIGEST), False),
        (V3, replace(V3, origin="beef"), False),
        (TicketVersion(3, None, DIGEST), TicketVersion(3, "ce0d", None), False),  # nothing to tell by
        (TicketVersion(3), TicketVersion(3), False),
    ],
)
def test_ticket_of_another_version_is_refused(mine: TicketVersion, theirs: TicketVersion, same: bool) -> None:
    text, ring = ticket(theirs), ring_of(SERVER)
    if same:
        check_ticket(text, mine, ring)
    else:
        with pytest.raises(TicketRefused, match="another version"):
            check_ticket(text, mine, ring)


def test_unknown_fields_of_a_ticket_are_ignored() -> None:
    body = changed(ticket(), later="x").partition(".")[0]
    signature = SERVER.sign(b"shardcast ticket 1\0" + body.encode())
    text = f"{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    assert check_ticket(text, V3, ring_of(SERVER)).node == "81ab"


def test_signature_for_another_purpose_is_no_ticket() -> None:
    body, _, _ = ticket().partition(".")
    signature = base64.urlsafe_b64encode(SERVER.sign(body.encode())).rstrip(b"=").decode()
    with pytest.raises(TicketRefused, match="signature"):
        check_ticket(f"{body}.{signature}", V3, ring_of(SERVER))


@given(st.text(max_size=300) | st.text("AZaz09-_.", max_size=300))
def test_any_text_is_a_ticket_or_refused(text: str) -> None:
    with pytest.raises(TicketRefused):
        check_ticket(text, V3, ring_of(SERVER))


@given(
    st.sampled_from(["version", "origin", "digest", "node", "key", "expires", "signer"]),
    st.integers() | st.text(max_size=70) | st.floats() | st.lists(st.integers(), max_size=2),
)
def test_any_value_of_a_ticket_is_refused(name: str, value: object) -> None:
    with pytest.raises(TicketRefused):
        check_ticket(changed(ticket(), **{name: value}), V3, ring_of(SERVER))


def test_site_of_a_ticket_is_its_servers_word() -> None:
    text = sign_ticket(V3, "81ab", MEMBER.public, expires=NOW + 300, signer=SERVER, site="rack7")
    assert check_ticket(text, V3, ring_of(SERVER)).site == "rack7"
    assert check_ticket(ticket(), V3, ring_of(SERVER)).site is None
    with pytest.raises(TicketRefused, match="signature"):
        check_ticket(changed(text, site="rack8"), V3, ring_of(SERVER))
    with pytest.raises(TicketRefused, match="malformed"):
        check_ticket(changed(text, site="two words"), V3, ring_of(SERVER))


def test_long_ticket_is_refused_unread() -> None:
    with pytest.raises(TicketRefused, match="characters"):
        check_ticket("A" * (MAX_TICKET + 1), V3, ring_of(SERVER))
    longest = TicketVersion(10**18 - 1, "f" * 64, DIGEST)
    text = sign_ticket(longest, "a" * 64, MEMBER.public, expires=2**39, signer=SERVER, site="s" * 64)
    assert len(text) <= MAX_TICKET


# Proofs


def context(opener: SigningKey = MEMBER, acceptor: SigningKey = OTHER_SERVER) -> ProofContext:
    return ProofContext(opener.public, acceptor.public, new_challenge(), new_challenge(), b"c" * 32)


def test_each_end_proves_its_key() -> None:
    here = context()
    assert is_proof(here, End.OPENER, prove(here, End.OPENER, MEMBER))
    assert is_proof(here, End.ACCEPTOR, prove(here, End.ACCEPTOR, OTHER_SERVER))


def test_proof_without_the_key_is_none() -> None:
    here = context()
    assert not is_proof(here, End.OPENER, prove(here, End.OPENER, SERVER))
    assert not is_proof(here, End.OPENER, b"")


def test_proof_of_another_connection_is_none() -> None:
    here = context()
    seen = prove(here, End.OPENER, MEMBER)
    for other in (
        replace(here, acceptor_challenge=new_challenge()),
        replace(here, acceptor_key=SERVER.public),  # passed on by the neighbour that got it
        replace(here, certificate=b""),
    ):
        assert not is_proof(other, End.OPENER, seen)


def test_proof_is_not_sent_back_to_its_sender() -> None:
    here = context(MEMBER, MEMBER)
    assert not is_proof(here, End.ACCEPTOR, prove(here, End.OPENER, MEMBER))


# Keys


def test_server_keeps_its_key(tmp_path: Path) -> None:
    file = tmp_path / "swarm-key"
    first = load_key_seed(file)
    assert load_key_seed(file) == first
    assert file.stat().st_mode & 0o777 == 0o600


def test_server_serves_on_without_a_key_on_its_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    key = SigningKey.from_seed(load_key_seed(tmp_path / "missing" / "swarm-key"))
    assert is_signed(b"x", key.sign(b"x"), key.public)
    assert "sharing works, with a new key at each start" in caplog.text


def test_broken_key_file_is_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "swarm-key"
    file.write_bytes(b"short")
    assert load_key_seed(file) == load_key_seed(file) != b"short"
    assert "no signing key" in caplog.text


def test_without_the_library_an_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"shardcast\[swarm\]"):
        SigningKey.generate()
    with pytest.raises(UsageError, match=r"shardcast\[swarm\]"):
        is_signed(b"x", b"y", b"z")


def test_keys_count_for_two_minutes() -> None:
    ring = KeyRing(clock := Clock())
    ring.tell("above", [VouchingKey(SERVER.public, NOW)])
    clock.now = KEY_SECONDS - 1
    ring.still_told("above")
    clock.now += KEY_SECONDS - 1
    assert ring.public_key(SERVER.id) == SERVER.public
    clock.now += 1
    assert ring.public_key(SERVER.id) is None


def test_source_that_tells_other_keys_takes_the_earlier_back() -> None:
    ring = ring_of(SERVER)
    ring.tell("server", [VouchingKey(OTHER_SERVER.public, NOW)])
    assert ring.public_key(SERVER.id) is None
    ring.forget("server")
    assert ring.keys() == []


def test_ring_is_bounded_and_newcomers_push_out_nobody() -> None:
    ring = ring_of(SERVER)
    ring.tell("liar", [VouchingKey(n.to_bytes(32), NOW) for n in range(3 * MAX_KEYS)])
    ring.tell("server", [VouchingKey(SERVER.public, NOW)])
    assert len(ring.keys()) == MAX_KEYS
    assert ring.public_key(SERVER.id)
    ring.tell("late", [VouchingKey(OTHER_SERVER.public, NOW)])
    assert ring.public_key(OTHER_SERVER.id) is None


def test_fingerprint_is_of_the_keys_alone() -> None:
    one, other = VouchingKey(SERVER.public, 1), VouchingKey(OTHER_SERVER.public, 2)
    assert fingerprint([one, other], 0) == fingerprint([replace(other, now=9), one], 0)
    assert fingerprint([one], 0) != fingerprint([one, other], 0)


def test_fingerprint_changes_where_a_server_s_clock_jumps() -> None:
    then, later = VouchingKey(SERVER.public, 1000), VouchingKey(SERVER.public, 1010)
    assert fingerprint([then], 0) == fingerprint([later], 10)
    assert fingerprint([then], 0) != fingerprint([replace(later, now=950)], 10)


# Nonces


def test_nonce_is_given_to_who_knows_it_for_a_minute() -> None:
    nonces = Nonces(clock := Clock())
    nonce = nonces.new()
    assert nonces.answer(challenge_of(nonce)) == nonce
    assert nonces.answer(nonce) is None
    assert nonces.answer(challenge_of("0" * 32)) is None
    clock.now = NONCE_SECONDS
    assert nonces.answer(challenge_of(nonce)) is None


def test_nonces_are_bounded() -> None:
    nonces = Nonces(Clock())
    first = nonces.new()
    for _ in range(5000):
        last = nonces.new()
    assert nonces.answer(challenge_of(first)) is None
    assert nonces.answer(challenge_of(last)) == last


def test_key_that_goes_round_among_servers_dies() -> None:
    clock = Clock()
    rings = KeyRing(clock), KeyRing(clock)
    rings[0].tell("below", [VouchingKey(SERVER.public, NOW)])
    for second in range(int(KEY_SECONDS)):
        clock.now = float(second)
        rings[1].tell("above", rings[0].keys())
        rings[0].tell("above", rings[1].keys())
    assert rings[0].public_key(SERVER.id)
    clock.now = KEY_SECONDS
    assert rings[0].keys() == rings[1].keys() == []
