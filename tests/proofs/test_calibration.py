"""Calibrate: a quick subset is accepted, three broken estimators turn it red, a stopped one resumes."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from probekit.cli.main import app
from probekit.errors import BadInput, Interrupted
from probekit.fit import readers
from probekit.fit.readout import take
from probekit.metrics.causal.replace import kl_bits
from probekit.proofs import judging
from probekit.proofs import noise as noise_study
from probekit.proofs.calibration import calibrate, estimate
from probekit.proofs.judging import judge
from probekit.proofs.noise import false_positives
from probekit.proofs.units import units
from probekit.records import Record
from probekit.testbeds.ground_truth import CASES, SEEN, noise_sites
from probekit.testbeds.ground_truth.circuits import SITE

QUICK = {"seeds": 2, "sizes": (2_000,)}


def rows_of(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame)
    return frame


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """A quick calibration of half a dozen cases, and the folder it is in."""
    root = tmp_path_factory.mktemp("calibration")
    run, frame = calibrate(("P1", "P2", "P6a", "P10", "P19", "coarse"), root=root, **QUICK)
    return root, run, frame


def test_a_quick_subset_is_accepted(found):
    _, run, frame = found
    assert run.manifest is not None
    judged = frame[frame["kind"].isin(["zero", "one", "na"])]
    assert len(judged) > 40
    # Two seeds say little of coverage; what is off by more than any noise is a mistake. (A threshold's direction is
    # free where seen activations do not vary, so that a shift there moves it: docs/calibration.md.)
    wrong = judged[~judged["passed"] & (judged["bias"].abs() > 0.05) & (judged["metric"] != "transfer")]
    assert wrong.empty, wrong.to_string()
    assert judged["passed"].mean() > 0.9, judged[~judged["passed"]].to_string()


def test_every_wired_truth_has_a_row_and_no_other(found):
    _, _, frame = found
    for name in frame["case"].unique():
        wired = {(t.metric, t.level, t.arm) for t in CASES[name].truths if not t.waits}
        mine = frame[frame["case"] == name]
        told = set(zip(mine["metric"], mine["level"], mine["arm"], strict=True))
        assert wired - told <= {("auroc", "direction", "")}  # whose labels were drawn with noise in both seeds
        assert told <= wired


def test_the_naive_method_is_off_where_the_kit_is_right(found):
    _, _, frame = found
    assert (frame.groupby("case")["naive_error"].first() >= judging.NAIVE).all()


def test_truths_are_those_of_what_the_seed_drew(found):
    _, _, frame = found
    row = rows_of(frame, case="P2", level="simple:one_threshold", metric="read").iloc[0]
    drawn = [judging._drawn(CASES["P2"], unit) for unit in units(("P2",), **QUICK) if unit.tier == 1]
    exact = next(t for t in CASES["P2"].truths if t.level == "simple:one_threshold")
    assert row["truth"] == pytest.approx(np.mean([exact.value(p) for p in drawn]))


def test_a_row_split_turns_the_suite_red(tmp_path):
    """P10: d + 1 groups are too few to resample; split by row there is no telling."""

    def split_by_row(case, n, seed, heavy):
        blind = replace(case, plant=lambda p, g, rows, k: replace(case.plant(p, g, rows, k), group=np.arange(rows * k)))
        CASES[case.name] = blind
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("probekit.testbeds.ground_truth.CASES", {**CASES, case.name: blind})
                return estimate(case, n, seed, heavy)
        finally:
            CASES[case.name] = case

    _, frame = calibrate(("P10",), root=tmp_path, estimator=split_by_row, **QUICK)
    row = rows_of(frame, kind="na").iloc[0]
    assert not row["passed"]
    assert row["why"] == "a number was given"


def test_without_platt_the_suite_turns_red(tmp_path, monkeypatch):
    """A direction whose scores are taken for logits as they are, nothing fitted to them."""

    def as_it_is(whole, n_fit, *_):
        fit = take(whole, slice(n_fit))
        k, t, _ = fit.law.shape
        centred = fit.law - fit.law.mean(-1, keepdim=True)
        weight = (centred.reshape(k * t, -1) @ fit.z).reshape(k, t, -1) / len(fit.z)
        ones = torch.ones(t)
        return readers.Readout(weight, torch.zeros(k, t), ones, ones)

    monkeypatch.setattr(readers, "fit_nested", as_it_is)
    monkeypatch.setattr(readers.Site, "calibrated", lambda self, reader: reader)
    _, frame = calibrate(("P6a",), root=tmp_path, **QUICK)
    row = rows_of(frame, level="direction", metric="read").iloc[0]
    assert not row["passed"]
    assert row["estimate"] > 0.1


def test_a_site_chosen_on_test_rows_turns_the_study_red():
    """Twenty-four sites of noise: the best by its own p-value is nearly always found, by max-T hardly ever."""
    rows = list(false_positives(10, 0.5, range(12), sites=(24,)))
    naive, ours = (np.mean([row[f"{how}_24"] for row in rows]) for how in ("naive", "any_of"))
    limit = 0.05 + 2 * np.sqrt(0.05 * 0.95 / 12)
    assert ours <= limit < naive


def test_a_planted_site_among_noise_is_called_informative(monkeypatch):
    """The study's other side: what is there is found, so that silence on noise is worth something."""

    def with_signal(*args):
        activations, behaviour, group = noise_sites(*args)
        activations[3, :, 0] += 3 * behaviour
        return activations, behaviour, group

    monkeypatch.setattr(noise_study, "noise_sites", with_signal)
    assert all(row["any_of_12"] for row in false_positives(50, 0.1, range(2), sites=(12,)))


def test_a_stopped_study_of_noise_resumes_and_counts_every_seed_once(tmp_path, monkeypatch):
    monkeypatch.setattr(noise_study, "GRID", ((10, 0.1), (10, 0.5)))
    monkeypatch.setattr(noise_study, "SITES", (2, 4))
    monkeypatch.setattr(noise_study, "SEEDS_PER_UNIT", 2)
    asked = []

    def counting(unit):
        if len(asked) == 1:
            asked.append(None)
            raise KeyboardInterrupt
        asked.append(unit)
        return whole(unit)

    whole = noise_study._count_unit
    monkeypatch.setattr(noise_study, "_count_unit", counting)
    with pytest.raises(Interrupted, match="1 of 4 cells are kept"):
        noise_study.noise_study(3, root=tmp_path)
    run, frame = noise_study.noise_study(3, root=tmp_path)
    assert len([unit for unit in asked if unit]) == 4
    assert frame["seeds"].tolist() == [3] * 4 and sorted(frame["sites"]) == [2, 2, 4, 4]
    again = pd.concat([run.table(name) for name in run.tables if name != "noise"])
    rates = [
        again.query("icc == @icc")[f"any_of_{n}"].mean() for icc, n in zip(frame["icc"], frame["sites"], strict=True)
    ]
    assert frame["rate"].tolist() == pytest.approx(rates)


def test_a_stopped_calibration_resumes_without_measuring_twice(tmp_path):
    asked = []

    def counting(case, n, seed, heavy):
        if len(asked) == 1 and "again" not in asked:
            asked.append("again")
            raise KeyboardInterrupt
        asked.append((case.name, seed))
        return estimate(case, n, seed, False)

    with pytest.raises(Interrupted, match="1 of 2 cells are kept"):
        calibrate(("P19",), root=tmp_path, estimator=counting, **QUICK)
    run, frame = calibrate(("P19",), root=tmp_path, estimator=counting, **QUICK)
    assert [name for name in asked if name != "again"] == [("P19", 0), ("P19", 1)]
    assert run.manifest is not None and len(frame)


def test_a_missing_number_is_red():
    asked = units(("P19",), **QUICK)
    rows = judge(asked, {unit.id: [] for unit in asked})
    assert not rows["passed"].any()
    assert set(rows["why"]) == {"no value: no record"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: units(("P99",)), "no planted case 'P99'. Did you mean"),
        (lambda: calibrate(seeds=0), "needs at least one seed and 200 rows"),
        (lambda: calibrate(sizes=(50,)), "needs at least one seed and 200 rows"),
        (lambda: noise_study.noise_study(0), "at least one seed"),
        (lambda: calibrate(("P12",), seeds=1), "nothing of P12 is measured yet"),
    ],
)
def test_a_mistake_is_one_sentence(call, message):
    with pytest.raises(BadInput, match=message):
        call()


def test_the_command_prints_rows_and_its_exit_code_is_the_verdict(tmp_path):
    asked = ["calibrate", "--only", "P10", "--seeds", "2", "--n", "2000", "--runs", str(tmp_path), "--json"]
    done = CliRunner().invoke(app, asked)
    told = json.loads(done.stdout)
    assert done.exit_code == (0 if all(row["passed"] for row in told["rows"]) else 1)
    assert {"case", "metric", "level", "truth", "estimate", "low", "high", "coverage", "bias", "naive_method",
            "naive_value", "naive_error", "passed"} <= set(told["rows"][0])  # fmt: skip
    assert (tmp_path / "calibration").is_dir()
    table = CliRunner().invoke(app, asked[:-1])
    assert "accepted" in table.stdout


def necessity_of_1(low):
    """Ten seeds of P8's necessity by the mean, each .003 above `low`."""
    asked = [unit for unit in units(("P8",), seeds=10, sizes=(20_000,)) if unit.tier == 2]
    told = {unit.id: [record_of("replace", "necessity:mean", low + 0.003, low, low + 0.006)] for unit in asked}
    rows = judge(asked, told)
    return rows[rows["arm"] == "necessity:mean"].iloc[0]


def record_of(metric, arm, value, low, high):
    return Record(
        behaviour="answer", fit_domain=SEEN, test_domain=SEEN, metric=metric, arm=arm, level="directions",
        source="features", k=1, position="a", value=value, low=low, high=high,
    )  # fmt: skip


def test_a_necessity_of_1_is_judged_as_a_loss_of_0_is():
    """An interval that lies just below 1, as that of a loss lies just above 0, is right; one that is far is not."""
    near, far = necessity_of_1(0.990), necessity_of_1(0.97)
    assert near["passed"] and near["kind"] == "one" and near["coverage"] == 0
    assert not far["passed"] and far["why"] == "lower limit within 0.02 in 0%"


def test_what_the_mean_of_some_rows_costs_falls_as_one_over_their_number():
    """So that P8's necessity by the mean is below 1 at any number of rows, and 1 with the plant's own mean."""
    network = CASES["P8"].network(1)
    basis, mean = network.keeps["a"][SITE], network.site.mean(0)
    length = float(np.abs(network.site @ basis).mean())

    def lost(off):
        moved = mean + off * length * basis[:, 0]
        law = network.run(network.site + (moved - network.site) @ basis @ basis.T)
        p, q = (np.stack([1 - one, one], 1) for one in (network.law, law))
        return float(kl_bits(p, q).mean())

    assert lost(0) < 1e-9
    at = [lost(1 / np.sqrt(n)) for n in (2_000, 8_000, 32_000)]
    assert at[0] > 0 and at[0] / at[1] == pytest.approx(4, rel=0.2) and at[1] / at[2] == pytest.approx(4, rel=0.2)
