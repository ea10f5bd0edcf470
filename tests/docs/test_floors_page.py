"""docs/floors.md as it stands: its figures, its tables and its picture are made from docs/floors.csv."""

import re
from pathlib import Path

import pandas as pd
import pytest

from probekit.proofs.floors import page, tasks

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "floors.md").read_text()
RESULTS = pd.read_csv(DOCS / "floors.csv")
FACTS = page.facts(RESULTS)
PROSE = " ".join(re.sub(r"^\|.*$|^    .*$|^\d\. |`[^`]*`|\([^)]*\.(?:csv|svg)\)", "", PAGE, flags=re.M).split())
# What the page says that was asked for, and not found.
ASKED = {"1,024", "2,000", "100", "4,096", "512", "400", "1-2", "1-3", ".02", ".1", ".7", "0.4.2", "2025", "2502.16681",
         "20", "9", "40", "45", "780", "1", "5 %"}  # fmt: skip


def figures(prose: str) -> set[str]:
    """Numbers in words of their own; what follows a sentence is no part of one."""
    found = re.findall(r"(?<![\w.-])\.?\d[\d,]*(?:[.-]\d+)*(?:[A-Z]\b)?(?: %)?", prose)
    return {one.rstrip(",") for one in found}


def test_figures_are_found():
    assert figures("In 1,024 rows .02, 22 % and 0.862. Layer 20 of Gemma-2-9B; 1-2-grams.") >= {
        "1,024", ".02", "22 %", "0.862", "20", "1-2"}  # fmt: skip


def test_the_results_are_of_every_task_and_small():
    assert RESULTS["task"].tolist() == list(tasks.published())
    assert (RESULTS["splits"] == 5).all() and RESULTS["floor"].notna().all()
    assert RESULTS["n_trained"].max() == 1_024 and RESULTS["n_test"].max() == 2_000
    for at in ("embedding", "layer_9", "layer_20"):
        known = [one[at] for one in tasks.published().values()]
        assert RESULTS[at].tolist() == pytest.approx(known)
    assert (DOCS / "floors.csv").stat().st_size < 300_000
    assert (DOCS / "floors.svg").stat().st_size < 200_000


def test_the_default_floor_knows_what_a_first_reader_of_texts_did():
    """Words, characters, last words and length, one split: .861 on the mean of all tasks."""
    assert RESULTS["floor"].mean() >= 0.86


@pytest.mark.parametrize(
    "said",
    [
        "**On {near} published probing tasks",
        "a mean test AUC of {mean floor}. The probe has {mean layer_20}",
        "the text alone reaches {share}.",
        "the {tasks} binary ones",
        "{mean embedding} on average at the embedding of the last token, {mean layer_9} at layer 9, {mean layer_20} at",
        "{all trained} tasks have as many",
        "the smallest on {fewest trained}, and test on {fewest tested}",
        "is {spread} on average and {largest spread} at most",
        "**as good as layer 20 or better on {as good} tasks**, and within .02 on {near}.",
        "embedding baseline on {above embedding}.",
        "On {beyond} tasks layer 20 is more than .1 better",
        "In the median task {repeated} of the rows repeat another one, in the extreme {most repeated};",
        "; in {with repeats} it is more than 5 %",
        "{seen} of the test rows have a text that was trained on",
        "the floor's mean AUC is {mean unseen}",
        "whether a place is in Texas has {floor TX} with repeats and {unseen TX} without",
        "The {model tasks} tasks whose median text is shortest",
        "at most {model rows} rows of each",
        "AUROC is {model floor} for the floor and {model probe} for the probe, and",
        "is the higher one on {floor above}. **On {nothing left} tasks",
        'in {fooled} of them at an AUROC of the probe of .7 or more. On {something} something is left, most on "{least',
        "with an FBU of {least fbu}.",
        "In {known} what the text leaves is too little",
        "Of the {tasks} here, {low floor} have a floor below .7",
    ],
)
def test_each_figure_is_the_result_s(said):
    start = said.partition('"{least')[0]
    assert start.format_map(FACTS) in PROSE


def test_there_is_no_other_figure():
    assert f'most on "{FACTS["least fbu of"]}"' in PROSE
    names = PROSE.replace(FACTS["least fbu of"], "")
    known = {one for fact in FACTS.values() for one in (fact, *figures(fact))}
    assert figures(names) - known - ASKED == set()


def test_the_tables_and_the_picture_are_those_of_the_results():
    assert page.text_table(RESULTS) in PAGE
    assert page.model_table(RESULTS) in PAGE
    assert (DOCS / "floors.svg").read_text() == page.scatter(RESULTS)


def test_the_model_read_the_tasks_that_the_rule_says():
    read = RESULTS[RESULTS["n"].notna()]
    assert len(read) >= 20 and (read["n"] <= 1_000).all()
    assert read["length"].max() <= RESULTS.loc[RESULTS["n"].isna(), "length"].min()
