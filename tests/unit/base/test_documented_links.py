"""Links among the pages lead somewhere, and the index and the site list every page in one order."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support import pages

INDEX = pages.ROOT / "docs" / "index.md"


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_links_of_page_lead_to_files_and_headings(page: Path) -> None:
    found = list(pages.links(page))
    assert [link.text for link in found if not link.target.is_file()] == []
    anchored = [link for link in found if link.anchor]
    assert [link.text for link in anchored if link.anchor not in pages.anchors(link.target)] == []


def test_index_and_site_list_every_page_in_the_same_order() -> None:
    indexed = [os.path.relpath(link.target, pages.ROOT) for link in pages.links(INDEX)]
    site = re.findall(r": (\S+\.md)$", (pages.ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert [name for name in site if name != "docs/index.md"] == indexed
    assert sorted(site) == sorted(map(pages.name, pages.PAGES))


def test_anchors_are_those_of_headings_outside_code(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b.c`: d, e\n\n## Twice\n\n## Twice\n\n```\n# no heading\n```\n[a](#twice-1) `[b](c)`\n"
    )
    assert pages.anchors(page) == {"a-bc-d-e", "twice", "twice-1"}
    assert list(pages.links(page)) == [pages.Link("#twice-1", page, "twice-1")]
