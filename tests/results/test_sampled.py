"""Sampled behaviours as a distribution: of made-up records whose spread is known."""

import numpy as np
import pandas as pd
import pytest

from probekit import table
from probekit.errors import BadInput
from probekit.records import SAMPLED, Record
from probekit.results.sampled import sampled, sampled_names, sampled_sentences, tail
from probekit.results.summary import summary

HOOK = "blocks.1.hook_resid_post"


def frame(values, level="linear", source="behaviour", k=None, prefix=SAMPLED):
    made = [
        Record(
            model="m", task="t", behaviour=f"{prefix}a/{i}", fit_domain="all", test_domain="all", metric="read",
            hook=HOOK, layer=1, level=level, source=source, k=k, floor="strong", position="all", n=100, groups=50,
            value=None if np.isnan(value) else float(value), low=None if np.isnan(value) else float(value) - 0.1,
            high=None if np.isnan(value) else float(value) + 0.1, na_reason="small_denominator" * bool(np.isnan(value)),
        )
        for i, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame([record.row() for record in made]).assign(run="r")


def test_a_few_that_leak_hide_in_the_mean_and_not_in_the_worst_tenth():
    """Nine of ten are explained whole and one not at all: the mean, what one would naively tell, says .1."""
    values = np.tile([0.0] * 9 + [1.0], 4)
    (row,) = sampled(frame(values)).to_dict("records")
    assert row["mean"] == pytest.approx(0.1) and row["median"] == 0 and row["worst_decile"] == 1
    assert row["low"] < 0.1 < row["high"] and row["n"] == 40
    assert row["worst"].startswith("a/9 1.00; a/19 1.00")


def test_quantiles_are_those_of_the_values_and_na_is_counted_apart():
    values = np.append(np.linspace(0, 1, 101), [np.nan] * 3)
    (row,) = sampled(frame(values), most=2).to_dict("records")
    assert [row[q] for q in ("q10", "q25", "median", "q75", "q90")] == pytest.approx([0.1, 0.25, 0.5, 0.75, 0.9])
    assert (row["n"], row["n_na"]) == (101, 3)
    assert row["worst_decile"] == pytest.approx(np.linspace(0, 1, 101)[-11:].mean())
    assert row["worst"] == "a/100 1.00; a/99 .99"


def test_the_worst_tenth_is_never_of_none():
    assert tail([0.3]) == 0.3 and tail([0.1, 0.2]) == 0.2 and np.isnan(tail([]))


def test_intervals_hold_the_mean_of_the_behaviours_that_are_drawn_from():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(100):
        (row,) = sampled(frame(rng.beta(1, 3, size=40))).to_dict("records")
        covered += row["low"] <= 0.25 <= row["high"]
    assert 87 <= covered <= 100


def test_levels_and_ks_are_apart_and_named_behaviours_are_left_out():
    both = pd.concat([frame([0.1, 0.2]), frame([0.5, 0.7], "directions", k=1), frame([0.3, 0.4], "directions", k=4),
                      frame([9.0], prefix="mine ")])  # fmt: skip
    assert len(sampled(both)) == 3 and len(sampled(both, k=4)) == 2
    assert sampled_names(both) == [f"{SAMPLED}a/0", f"{SAMPLED}a/1"]
    assert sampled(frame([0.2], prefix="mine ")).empty and not sampled_sentences(frame([0.2], prefix="mine "))


def test_a_table_by_name_and_a_summary_tell_of_them():
    some = frame(np.linspace(0.1, 0.9, 30))
    assert len(table("sampled", some)) == 1
    with pytest.raises(BadInput, match="sampled has no selection 'behaviour'"):
        table("sampled", some, behaviour="x")
    told = str(summary(some))
    assert "30 sampled behaviours, linear at L1 resid_post" in " ".join(told.split())
    assert "worst tenth .87" in " ".join(told.split()) and "also measured" not in told
    assert "worst tenth" in summary(some)._repr_html_()


def test_where_none_has_a_value_that_is_said():
    assert sampled_sentences(frame([np.nan] * 3)) == ("3 sampled behaviours: none has a value.",)
