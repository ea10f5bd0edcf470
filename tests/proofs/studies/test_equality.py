"""The study of hierarchical equality on two small networks; and by hand, that its measures see what is planted."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from probekit.cli.main import app
from probekit.proofs.studies import equality
from probekit.proofs.studies.bending import bend
from probekit.proofs.studies.equality import (
    NAMES,
    PUBLISHED,
    PUBLISHED_BENT,
    WHERE,
    BendingSize,
    EqualityFindings,
    EqualitySize,
    measure_equality,
    tables,
)
from probekit.testbeds.equality import LAYERS, SIZE, WIDTH, EqualityNets

SMALL = EqualitySize(
    networks=2, train_steps=16, pairs=400, steps=4, starts=2, scrubbed=50,
    bending=BendingSize(blocks=2, steps=4, test=100, scrubbed=20),
)  # fmt: skip
ROTATED, BENT = len(NAMES) * LAYERS * len(WHERE) * 2, LAYERS * len(WHERE) * 5


def by_hand() -> EqualityNets:
    """Layer 1 holds |x1 - x2| in one half and |x3 - x4| in the other; layer 2 says which are 0, layer 3 compares."""
    first = torch.zeros(1, WIDTH, WIDTH)
    for pair in (0, 1):
        for i in range(SIZE):
            for sign, at in ((1, 0), (-1, 1)):
                out = 8 * pair + 2 * i + at
                first[0, 8 * pair + i, out], first[0, 8 * pair + SIZE + i, out] = sign, -sign
    second, third, head = (torch.zeros(1, WIDTH, n) for n in (WIDTH, WIDTH, 2))
    biases = [torch.zeros(1, 1, n) for n in (WIDTH, WIDTH, WIDTH, 2)]
    # min(1, 50 |difference|) of each pair, from two ReLUs.
    for pair, (one, two) in enumerate(((0, 1), (2, 3))):
        second[0, 8 * pair : 8 * pair + 8, one] = second[0, 8 * pair : 8 * pair + 8, two] = 50
        biases[1][0, 0, two] = -1
    for at, signs in ((0, (1, -1, -1, 1)), (1, (-1, 1, 1, -1))):
        third[0, :4, at] = torch.tensor(signs)
    head[0, :2, 0] = 40
    biases[3][0, 0, 1] = 20
    return EqualityNets((first, second, third, head), tuple(biases))


def test_a_network_that_computes_both_equalities_is_found_whole_and_a_random_one_is_not():
    """At layer 2: at layer 1, where the subspace is as clean, one start in four finds it and the others do not."""
    size = EqualitySize(pairs=2000, steps=300, scrubbed=300)
    found = equality._measured(by_hand(), equality.untrained(1), "left", 2, (0, 0), size)
    measured = dict(found)
    value = {where: one.right.mean() for where, one in measured.items()}
    assert value["trained"] > 0.97
    assert abs(value["random_twin"] - 0.5) < 0.05
    lost = {where: one.lost.missed.sum() / one.lost.available.sum() for where, one in measured.items()}
    assert lost["trained"] < 0.1 < 0.5 < lost["random_subspace"]


def test_a_map_that_bends_finds_it_too_and_nothing_is_left_to_lose_in_a_random_network():
    size = BendingSize(blocks=3, steps=150, test=1000, scrubbed=100)
    found = bend(by_hand(), equality.untrained(1), 2, 0, size)
    assert set(found) == set(WHERE)
    trained, start, twin = (found[where][0] for where in WHERE)
    assert trained.right.mean() > 0.97 > 0.7 > start.right.mean() and abs(twin.right.mean() - 0.5) < 0.1
    lost = {where: one[0].lost.missed.mean() / one[0].lost.available.mean() for where, one in found.items()}
    assert lost["trained"] < 0.1 < 0.6 < lost["random_subspace"]
    assert twin.lost.available.mean() < 0.005 < trained.lost.available.mean()
    assert all(0 <= one[0].far <= 1 for one in found.values())


def test_the_study_measures_every_variable_at_every_layer_keeps_it_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    seen = []
    found = measure_equality(tmp_path, SMALL, progress=lambda what, done, total, left=None: seen.append((done, total)))
    frame = found.frame
    assert len(frame) == ROTATED + BENT and seen[-1] == (12, 12)
    assert frame.groupby(["map", "variable", "layer", "where", "measure"]).size().max() == 1
    rotated = frame[frame["map"] == "rotation"]
    iia = rotated[rotated["measure"] == "iia"]
    assert iia["value"].between(0.3, 0.8).all() and (iia["n"] == 200).all() and (iia["networks"] == 2).all()
    lost = frame[frame["measure"] == "fbu"]
    assert (lost["value"].isna() == (lost["na_reason"] != "")).all()
    found.write(tmp_path / "kept.json")
    assert EqualityFindings.read(tmp_path / "kept.json") == found
    monkeypatch.setattr(equality, "_measure_cell", lambda cell: pytest.fail("nothing is left to be measured"))
    assert measure_equality(tmp_path, SMALL) == found


def measured(networks: int) -> EqualityFindings:
    """Findings as they might be: layer 1 stands, the others are as in random networks."""
    row = {"low": 0.8, "high": 0.9, "n": 1, "networks": 2, "na_reason": ""}
    value = {"trained": 0.85, "random_subspace": 0.55, "random_twin": 0.5}
    rows = [
        {"map": "rotation", "variable": v, "layer": layer, "where": w, "measure": m,
         "value": value[w] if layer == 1 else 0.5} | row
        for v in NAMES for layer in range(1, LAYERS + 1) for w in WHERE for m in ("iia", "fbu")
    ]  # fmt: skip
    rows[-1] |= {"value": None, "low": None, "high": None, "na_reason": "small_denominator"}
    bent = {"iia": 0.99, "fbu": 0.02, "bits": 0.0123, "available": 0.00012, "far": 0.5}
    rows += [
        {"map": "revnet", "variable": "left", "layer": layer, "where": w, "measure": m, "value": v} | row
        for layer in range(1, LAYERS + 1) for w in WHERE for m, v in bent.items()
    ]  # fmt: skip
    return EqualityFindings(networks, (1.0, 1.0), tuple(rows))


def test_its_tables_set_the_published_beside_what_was_found():
    found = measured(networks=2)
    made = tables(found)
    assert set(made) == set(equality.TITLES)
    first = made["accuracy"].iloc[0]
    assert (first["published"], first["found"]) == (".842", ".850 [.800, .900]")
    assert made["accuracy"]["verdict"].tolist() == ["stands", "vacuous", "vacuous"] * 3
    assert made["leak"].iloc[-1]["random networks"] == "NA (small_denominator)"
    assert np.shape(list(PUBLISHED.values())) == (3, LAYERS) and np.shape(list(PUBLISHED_BENT.values())) == (2, LAYERS)
    bent = made["bent"].iloc[0]
    assert (bent["published"], bent["found"]) == (".998", ".990 [.800, .900]")
    assert (bent["published, random"], bent["random networks"]) == (".567", ".990 [.800, .900]")
    assert made["bending"]["their millibits"].tolist() == ["12.30 of 0.12"] * 3
    assert made["bent"]["verdict"].tolist() == ["vacuous"] * 3  # the same search does as well in random networks


def test_all_of_it_is_deterministic_whatever_the_global_seed(tmp_path):
    torch.manual_seed(1)
    one = measure_equality(tmp_path / "one", SMALL, seed=1)
    torch.manual_seed(2)
    again, other = (measure_equality(tmp_path / "two", SMALL, seed=seed) for seed in (1, 2))
    assert again == one != other


def test_the_command_prints_keeps_and_tells_in_json(tmp_path, monkeypatch):
    asked = []
    found = measured(networks=2)

    def measure(root, size, progress):
        asked.append(size.networks)
        return found

    monkeypatch.setattr(equality, "measure_equality", measure)
    kept = tmp_path / "kept.json"
    shown = CliRunner().invoke(app, ["study", "equality", "--share", "0.1", "--keep", str(kept)])
    assert shown.exit_code == 0 and EqualityFindings.read(kept) == found and asked == [2]
    assert all(title[:21] in shown.output for title in equality.TITLES.values()) and "identity of" in shown.output
    told = json.loads(CliRunner().invoke(app, ["study", "equality", "--json"]).stdout)
    assert told["networks"] == 2 and asked == [2, 10] and len(told["rows"]) == len(found.rows)


def test_what_is_kept_is_whole_and_what_was_published_lies_within_its_intervals():
    """Networks differ: the means of ten may lie .06 apart, theirs as ours, so that only intervals can be asked for."""
    found = EqualityFindings.read(Path(__file__).parents[3] / "docs" / "equality.json")
    frame = found.frame
    assert found.networks == len(found.right) == EqualitySize().networks and min(found.right) > 0.99
    assert len(frame) == ROTATED + BENT
    iia = frame[(frame["measure"] == "iia") & (frame["where"] == "trained")]
    for row in iia[iia["map"] == "rotation"].to_dict("records"):
        published = PUBLISHED[row["variable"]][row["layer"] - 1]
        assert row["low"] - 0.01 <= published <= row["high"] + 0.01, row
    for row in iia[iia["map"] == "revnet"].to_dict("records"):
        assert abs(row["value"] - PUBLISHED_BENT["trained"][row["layer"] - 1]) < 0.03, row
