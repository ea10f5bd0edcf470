"""The headline and the compact map: exact sentences for known frames, the unembedding in none, nothing too wide."""

from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

import probekit as pk
from probekit.errors import BadInput
from probekit.records import Record
from probekit.results import tables
from probekit.results.headline import finding, headline, level_words
from probekit.results.text import rendered
from probekit.storage.runs import read_run
from tests.synthetic_run import BEHAVIOURS, DOMAINS, shared_run


def post(layer: int) -> str:
    return f"blocks.{layer}.hook_resid_post"


def record(value, hook, level="linear", **more):
    ends = {} if value is None else {"low": round(value - 0.03, 4), "high": round(value + 0.03, 4)}
    told = {"model": "tiny", "task": "t", "behaviour": "answer", "fit_domain": "home", "test_domain": "home",
            "metric": "read", "hook": hook, "level": level, "n": 1200, "groups": 60, "bits": 0.9, "floor_bits": 0.8,
            "ceiling_bits": 0.2}  # fmt: skip
    return Record(**(told | {"value": value} | ends | more))


def frame(*records, **manifest):
    made = pd.DataFrame([one.row() for one in records])
    made.attrs["manifest"] = manifest
    return made


def curve(*values, level="linear", **more):
    return [record(value, post(layer), level, **more) for layer, value in enumerate(values)]


def selected(value, layer, level="linear", **more):
    return record(value, post(layer), level, metric="selected", note="chosen on selection rows", **more)


PRIOR = record(1.5, post(0), "prior", bits=1.1)


def test_three_sentences_of_a_known_frame():
    told = headline(frame(PRIOR, *curve(1.0, 0.8, 0.4, 0.3, 0.0), selected(0.4, 2)))
    assert told.sentences == (
        "answer of tiny, 1,200 test rows of 60 groups (home): a linear reader at L2 resid_post, the site that "
        "selection rows prefer, leaves .40 [.37, .43] unexplained (0 explains all, 1 adds nothing to the input).",
        "A linear reader first explains something at L1 resid_post (.80 unexplained) and more than half first at L2 "
        "resid_post (.40 unexplained).",
        "The input alone explains 0.30 of the 0.90 bits that the mean law misses; 0.60 are left to explain.",
    )
    assert told.warnings == ()


def test_the_site_is_the_selected_one_though_another_tested_better():
    told = headline(frame(*curve(0.9, 0.5, 0.2, 0.0), selected(0.5, 1)))
    assert "a linear reader at L1 resid_post" in told.sentences[0] and "leaves .50" in told.sentences[0]


def test_folds_that_choose_different_sites_are_not_told_as_one():
    told = headline(frame(*curve(0.9, 0.5, 0.45, 0.0), selected(0.52, 2))).sentences[0]
    expected = (
        "a linear reader at the site that selection rows prefer in each fold, most often L2 resid_post, leaves .52"
    )
    assert expected in told


def test_more_than_half_that_is_not_sure_is_told_as_such():
    found = frame(*curve(0.9, 0.49, 0.46, 0.0))
    expected = "and, though its interval reaches half, more than half first at L1 resid_post (.49 unexplained)."
    assert headline(found.assign(band_low=0.0, band_high=0.6)).sentences[1].endswith(expected)


def test_the_unembedding_is_no_finding():
    found = frame(*curve(0.9, 0.5, 0.0), selected(0.0, 2), selected(0.7, 1, "simple:quadratic", source="joint", k=4))
    told = headline(found)
    assert told.unembedding == post(2)
    assert "a quadratic of 4 directions at L1 resid_post" in told.sentences[0]
    assert "for a linear reader they prefer the unembedding, which is no finding" in told.sentences[0]
    assert "L2" not in str(told)
    alone = headline(frame(*curve(0.9, 0.5, 0.0), selected(0.0, 2)))
    assert "no site was chosen on selection rows but the unembedding's" in alone.sentences[0]
    assert ".00" not in str(alone) and "L2" not in str(alone)
    assert "L2 resid_post*" in str(pk.summary(found))


def test_where_selection_rows_prefer_the_unembedding_the_site_they_like_next_is_told_and_not_the_best_tested():
    made = [*curve(0.9, 0.5, 0.4, 0.0), selected(0.0, 3), selected(0.7, 1, "simple:quadratic", source="joint", k=4)]
    found = frame(*made).assign(select_bits=[2.0, 1.2, 1.3, 0.1, None, None])  # L2 tested better than L1
    told = headline(found).sentences[0]
    expected = (
        "a linear reader at L1 resid_post, the site before the unembedding's that selection rows prefer, leaves .50"
    )
    assert expected in told and "no finding" not in told and "L3" not in told
    row = finding(found)
    assert row is not None and (row["hook"], row["metric"], row["value"]) == (post(1), "selected", 0.5)


@pytest.mark.parametrize("asked", [{"kind": "label"}, {"kind": "logprob"}, {"kind": "choice", "whole": True}])
def test_what_is_no_next_token_is_not_what_the_unembedding_computes(asked):
    spec = {"task": {"behaviours": [{"name": "answer", **asked}]}}
    told = headline(frame(*curve(0.9, 0.5, 0.1), selected(0.1, 2), spec=spec))
    assert told.unembedding == "" and "at L2 resid_post" in told.sentences[0]


def test_the_last_layer_measured_is_not_the_last_of_a_model_that_has_more():
    found = [*curve(0.9, 0.5, 0.1), selected(0.1, 2)]
    deep = headline(frame(*found, provenance={"model": {"n_layers": 30}}))
    assert deep.unembedding == "" and "at L2 resid_post" in deep.sentences[0]
    exact = headline(frame(*found, provenance={"model": {"n_layers": 3}}))
    assert exact.unembedding == post(2)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1.2), min_size=2, max_size=7), st.data())
def test_no_headline_speaks_of_the_last_layer(values, data):
    """Whatever the values are, and wherever selection rows look."""
    n = len(values)
    levels = ["linear", "nonlinear", "neurons", "directions", "simple:cubic"]
    chosen = data.draw(st.lists(st.tuples(st.sampled_from(levels), st.integers(0, n - 1)), max_size=5))
    found = frame(*curve(*values), *(selected(values[at], at, level) for level, at in chosen))
    assert f"L{n - 1} " not in " ".join(headline(found).sentences)


def test_what_to_be_wary_of():
    few = frame(*(replace(one, groups=12) for one in curve(0.9, 0.5, 0.1)))
    assert headline(few).warnings == ("Only 12 groups: below 20 the intervals are too short.",)
    na = {"na_reason": "small_denominator"}
    gone = frame(*curve(0.9, 0.5), record(None, post(2), **na), record(None, post(3), na_reason="too_few_rows"))
    assert headline(gone).warnings == ("2 of 4 cells are NA: 1 nothing to explain, 1 too few rows.",)
    failed = frame(*curve(0.9, 0.5), cells={"failed": [{"cell": "x", "error": "read answer: FitError: no."}]})
    assert headline(failed).warnings == ("1 cell failed: read answer: FitError: no.",)
    nothing = headline(frame(record(None, post(0), **na), record(None, post(1), **na)))
    assert nothing.sentences == (
        "answer of tiny, 1,200 test rows of 60 groups (home): no value at any site (nothing to explain).",
    )
    assert "no records of a behaviour" in str(headline(frame(*curve(0.5)).head(0)))


def test_nowhere_readable_is_said():
    told = headline(frame(*curve(1.0, 0.99, 1.01, 0.0)))
    assert told.sentences[1] == "No site is readable for a linear reader: every interval reaches 1."
    half = headline(frame(*curve(1.0, 0.9, 0.8, 0.0)))
    assert half.sentences[1].endswith(
        "L1 resid_post (.90 unexplained) and more than half nowhere before the unembedding."
    )


def test_the_band_of_the_whole_curve_decides_what_is_readable():
    found = frame(*curve(0.95, 0.8, 0.0)).assign(band_low=0.0, band_high=[1.01, 0.9, 0.1])
    assert "first explains something at L1" in headline(found).sentences[1]


@pytest.mark.parametrize(
    ("at", "words"),
    [(("directions", "pca", 8), "8 principal components"), (("directions", "behaviour", 1), "1 direction"),
     (("simple:two_thresholds", "joint", 4), "two thresholds of 4 directions"), (("nonlinear",), "a nonlinear reader"),
     (("hypothesis:rules", "true"), "the hypothesis 'rules'"), (("neurons", "beam", 1), "1 neuron")],
)  # fmt: skip
def test_levels_in_words(at, words):
    assert level_words(*at) == words


# ------------------------------------------------------------------------------------------------------------ the map


@pytest.fixture(scope="module")
def run():
    return read_run(shared_run())


def test_the_map_has_a_row_per_site_and_drops_columns_not_cells(run):
    narrow, wide = rendered(pk.summary(run), 60), rendered(pk.summary(run), 160)
    for text in (narrow, wide):
        assert [line.split()[0] for line in text.splitlines() if "resid_" in line and line.startswith("L")] == [
            "L0", *(f"L{i}" for i in range(6))
        ]  # fmt: skip
    assert "not shown for want of width: " in narrow and "not shown" not in wide
    assert "linear" in narrow and "neurons" in wide and "neurons k=4" in narrow.replace("\n", " ")


def test_cells_say_what_the_table_says(run):
    rows = tables.leak_map(run)
    value = rows.loc[(rows["site"] == "L2 resid_post") & (rows["level"] == "linear"), "value"].iloc[0]
    text = rendered(pk.summary(run), 200)
    heading = next(line for line in text.splitlines() if "linear" in line and "nonlin." in line)
    line = next(line for line in text.splitlines() if line.startswith("L2 resid_post"))
    end = heading.index("linear") + len("linear")
    assert line[:end].endswith(f"{value:.2f}".lstrip("0"))
    intervals = rendered(pk.summary(run, intervals=True), 200)
    assert f"{value:.2f}".lstrip("0") + " [" in intervals


def test_na_has_a_mark_and_a_reason():
    found = frame(*curve(0.9, 0.5), record(None, post(2), na_reason="too_few_rows"),
                  record(None, post(3), na_reason="failed"))  # fmt: skip
    text = str(pk.summary(found))
    assert "NA¹" in text and "NA² failed" in text and "NA¹ too few rows" in text


def test_replace_shows_the_arm_k_0_and_random_directions_beside_it(run):
    text = rendered(pk.summary(run, metric="replace"), 120)
    assert "matched donors" in text and "random" in text and "all sites" in text
    assert "random donors" in rendered(pk.summary(run, metric="replace", arm="random"), 120)
    at = {"metric": "replace", "unit": "pair", "source": "random", "control": "random_directions"}
    kept = at | {"k": 4, "source": "behaviour", "control": "", "arm": "chain:matched"}
    rows = [record(0.2, "", "directions", **kept),
            record(0.9, "", "directions", **at, k=4, arm="chain:matched"),
            record(3.1, "", "directions", **at, k=0, arm="chain:random")]  # fmt: skip
    assert sorted(tables.replace_map(frame(*rows))["value"]) == [0.2, 0.9, 3.1]
    lines = str(pk.summary(frame(*rows), metric="replace")).splitlines()
    assert any(line.split() == ["all", "sites", ".20", "3.10", ".90"] for line in lines)
    with pytest.raises(BadInput, match="arm"):
        pk.summary(run, metric="replace", arm="machted")


def test_html_is_escaped_and_holds_every_column(run):
    nasty = run.assign(behaviour=run["behaviour"].replace(BEHAVIOURS[0], "<script>x</script>"))
    html = pk.summary(nasty)._repr_html_()
    assert "<script>" not in html and "&lt;script&gt;" in html and html.count("<tr>") == 8
    assert "<th>linear<br></th>" in html


name = st.text(min_size=1, max_size=90).filter(lambda text: not text.startswith("feature:"))


@settings(max_examples=20, deadline=None)
@given(behaviour=name, domain=name, hook=name, rule=name, width=st.integers(40, 200), intervals=st.booleans())
def test_no_line_is_wider_than_the_terminal(behaviour, domain, hook, rule, width, intervals):
    """Whatever things are called: nothing is wider than asked, and nothing breaks a line of its own."""
    at = {"behaviour": behaviour, "fit_domain": domain, "test_domain": domain, "model": hook}
    found = frame(
        *(record(0.4, where, level, **at) for where in (hook, post(0), post(1)) for level in ("linear", "neurons")),
        record(0.3, post(0), f"hypothesis:{rule}", source="decoded", k=3, **at),
        record(0.4, hook, metric="selected", **at),
    )
    for line in rendered(pk.summary(found, intervals=intervals), width).split("\n"):
        assert cell_len(line) <= width, line


def test_eighty_sites_and_several_behaviours(run):
    deep = frame(
        *curve(*(1 - i / 80 for i in range(80))), *(replace(one, behaviour="other") for one in curve(0.9, 0.5))
    )
    text = str(pk.summary(deep))
    assert sum(line.startswith("L") and "resid_post" in line for line in text.splitlines()) == 80
    assert "also measured: behaviour other" in text
    assert "also measured: behaviour pass_or_play; domain championship, endgame; metric replace" in " ".join(
        rendered(pk.summary(run, domain=DOMAINS[0]), 80).split()
    )


def test_str_is_as_wide_as_columns_says(run, monkeypatch):
    for width in (60, 100):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = str(pk.summary(run)).splitlines()
        assert width - 15 < max(map(len, lines)) <= width
