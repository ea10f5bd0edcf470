"""What people read: the README's length and sentences, links between pages, the pages that are made from the code."""

import re
from pathlib import Path

import pytest

from probekit.cli import reference

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def sentences(page: str) -> list[str]:
    """Sentences of a page's prose paragraphs; headings, lists, tables, code and pictures do not count."""
    page = re.sub(r"```.*?```|<!--.*?-->", "", page, flags=re.S)
    prose = []
    for paragraph in re.split(r"\n\s*\n", page):
        if not re.match(r"\s*(#|\||!\[|[-*] |\d+\. |    )", paragraph):
            prose.append(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", " ".join(paragraph.split())))
    return [one for text in prose for one in re.split(r"(?<=[.!?])\**\s+(?=[^a-z])", text) if one]


def mean_words(page: str) -> float:
    found = sentences(page)
    return sum(len(one.split()) for one in found) / len(found)


def test_sentences_are_counted():
    page = "# A title\n\nOne two three. Four `five` [six](seven)!\n\n```\nnot this\n```\n\n| nor | this |\n"
    assert sentences(page) == ["One two three.", "Four `five` six!"]
    assert mean_words(page) == 3


@pytest.mark.parametrize(("name", "lines", "words"), [("README.md", 150, 18), ("ARCHITECTURE.md", 200, 18)])
def test_a_page_is_short_and_plain(name, lines, words):
    page = (ROOT / name).read_text()
    assert len(page.splitlines()) <= lines
    assert mean_words(page) < words


def test_the_picture_is_small():
    assert (ROOT / "docs" / "leak_map.svg").stat().st_size < 200_000


def anchors(page: str) -> set[str]:
    """Names that GitHub gives to headings."""
    heads = re.findall(r"^#+ (.*)$", page, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", path.read_text(), flags=re.S)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file) if file else path
        assert there.exists(), f"{path.name}: {target}"
        if anchor:
            assert anchor in anchors(there.read_text()), f"{path.name}: {target}"


def test_sections_that_the_code_names_exist():
    sections = {head.split()[0].rstrip(".") for head in
                re.findall(r"^#{2,3} (\d.*)$", (ROOT / "docs" / "method.md").read_text(), re.M)}  # fmt: skip
    named = {
        (path.name, section.rstrip("."))
        for path in [
            *(ROOT / "probekit").rglob("*.py"),
            *(ROOT / "tests").rglob("*.py"),
            *(ROOT / "apps").rglob("*.py"),
        ]
        for section in re.findall(r"docs/method\.md\s+section\s+([\d.]+)", path.read_text())
    }
    assert len(named) >= 10
    elsewhere = "measurement" + ".md"  # a page that the repository lacks
    assert not [path for path in (ROOT / "probekit").rglob("*.py") if elsewhere in path.read_text()]
    assert {section for _, section in named} <= sections


def test_every_key_is_on_its_page():
    assert (ROOT / "docs" / "spec.md").read_text() == reference.spec_page(), "run `make docs`"
    for model in reference.TABLES.values():
        assert all(field.description for field in model.model_fields.values()), model


def test_every_command_is_on_its_page():
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == reference.with_options(page), "run `make docs`"
    assert {name for _, name, _ in reference.OPTIONS.findall(page)} == set(reference.commands())


def test_a_page_that_lacks_what_changed_is_found():
    page = "<!-- options of `probekit ls` -->\nold\n<!-- end -->"
    assert "--json" in reference.with_options(page) != page
    with pytest.raises(KeyError):
        reference.with_options(page.replace("ls", "nonsense"))
