"""docs/studies/training.md and compute.md hold what their studies found: tables, pictures, claims are of the JSON."""

from pathlib import Path

import pytest

from probekit.proofs.studies import training_page
from probekit.proofs.studies.beds import OTHELLO, WORLD
from probekit.proofs.studies.compute import ComputeFindings
from probekit.proofs.studies.training import MARGINS, TrainingFindings
from probekit.testbeds.variants.checkpoints import KINDS, load_checkpoints

STUDIES = Path(__file__).parents[2] / "docs" / "studies"
DIRECTIONS = "directions 8"


@pytest.fixture(scope="module")
def training():
    return TrainingFindings.read(STUDIES / "training.json")


@pytest.fixture(scope="module")
def compute():
    return ComputeFindings.read(STUDIES / "compute.json")


def test_training_is_of_the_networks_that_are_bundled(training):
    for row in training.learned:
        if row["kind"] in KINDS and row["step"]:
            course = load_checkpoints(row["kind"])
            at = course.steps.index(row["step"])
            assert row["accuracy"] == pytest.approx(float(course.unseen[at, row["network"]]), abs=0.03)


def test_what_the_page_of_training_claims_is_what_its_tables_say(training):
    """Directions are transferable before they are used, used before they are readable, and that before answers are
    right; the stated rule is readable from the start and used no sooner than answers are right."""
    for kind in ("plain", "narrow"):
        told = {order: training_page.ratios(training, kind, DIRECTIONS, order) for order in training_page.ORDERS}
        assert told["used / readable"].high < 1 and told["readable / right"].value < 1
        assert set(training_page.begun_of(training, kind, "read", "rule").values()) == {0.0}
        assert training_page.ratios(training, kind, "rule", "used / right").high > 1
        for margin in MARGINS:
            for order in ("transferable / used", "used / readable"):
                assert training_page.ratios(training, kind, DIRECTIONS, order, margin).high < 1, (kind, order, margin)
    assert training_page.ratios(training, "plain", DIRECTIONS, "readable / right").high < 1
    assert set(training_page.begun_of(training, "never", "read", DIRECTIONS).values()) == {None}


def test_of_the_tiny_world_directions_settle_then_are_used_then_readable_then_right(training):
    found = [
        training_page.begun_of(training, WORLD, metric, DIRECTIONS)[0] for metric in ("transfer", "replace", "read")
    ]
    found.append(training_page.begun_of(training, WORLD, "read", "behaviour")[0])
    assert found == sorted(found) and found[-1] > 1.5 * found[-2]


def test_what_the_page_of_compute_claims_is_what_its_tables_say(compute):
    """Each earlier step is found where it is; zero recovers more than the input does, and compute says the least."""
    frame = compute.frame
    steps = frame[frame["level"].str.startswith("step") & frame["compute"].notna()]
    true = steps["level"].str.split().str[1].astype(float) / steps["last"]
    late = (steps["loss"] < 4) & ~((steps["kind"] == WORLD) & (steps["level"] == "step 328"))  # worse than step 128
    assert (abs(steps["compute"] - true)[late] < 0.02).all() and late.sum() > 20
    rule = frame[(frame["kind"] == WORLD) & (frame["level"] == "rule")].iloc[0]
    assert rule["compute"] > 0.8 and rule["input"] > 0.95
    board = frame[frame["kind"] == OTHELLO]
    assert (board["zero"] >= board["prior"]).all() and (board["prior"] > board["input"]).all()
    assert (board["compute"].dropna() < 0.2).all()
