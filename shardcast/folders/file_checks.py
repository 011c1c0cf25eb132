"""SHA-256 of received files not hashed during the transfer: of small files, or of all."""

from __future__ import annotations

from hashlib import sha256

from shardcast.errors import IntegrityError
from shardcast.folders.places import FolderPlaces
from shardcast.protocol.manifest import Manifest

_CHUNK = 1 << 20


def check_small_files(places: FolderPlaces, version: str) -> None:
    """Check the digests of all wanted small files not verified yet, and mark them as verified.

    Args:
        places: the files of the folder, with a table of the digests in the whole manifest.
        version: the version's name, for errors.

    Raises:
        IntegrityError: a file has another digest, or the manifest has no digest of the file.
        OSError: a file can't be read.
    """
    layout = places.layout
    for index in layout.small_files():
        if places.hashed[index] or not places.selection.has_bytes_of(index):
            continue
        data = places.read(layout.body(index), layout.table.size(index))
        if sha256(data).digest() != layout.table.digest(index):
            raise IntegrityError(
                f"{version}: {layout.table[index].text!r} has another SHA-256 than in the manifest; "
                "nothing was kept under a final name; name other servers, or broadcast it again"
            )
        places.hashed[index] = 1


def check_payload(places: FolderPlaces, manifest: Manifest) -> None:
    """Check the SHA-256 of the whole payload, from the files.

    Raises:
        IntegrityError: the digest differs.
        OSError: a file can't be read.
    """
    hasher, size = sha256(), places.layout.size
    for start in range(0, size, _CHUNK):
        hasher.update(places.read(start, min(_CHUNK, size - start)))
    if hasher.hexdigest() != manifest.digests.get("sha256"):
        raise IntegrityError(
            f"{manifest.version} has another digest: expected {manifest.digests.get('sha256')}, got "
            f"{hasher.hexdigest()}; nothing was kept under a final name; name other servers, or broadcast it "
            "again"
        )
