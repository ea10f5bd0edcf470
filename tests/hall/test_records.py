"""Record: its coordinates decide its id, its vocabularies are closed, and it has a value or a reason why not."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from probekit import records
from probekit.errors import BadInput
from probekit.records import COORDINATES, FIGURES, Losses, Record, canonical, digest

PLAIN = {"behaviour": "law", "fit_domain": "random", "test_domain": "random", "metric": "read", "level": "linear"}


def record(**changes) -> Record:
    return Record(**{**PLAIN, "value": 0.5, **changes})


OTHER = {
    "run": "r", "model": "m", "revision": "v", "task": "t", "behaviour": "b", "fit_domain": "f", "test_domain": "g",
    "metric": "replace", "arm": "raw", "hook": "h", "layer": 3, "position": "last", "level": "directions",
    "source": "pca", "k": 4, "parameters": 10, "floor": "weak", "unit": "seed", "control": "random_twin",
    "seed_probe": 1, "seed_data": 1, "seed_model": 1,
}  # fmt: skip
FIGURE = {"value": 0.1, "low": 0.0, "high": 1.0, "raw": 0.2, "bits": 1.0, "floor_bits": 2.0, "ceiling_bits": 0.5,
          "p99_bits": 3.0, "worst_group": 1.5, "n": 10, "groups": 5, "note": "x", "n_fit": 90,
          "n_fit_effective": 80.5, "d_read": 8, "falls": 0.1, "falls_low": 0.0, "falls_high": 0.2, "auroc": 0.9,
          "accuracy": 0.8, "r2": 0.3}  # fmt: skip


def test_the_tables_above_name_every_field():
    assert set(OTHER) == set(COORDINATES)
    assert {*FIGURE, "na_reason"} == set(FIGURES)


@pytest.mark.parametrize("name", COORDINATES)
def test_every_coordinate_changes_the_id(name):
    assert record(**{name: OTHER[name]}).id != record().id


@pytest.mark.parametrize("name", FIGURE)
def test_no_figure_changes_the_id(name):
    assert record(**{name: FIGURE[name]}).id == record().id


def test_an_id_is_the_same_in_every_process_and_version():
    # Ids are stored in files: a change of this number needs a reader for the old ones.
    assert record().id == "0b4d705a518bbc6f"


@pytest.mark.parametrize("name", ["metric", "arm", "source", "control", "floor", "unit"])
def test_a_word_outside_the_vocabulary_is_refused(name):
    with pytest.raises(BadInput, match=f"a record's {name} is one of .*; found 'nonsense'"):
        record(**{name: "nonsense"})


def test_levels_are_the_known_ones_and_the_two_open_families():
    for level in (*records.LEVELS, "simple:quadratic", "hypothesis:my-rule"):
        assert record(level=level).level == level
    with pytest.raises(BadInput, match="found 'liner'"):
        record(level="liner")


@given(value=st.none() | st.floats(-2, 3), reason=st.sampled_from(records.NA_REASONS))
def test_a_value_or_a_reason_and_never_both_or_neither(value, reason):
    if (value is None) == bool(reason):
        assert record(value=value, na_reason=reason).value == value
    else:
        with pytest.raises(BadInput, match="either a value or a reason"):
            record(value=value, na_reason=reason)


def test_zero_is_a_value():
    assert record(value=0.0).value == 0.0


def test_a_reason_outside_the_vocabulary_is_refused():
    with pytest.raises(BadInput, match="na_reason"):
        record(value=None, na_reason="tired")


def test_a_record_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        record().value = 1.0  # pyright: ignore[reportAttributeAccessIssue]


def test_a_row_holds_every_field_its_id_and_its_probe_seed():
    row = record(seed_probe=7).row()
    assert set(row) == {"id", "seed", *COORDINATES, *FIGURES}
    assert row["seed"] == 7
    assert record(**{name: row[name] for name in (*COORDINATES, *FIGURES)}).id == row["id"]


def test_vocabularies_have_no_word_twice():
    for words in (records.METRICS, records.ARMS, records.LEVELS, records.SOURCES, records.CONTROLS, records.NA_REASONS):
        assert len(set(words)) == len(words)


def test_losses_carry_one_sum_per_group():
    losses = Losses("id", ["a", "b"], [1.0, 2.0], [2.0, 2.0], [10, 20])
    assert sum(losses.numerator) / sum(losses.denominator) == 0.75


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(value=json_values)
def test_canonical_text_reads_back_and_does_not_depend_on_the_order_of_keys(value):
    assert json.loads(canonical(value)) == value
    if isinstance(value, dict):
        assert digest(dict(reversed(value.items()))) == digest(value)


def test_nan_has_no_digest():
    with pytest.raises(ValueError, match="Out of range"):
        digest(float("nan"))
