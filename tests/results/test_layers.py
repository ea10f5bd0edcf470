"""AUROC and accuracy beside FBU: of which reader, and where they are shown."""

import pandas as pd
import pytest

from probekit.errors import BadInput
from probekit.records import Record
from probekit.results.summary import summary
from probekit.results.tables import layers, leak_map, spread
from probekit.results.text import beside_value

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


def frame(weak=True, seeds=(0,)):
    """Two layers; a linear reader beside each floor, and the floor, of which the record of one scale has no AUROC."""
    place = {"behaviour": "truth", "fit_domain": "all", "test_domain": "all", "metric": "read", "model": "tiny"}
    figures = {"low": 0.4, "high": 0.6, "n": 200, "groups": 50, "bits": 0.5, "floor_bits": 0.9, "ceiling_bits": 0.0}
    out = []
    for seed in seeds:
        for i, hook in enumerate(HOOKS):
            at = place | {"hook": hook, "layer": i, "seed_data": seed}
            out.append(Record(**at, level="linear", source="behaviour", value=0.5 + 0.1 * seed, **figures, n_fit=100,
                              auroc=0.95, accuracy=0.9))  # fmt: skip
            out.append(Record(**at, level="baseline", value=1.0, **figures, auroc=0.7, accuracy=0.65))
            out.append(Record(**at, level="prior", value=1.2, **figures, auroc=0.5, accuracy=0.5))
            if weak:
                out.append(Record(**at, level="linear", source="behaviour", floor="weak", value=0.4, **figures,
                                  auroc=0.8 + 0.1 * i, accuracy=0.75))  # fmt: skip
                out.append(Record(**at, level="baseline", floor="weak", value=0.8, **figures, auroc=0.7, accuracy=0.65))
    return pd.DataFrame([record.row() for record in out])


def test_they_are_of_a_reader_of_the_activations_alone_where_it_was_measured():
    found = layers(frame())
    assert found["auroc"].tolist() == [0.8, 0.9] and found["accuracy"].tolist() == [0.75, 0.75]
    assert found["value"].tolist() == [0.5, 0.5], "FBU stays that of the strong floor"
    assert found["floor_auroc"].tolist() == [0.7, 0.7] and found["floor_accuracy"].tolist() == [0.65, 0.65]
    beside = layers(frame(weak=False))
    assert beside["auroc"].tolist() == [0.95, 0.95] and beside["accuracy"].tolist() == [0.9, 0.9]


def test_in_words_beside_a_value():
    rows = leak_map(frame()).assign(n_fit=100, falls=0.031, falls_low=0.01, falls_high=0.05)
    linear = rows[(rows["level"] == "linear") & rows["site"].str.startswith("L1")].iloc[0]
    expected = "as a probe of this layer alone: AUROC .90, accuracy .75; "
    assert beside_value(linear) == expected + "100 fit rows, the second half of which brought .03 [.01, .05]"
    bare = linear.to_dict() | dict.fromkeys(("auroc", "accuracy", "falls", "n_fit"))
    assert beside_value(bare) == ""


def test_the_floors_own_is_never_taken_for_a_reader_s():
    rows = leak_map(frame()).set_index(["level", "site"])["auroc"]
    assert rows["baseline"].tolist() == [0.7, 0.7] and rows["prior"].tolist() == [0.5, 0.5]


def test_the_map_has_them_and_says_what_to_compare_them_with():
    shown = str(summary(frame()))
    assert next(line.split() for line in shown.splitlines() if "acc." in line) == ["linear", "AUROC", "acc."]
    assert "the input alone: AUROC .70, acc. .65" in shown
    assert [line.split()[-3:] for line in shown.splitlines() if line.startswith("L")] == [
        [".50", ".80", ".75"], [".50", ".90", ".75"],
    ]  # fmt: skip
    html = summary(frame())._repr_html_()
    assert "AUROC" in html and ".90" in html


def test_na_and_few_groups_are_marks():
    some = frame()
    some.loc[0, ["value", "na_reason"]] = [None, "too_few_rows"]
    some["groups"] = 12
    marks = layers(some)["mark"]
    assert marks.iloc[0] == "NA: too few rows" and "only 12 groups" in marks.iloc[1]
    with pytest.raises(BadInput, match="no level 'lineer'"):
        layers(frame(), level="lineer")


def test_spread_is_over_splits_and_needs_several():
    told = spread(frame(seeds=(0, 1, 2)))
    assert told["splits"].tolist() == [3, 3] and told["mean"].tolist() == pytest.approx([0.6, 0.6])
    assert told["sd"].tolist() == pytest.approx([0.1, 0.1]) and told["value"].tolist() == [0.5, 0.5]
    assert spread(frame()).empty
    assert "over 3 splits of the rows" not in str(summary(frame())), "nothing is said of a single split"
