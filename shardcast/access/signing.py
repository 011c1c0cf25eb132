"""Ed25519 keys: of a server, to sign tickets, and of a member of a swarm, to prove the possession of one.

The library ``cryptography`` is imported at the first use of a key: nodes without a swarm need not have the
library.
"""

from __future__ import annotations

import hashlib
import importlib.util
import secrets
from typing import TYPE_CHECKING, Self

from shardcast.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

KEY_SIZE = 32
"""Bytes of a public key, and of the seed of a private key."""
SIGNATURE_SIZE = 64
"""Bytes of a signature."""
_ID_DIGITS = 16


def is_available() -> bool:
    """Return whether the library for keys is installed."""
    return importlib.util.find_spec("cryptography") is not None


def check_available() -> None:
    """Check that the library for keys is installed.

    Raises:
        UsageError: the library is missing.
    """
    if not is_available():
        raise UsageError("a swarm needs the package cryptography: install shardcast[swarm]")


def key_id(public: bytes) -> str:
    """Return the name of a public key: 16 hex digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:_ID_DIGITS]


class SigningKey:
    """A private key.

    Attributes:
        public: the public key.
        id: the public key's name.
    """

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public: bytes = private.public_key().public_bytes_raw()
        self.id = key_id(self.public)

    @classmethod
    def from_seed(cls, seed: bytes) -> Self:
        """Return the key made from ``KEY_SIZE`` secret bytes.

        Raises:
            UsageError: the library for keys is missing.
        """
        check_available()
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @classmethod
    def generate(cls) -> Self:
        """Return a new key.

        Raises:
            UsageError: the library for keys is missing.
        """
        return cls.from_seed(secrets.token_bytes(KEY_SIZE))

    def sign(self, message: bytes) -> bytes:
        """Return the signature of a message."""
        return self._private.sign(message)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id})"


def is_signed(message: bytes, signature: bytes, public: bytes) -> bool:
    """Return whether the holder of a public key's private key signed a message.

    Raises:
        UsageError: the library for keys is missing.
    """
    check_available()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):  # a ValueError: the public key has another length
        return False
    return True
