"""Behaviours that are numbers: plants whose unexplained share is known, their controls, and what cannot be asked."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

import probekit as pk
from probekit.errors import BadInput

QUICK = {"n_bootstrap": 200, "n_permutations": 20, "extrapolate": False, "decomposition": False, "ks": (1, 4)}
HOOK = "blocks.0.hook_resid_post"


def draw(n: int = 1_500, d: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(activations [n, d], what the input says [n], what nobody sees [n]), two rows of a group."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=n), rng.normal(size=n)


def value(records, level="linear", **at):
    rows = records[(records["metric"] == at.pop("metric", "read")) & (records["level"] == level)]
    for name, wanted in ({"control": "", "floor": "strong"} | at).items():
        rows = rows[rows[name] == wanted]
    assert len(rows) == 1, rows
    return rows.iloc[0]


@pytest.fixture(scope="module")
def measured():
    """The year 1900 + 50 (input + 2 read + unseen): 1 / (4 + 1) of what the input leaves stays unexplained."""
    x, told, unseen = draw()
    year = 1_900 + 50 * (told + 2 * x[:, 0] + unseen)
    levels = ["prior", "baseline", "neurons", "direction", "directions", "linear", "nonlinear"]
    records = pk.measure(
        {HOOK: x}, behaviour={"year": pk.Behaviour.number("year", year)}, floor=told[:, None].astype(np.float32),
        groups=np.arange(len(x)) // 2, types=np.arange(len(x)) % 50, levels=levels, falls=True,
        controls=("permuted", "random_directions", "row_split", "control_task"), **QUICK,
    )  # fmt: skip
    return records, x, told, year


def test_the_share_left_is_the_true_one(measured):
    records = measured[0]
    for level in ("linear", "nonlinear"):
        found = value(records, level)
        assert found["value"] == pytest.approx(0.2, abs=0.03)
        assert found["low"] < 0.2 < found["high"] + 0.02
    assert value(records, "baseline")["value"] == 1
    assert value(records, "prior")["value"] > 1, "without the input there is more to explain"
    assert value(records, "neurons", k=1)["value"] == pytest.approx(0.2, abs=0.03)
    assert value(records, "direction", source="least_squares")["value"] == pytest.approx(0.2, abs=0.03)


def test_r2_is_that_of_scikit_learn_and_credits_the_probe_with_the_input(measured):
    """R2 of a usual probe beside one that reads the input too: the naive number tells nothing of who knows."""
    records, x, told, year = measured
    both, half = np.column_stack([x, told]), len(x) // 2
    naive = Ridge(alpha=1.0).fit(x[:half], year[:half]).score(x[half:], year[half:])
    assert value(records, floor="weak")["r2"] == pytest.approx(naive, abs=0.05)
    peer = LinearRegression().fit(both[:half], year[:half]).score(both[half:], year[half:])
    assert value(records)["r2"] == pytest.approx(peer, abs=0.03)
    assert value(records, "baseline")["r2"] == pytest.approx(1 / 6, abs=0.05)


def test_controls_of_a_number_explain_nothing(measured):
    records = measured[0]
    for control in ("permuted_in_group", "control_task"):
        assert value(records, control=control)["value"] == pytest.approx(1, abs=0.03)
    random = records[(records["control"] == "random_directions") & (records["k"] == 1)].iloc[0]
    assert random["value"] > 0.5
    assert value(records, control="row_split")["value"] == pytest.approx(0.2, abs=0.03)
    assert value(records)["p_max"] == pytest.approx(1 / 21)
    assert value(records)["falls"] > -0.02


def test_units_and_origin_do_not_matter(measured):
    records, x, told, year = measured
    again = pk.measure(
        {HOOK: x}, behaviour={"year": pk.Behaviour.number("year", (year - 1_900) / 50)}, levels=["linear"],
        floor=told[:, None].astype(np.float32), groups=np.arange(len(x)) // 2, controls=(), falls=False, **QUICK,
    )  # fmt: skip
    assert value(again)["value"] == pytest.approx(value(records)["value"], abs=1e-5)


def test_noise_is_not_explained():
    found = []
    for seed in range(6):
        x, told, unseen = draw(300, 200, seed)
        records = pk.measure(
            {HOOK: x}, behaviour={"y": pk.Behaviour.number("y", told + unseen)}, controls=(), levels=["linear"],
            floor=told[:, None].astype(np.float32), falls=False, **QUICK,
        )  # fmt: skip
        found.append(value(records)["value"])
    assert np.mean(found) == pytest.approx(1, abs=0.02)


def test_transfer_of_a_number_whose_scale_changes():
    """Elsewhere the number is twice as large: as fitted a reader misses half of it, after a line it misses nothing."""
    x, _, unseen = draw(2_000)
    there = np.arange(2_000) >= 1_000
    y = (1 + there) * (2 * x[:, 0]) + 0.5 * unseen
    records = pk.measure(
        {HOOK: x}, behaviour={"y": pk.Behaviour.number("y", y)}, domains=np.where(there, "far", "home"), falls=False,
        levels=["linear"], controls=(), **QUICK,
    )  # fmt: skip
    moved = {arm: value(records, metric="transfer", arm=arm, fit_domain="home", test_domain="far")["value"]
             for arm in ("raw", "refit", "platt50")}  # fmt: skip
    assert moved["raw"] == pytest.approx(0.25, abs=0.05), "(4 - 2)^2 of 4^2"
    assert abs(moved["refit"]) < 0.02 and abs(moved["platt50"]) < 0.05


def test_a_hypothesis_of_a_number_is_refused():
    x, _, unseen = draw(100)
    rule = pk.Hypothesis.of("rule", ("colour",), lambda labels: labels["colour"], behaviour="y")
    with pytest.raises(BadInput, match="'rule' speaks of 'y', which is a number"):
        pk.measure(
            {HOOK: x}, behaviour={"y": pk.Behaviour.number("y", unseen)}, hypotheses=[rule], levels=["linear"],
            features={"colour": np.arange(100) % 2}, controls=(), **QUICK,
        )  # fmt: skip


def test_a_constant_number_leaves_nothing_to_explain():
    x, _, unseen = draw(200)
    both = {"same": pk.Behaviour.number("same", np.full(200, 7.0)), "y": pk.Behaviour.number("y", unseen)}
    records = pk.measure({HOOK: x}, behaviour=both, controls=(), levels=["linear"], **QUICK)
    same = records[records["behaviour"] == "same"]
    assert set(same["na_reason"]) == {"small_denominator"}
    assert records[(records["behaviour"] == "y") & (records["metric"] == "read")]["value"].notna().all()


def test_a_number_that_is_not_finite_is_named():
    with pytest.raises(BadInput, match="not finite, first at row 2"):
        pk.Behaviour.number("y", np.array([1.0, 2.0, np.nan]))


def test_floats_that_never_repeat_are_told_how_to_be_numbers():
    x, _, unseen = draw(100)
    with pytest.raises(BadInput, match=r"Behaviour\.number\('behaviour', values\)"):
        pk.measure({HOOK: x}, behaviour=unseen)


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1e200])
def test_numbers_of_any_size_are_measured(scale):
    """Squares of the first and the last are no doubles, and a spread of 1e-9 is no constant."""
    x, _, unseen = draw(400, 4)
    quick = QUICK | {"controls": (), "falls": False, "floors": ("strong",), "n_permutations": 0}
    y = (x[:, 0] + unseen).astype(np.float64)
    found, known = (
        value(pk.measure(x, behaviour=pk.Behaviour.number("y", y * size), levels=("linear",), **quick))["value"]
        for size in (scale, 1)
    )
    assert found == pytest.approx(known, abs=1e-3)
