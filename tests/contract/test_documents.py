"""What the documents point at exists, and what two of them tell is the same."""

import re
from pathlib import Path
from typing import Final

import pytest
from stoker import process

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "k8s/**/*.md", "benchmarks/**/*.md")
    for page in ROOT.glob(pattern)
)
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Those of a page's headings, as GitHub makes them: one that comes again gets a number."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        again = found.count(plain)
        found += [plain] if not again else [plain, f"{plain}-{again}"]
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_within_the_documents_leads_somewhere(page: Path) -> None:
    lost = []
    for link in LINK.findall(page.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost


@pytest.mark.parametrize("document", ["operating.md", "configuration.md"])
def test_every_exit_code_of_the_server_is_documented(document: str) -> None:
    section = (ROOT / "docs" / document).read_text().split("\n## Exit codes\n")[1]
    told = set(re.findall(r"^\| (\d+) \|", section.split("\n## ")[0], re.MULTILINE))
    codes = {str(value) for name, value in vars(process).items() if name.startswith("EXIT_")}
    assert len(codes) == 5
    assert codes <= told
