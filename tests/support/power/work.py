"""All recorded work: each kind whose acknowledgement must outlast a power cut."""

from __future__ import annotations

from tests.support.power import stores, uploads, versions, working

MODULES = (stores, uploads, versions)
"""Where the pieces of work are."""

if __name__ == "__main__":
    working.run()
