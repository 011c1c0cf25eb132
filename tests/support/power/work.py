"""All recorded work: each kind whose acknowledgement must outlast a power cut."""

from __future__ import annotations

from tests.support.power import stores, versions, working

MODULES = (stores, versions)
"""Where the pieces of work are."""

if __name__ == "__main__":
    working.run()
