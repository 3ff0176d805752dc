"""Links on pages lead to files and headings that are there; other hosts are not asked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").rglob("*.md")]
    if "_build" not in page.parts
)
_LINK = re.compile(r"(?<!\\)\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|(?:src|href)=\"([^\"]+)\"")
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1", re.S | re.M)


def links_of(page):
    """What a page links to, its code left out."""
    text = re.sub(r"`[^`\n]+`", "", _FENCE.sub("", page.read_text()))
    return [first or second for first, second in _LINK.findall(text)]


def anchors_of(page):
    """Names of a page's headings as GitHub and the site make them, and those given by hand."""
    text = _FENCE.sub("", page.read_text())
    found = set(re.findall(r"^\(([\w-]+)\)=$", text, re.M))
    for heading in re.findall(r"^#{1,6} +(.+?) *$", text, re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


def problems_of(page):
    wrong = []
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            wrong.append(f"{link}: no such file")
        elif anchor and target.suffix == ".md" and anchor not in anchors_of(target):
            wrong.append(f"{link}: no such heading")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_links_within_the_repository_lead_somewhere(page):
    assert problems_of(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "there.md").write_text("# One `two` & three\n\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#one-two--three) [b](there.md#no-heading) ![c](gone.png) `[d](e.md)`\n"
        '[f](https://example.org/gone) <img src="lost.svg">'
    )
    assert problems_of(page) == [
        "there.md#no-heading: no such heading",
        "gone.png: no such file",
        "lost.svg: no such file",
    ]


@pytest.mark.slow
def test_a_reader_of_the_site_asks_no_other_host(tmp_path):
    """Nothing that is loaded with a page, equations and figures included, comes from elsewhere."""
    pytest.importorskip("sphinx", reason="the site's tools are not installed: pip install .[docs]")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "docs", str(tmp_path / "site")]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe|source)[^>]* src=\"([^\"]+)\"", text)
        loaded += re.findall(r"<link[^>]* rel=\"stylesheet\"[^>]* href=\"([^\"]+)\"", text)
        assert not [url for url in loaded if re.match(r"(https?:)?//", url)], page
    assert "<math" in (tmp_path / "site" / "explanation" / "methods.html").read_text()
