"""Parts in words: every arm has some, the assumptions are judged by their intervals, and nothing is too wide."""

import pandas as pd
import pytest

from probekit.errors import BadInput
from probekit.measurement.causal.composition import ARMS
from probekit.records import ARMS as KNOWN
from probekit.records import Record
from probekit.results.parts import WORDS, composition, composition_text, screens
from probekit.results.tables import table
from probekit.results.text import rendered, to_csv

POST = "blocks.{}.hook_resid_post".format


def record(arm, value, half=0.01, layer=0, **more):
    ends = {} if value is None else {"low": value - half, "high": value + half, "raw": value + 0.02}
    told = {"behaviour": "answer", "fit_domain": "home", "test_domain": "home", "metric": "compose", "arm": arm,
            "hook": POST(layer), "layer": layer, "level": "directions", "source": "features", "k": 2, "n": 60,
            "groups": 30, "na_reason": "small_denominator" if value is None else ""}  # fmt: skip
    return Record(**(told | {"value": value} | ends | more))


def frame(*records):
    return pd.DataFrame([one.row() for one in records])


def test_every_arm_has_words():
    assert set(ARMS) <= set(WORDS) <= set(KNOWN)
    made = frame(*(record(arm, 0.5) for arm in (*WORDS, "alone:loss", "pair_ablation:loss")))
    found = composition(made)
    assert found["what"].is_unique and found["arm"].iloc[0] == "additive_value"
    assert found.loc[found["arm"] == "alone:loss", "what"].item() == "alone differs, loss"
    (block,) = composition_text(found)
    shown = rendered(block, 80)
    lines = shown.splitlines()
    assert all(len(line) <= 80 for line in lines) and len(lines) == 3 + len(found)  # nothing is folded
    assert "L0 resid_post, 2 parts" in lines[0] and ".50 [.49, .51]" in shown and " .52 " in shown
    assert table("composition", made).equals(found) and "additive_value" in to_csv(found)


def test_sites_are_in_forward_order():
    found = composition(frame(*(record("cross_talk", 0.1, layer=layer) for layer in (10, 2))))
    assert found["layer"].tolist() == [2, 10] and len(composition_text(found)) == 2


@pytest.mark.parametrize(
    ("value", "half", "verdict"),
    [(0.02, 0.01, "passed"), (0.5, 0.05, "failed"), (0.1, 0.05, "undecided"), (0.02, 0.4, "undecided"),
     (None, 0, "NA")],
)  # fmt: skip
def test_an_assumption_is_judged_by_its_interval(value, half, verdict):
    arms = {"separation": "cross_talk", "independence": "dependence", "alone as in the whole": "alone",
            "pairwise": "pair_value", "additivity": "additive_value"}  # fmt: skip
    found = screens(frame(*(record(arm, value, half) for arm in arms.values()), record("leave_one_out", 1.0)))
    assert {screen.assumption: screen.arm for screen in found} == arms
    for screen in found:
        assert screen.verdict == verdict and screen.margin == 0.1
        assert screen.sentence.startswith(f"{screen.assumption}: {verdict}") and screen.sentence.endswith(".")
        assert ("nothing to explain" in screen.sentence) == (value is None)
    assert found[0].id == record("cross_talk", value, half).id


def test_the_margin_is_declared():
    made = frame(record("dependence", 0.15))
    assert [screens(made, margin=margin)[0].verdict for margin in (0.1, 0.3)] == ["failed", "passed"]
    assert screens(frame(record("", 0.1, metric="read"))) == []
    with pytest.raises(BadInput, match="a margin is at least 0"):
        screens(made, margin=-1)
