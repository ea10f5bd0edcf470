"""Moved readers: as many rows on both sides, few labels of many outcomes, and which mean difference an AUROC is of."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import probekit as pk
from probekit.fit.platt import fit_platt
from probekit.fit.readout import calibrate
from probekit.inputs.arrays import as_activations
from probekit.measurement.cell import Measurement
from probekit.spec import ReadSpec

QUICK = {"controls": (), "decomposition": False, "floors": ("strong",), "n_bootstrap": 200, "n_permutations": 0,
         "extrapolate": False, "falls": False}  # fmt: skip


def two_domains(seed, sizes, d):
    """One faint direction, the same in both domains, which have their own numbers of rows."""
    rng = np.random.default_rng(seed)
    label = np.concatenate([rng.permutation(np.arange(n) % 2) for n in sizes])
    along = rng.normal(size=d)
    x = rng.normal(size=(sum(sizes), d)) + np.outer(2 * label - 1, along / np.linalg.norm(along))
    return x, label, np.repeat(["many", "few"], sizes)


def test_a_domain_of_few_rows_does_not_make_what_carries_over_look_better_than_at_home():
    """T is 0. From readers as they are it was -.29 in the mean, the interval below 0 in more than half of the seeds."""
    found = {"many": [], "few": []}
    for seed in range(6):
        x, label, domain = two_domains(seed, (1200, 300), 64)
        frame = pk.measure(
            x, behaviour=label, domains=domain, levels=("linear",), seed_data=seed, outer_folds=3, **QUICK
        )
        moved = frame[(frame["metric"] == "transfer") & (frame["arm"] == "refit")].set_index("fit_domain")
        for name, values in found.items():
            if np.isfinite(moved.loc[name, "value"]):
                values.append(moved.loc[name, ["value", "low", "high"]].to_numpy(dtype=float))
            assert "fitted on as many rows" in moved.loc[name, "note"]
    assert all(len(values) >= 5 for values in found.values())
    for values in found.values():
        value, low, high = np.array(values).T
        assert value.mean() == pytest.approx(0, abs=0.12)
        assert ((low <= 0) & (high >= 0)).mean() > 0.75


def test_domains_of_many_rows_keep_all_of_them():
    x, label, domain = two_domains(0, (1600, 600), 4)
    frame = pk.measure(x, behaviour=label, domains=domain, levels=("linear",), **QUICK)
    moved = frame[frame["metric"] == "transfer"]
    assert len(moved) == 6 and not moved["note"].str.contains("as many rows").any()


def excess(n_outcomes, n, moved=0.0, seeds=10):
    """Share of what logits explain that a calibration on n labels loses; moved: of their intercepts beforehand."""
    lost = []
    for seed in range(seeds):
        rng = np.random.default_rng([seed, n_outcomes])
        logits = rng.normal(size=(n_outcomes, n + 4000))
        chance = torch.softmax(torch.from_numpy(logits), 0).numpy()
        label = (rng.random(n + 4000) > chance.cumsum(0)[:-1]).sum(0)
        law = torch.from_numpy(np.eye(n_outcomes, dtype=np.float32)[label].T[:, None])
        given = logits + moved * rng.normal(size=(n_outcomes, 1))
        given = torch.from_numpy(given[:, None].astype(np.float32))
        theta = fit_platt(given[..., :n], law[..., :n])
        bits = [float(-(law * torch.log_softmax(one, 0))[..., n:].sum(0).mean()) / np.log(2)
                for one in (calibrate(given, theta), torch.from_numpy(logits[:, None]))]  # fmt: skip
        lost.append((bits[0] - bits[1]) / (np.log2(n_outcomes) - bits[1]))
    return np.mean(lost)


@pytest.mark.parametrize(("n_outcomes", "most"), [(2, 0.2), (5, 0.16), (20, 0.08), (40, 0.06)])
def test_fifty_labels_cost_no_more_the_more_outcomes_there_are(n_outcomes, most):
    """0 is true. Under one prior for any number of outcomes it was .16, .24 and .28 with 5, 20 and 40 of them."""
    assert 0 <= excess(n_outcomes, 50) < most


def test_many_labels_repair_the_base_rates_of_many_outcomes():
    assert excess(40, 4000, moved=1.0, seeds=3) < 0.1


def test_an_auroc_says_which_mean_difference_it_is_of():
    """The floor knows the label of half of the rows, whose plant lies elsewhere: E[h (p - floor)] looks past them."""
    rng = np.random.default_rng(4)
    n = 2000
    label, known = rng.integers(0, 2, n), rng.integers(0, 2, n)
    x = rng.normal(size=(n, 6))
    x[np.arange(n), 1 - known] += 1.5 * (2 * label - 1)
    told = np.where(known, 2 * label - 1, 0)[:, None]
    frame = pk.measure(x, behaviour=label, floor=told, levels=("direction",), outer_folds=1, inner_folds=1, **QUICK)
    found = frame[frame["metric"] == "auroc"].set_index("source")
    assert sorted(found.index) == ["class_means", "mean_difference"]
    observations = as_activations(x, label, told, None, None, None)[1]
    split = Measurement(observations, ReadSpec(outer_folds=1, inner_folds=1)).splits("all")[0]
    x, fit, test = x.astype(np.float32), split.fit, split.test
    means = x[fit][label[fit] == 1].mean(0) - x[fit][label[fit] == 0].mean(0)
    judged = 2 * (1 - roc_auc_score(label[test], x[test] @ means))
    assert found.loc["class_means", "value"] == pytest.approx(judged, abs=1e-3)
    assert abs(found.loc["mean_difference", "value"] - judged) > 0.05
    assert found.loc["class_means", "note"].startswith("along the difference of class means")
    assert found.loc["mean_difference", "note"].startswith("along E[h (p - floor)]")


def test_class_means_that_are_one_rank_nothing():
    """A site that says the same at every row has no direction, which is .5 and no error."""
    label = np.arange(400) % 2
    frame = pk.measure(np.ones((400, 3)), behaviour=label, levels=("direction",), outer_folds=1, inner_folds=1, **QUICK)
    found = frame[(frame["metric"] == "auroc") & (frame["source"] == "class_means")]
    assert found["value"].tolist() == [1.0]


def test_a_direction_that_turns_round_ranks_backwards_elsewhere_and_well_where_it_was_fitted():
    """As truth under negation may: each domain's own direction ranks its rows, the other's ranks them the wrong way."""
    rng = np.random.default_rng(7)
    label, domain = rng.integers(0, 2, 1200), np.repeat(["plain", "negated"], 600)
    x = rng.normal(size=(1200, 5))
    x[:, 0] += 1.5 * (2 * label - 1) * np.where(domain == "plain", 1, -1)
    frame = pk.measure(x, behaviour=label, domains=domain, levels=("direction",), transfer=("direction",),
                       outer_folds=1, inner_folds=1, **QUICK)  # fmt: skip
    found = frame[(frame["metric"] == "auroc") & (frame["source"] == "class_means")]
    area = 1 - found.set_index(["fit_domain", "test_domain"])["value"] / 2
    assert not area.index.duplicated().any() and len(area) == 4
    for one, other in (("plain", "negated"), ("negated", "plain")):
        assert area[one, one] > 0.95
        assert area[one, other] < 0.05
