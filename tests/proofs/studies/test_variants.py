"""The study of variants: a network is its own twin, each verdict is of its interval, pictures show what is stored."""

import numpy as np
import pytest

from probekit.proofs.studies import variants
from probekit.proofs.studies.variants import COMPARED, ROWS, VariantsFindings, adds, homes_of
from probekit.proofs.studies.variants_page import (
    cells,
    claim_holds,
    claims,
    correlations,
    map_of,
    scatter_of,
    tables,
    verdict,
)
from probekit.testbeds.variants import CONTROLS, PRIME, VARIANTS


def row(variant, name, value, width=0.02):
    site, level, arm = ROWS[name]
    return {"variant": variant, "site": site, "level": level, "arm": arm, "value": value, "low": value - width,
            "high": value + width, "na_reason": "", "pairs": 5, "cka": 0.3, "affine": 0.5}  # fmt: skip


def made(high=0.0, low=0.9, control=0.5):
    """Findings in which all high levels have one T, all low ones another, and controls a third."""
    rows = [
        row(variant, name, control if variant in CONTROLS else high if name in variants.HIGH else low)
        for variant in COMPARED for name in ROWS
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    spread = [
        {"name": "share0.3" if i % 5 else "plain@300", "network": i, "accuracy": a, "level": level, "arm": arm,
         "left": 1 - a, "moved": None if name == "directions, turned" else float(rng.random())}
        for i, a in enumerate(rng.random(40)) for name, (_, level, arm) in ROWS.items()
    ]  # fmt: skip
    return VariantsFindings(5, {name: [1.0] * 5 for name in VARIANTS}, tuple(rows), tuple(spread))


@pytest.mark.parametrize("site", list(variants.SITES))
def test_a_network_is_its_own_twin_at_every_level(site):
    """All that is fitted and moved is 0 lost, but for a reader that the alignment's ridge bends a little."""
    pair = variants._pair("plain", 0, 0, site, 0)
    told = {(one.name.level, one.arm): one.ratio for one in pair.moved}
    for where, *place in ROWS.values():
        if where == site:
            ratio = told[tuple(place)]
            assert ratio is not None and abs(ratio.missed.sum() / ratio.available.sum()) < 0.02, place
    assert pair.told["cka"] == pytest.approx(1) and pair.told["procrustes"] < 1e-9


def test_another_seed_has_the_rule_and_not_the_directions():
    pair = variants._pair("plain", 6, 0, "first", 0)
    lost = {place: one.ratio.missed.sum() / one.ratio.available.sum() for one in pair.moved
            if (place := (one.name.level, one.arm)) and one.ratio}  # fmt: skip
    assert lost[ROWS["behaviour"][1:]] < 0.02 and lost[ROWS["form, fitted again"][1:]] < 0.05
    assert lost[ROWS["stated rule, on its own features"][1:]] < 0.1
    assert lost[ROWS["directions, turned"][1:]] > 0.7


def test_the_rule_adds():
    numbers = np.array([[3, 4], [PRIME - 1, 2]])
    assert adds({"numbers": numbers}).argmax(1).tolist() == [7, 1]


def test_no_network_is_in_two_pairs():
    for name in COMPARED:
        pairs = homes_of(name, 5)
        assert len(pairs) == len({home for home, _ in pairs}) == len({one for _, one in pairs})
        if name == "plain":
            assert not {home for home, _ in pairs} & {one for _, one in pairs}


@pytest.mark.parametrize(
    ("value", "width", "said"),
    [(0.02, 0.05, "stays"), (0.5, 0.1, "lost"), (0.1, 0.05, "open"), (0.08, 0.03, "open"), (None, 0, "NA")],
)
def test_a_verdict_is_of_the_interval(value, width, said):
    one = row("gelu", "neurons", value or 0.0, width) | ({} if value is not None else {"value": None})
    assert verdict(one) == said


def test_t_of_next_to_nothing_is_no_t():
    form = row("gelu", "form, fitted again", 0.95)
    found = VariantsFindings(5, {}, (form, row("gelu", "neurons", 0.0)), ())
    told = cells(found)
    assert verdict(told["gelu", "neurons"]) == "absent" and verdict(told["gelu", "form, fitted again"]) == "lost"
    assert claims(found).set_index("level").loc["neurons", "other"] == 1


def test_the_claim_holds_where_every_variant_keeps_the_high_and_loses_the_low():
    assert claim_holds(made()) == {"high": True, "low": True, "beyond": True}
    assert claim_holds(made(high=0.3)) == {"high": False, "low": True, "beyond": True}
    assert claim_holds(made(low=0.05, control=0.0)) == {"high": True, "low": False, "beyond": False}
    told = claims(made()).set_index("level")
    able = len(COMPARED) - len(CONTROLS)
    assert told.loc["behaviour", "stays"] == able == told.loc["neurons", "lost"]


def test_tables_and_pictures_say_what_is_stored_and_findings_round_trip(tmp_path):
    found = made()
    found.write(tmp_path / "v.json")
    again = VariantsFindings.read(tmp_path / "v.json")
    assert again == found
    told = tables(again)
    assert told["carried"].set_index("variant").loc["gelu", "behav."] == ".00"
    assert told["carried"].shape[0] == len(COMPARED)
    by_level = {(one["of"], one["level"]): one for one in correlations(again)}
    assert by_level["left in the network", "stated rule"]["rho"] == "-1.00"
    assert by_level["T from a plain one", "directions, turned"]["rho"] == "NA"
    picture = map_of(again)
    assert picture.count("<rect") == 1 + len(COMPARED) * len(ROWS)
    assert picture.count("<circle") == sum(row["high"] <= variants.STAYS for row in found.rows)
    assert scatter_of(again).count("<circle") >= 3 * 40


@pytest.mark.parametrize("site", list(variants.SITES))
def test_a_network_of_the_other_task_is_its_own_twin(site):
    """Its one direction and its rule carry over to itself whole."""
    pair = variants._pair("equal-plain", 0, 0, site, 0)
    told = {(one.name.level, one.arm): one.ratio for one in pair.moved}
    asked = ("hypothesis:alike", "function") if site == "first" else ("directions", "affine")
    ratio = told[asked]
    assert ratio is not None and abs(ratio.missed.sum() / ratio.available.sum()) < 0.02
    assert pair.told["cka"] == pytest.approx(1)


def test_the_other_rule_is_of_both_equalities():
    """Yes where both are, or neither: a rule of the left pair alone would be wrong about half of the rows."""
    equal = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert variants.alike({"equal": equal}).argmax(1).tolist() == [1, 0, 0, 1]
