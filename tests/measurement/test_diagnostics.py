"""Beside a reader's loss: chance, the limit of many rows, code length, memorised types, calibration, folds."""

import numpy as np
import pandas as pd
import pytest
import torch

import probekit as pk
from probekit.errors import BadInput
from probekit.fit.path import LAMBDAS
from probekit.fit.platt import fit_platt
from probekit.fit.readers import Side, Site, fit_level
from probekit.fit.readout import cross_entropy
from probekit.inputs.arrays import as_activations
from probekit.levels import Level
from probekit.measurement.cell import Measurement
from probekit.measurement.diagnostics import permuted_gains
from probekit.measurement.setting import Setting, effective_fit_rows
from probekit.measurement.study import Study
from probekit.metrics.permutations import permutation_plan
from probekit.spec import ReadSpec

QUICK = {
    "controls": (), "decomposition": False, "floors": ("strong",), "n_bootstrap": 200, "n_permutations": 0,
    "extrapolate": False, "outer_folds": 1, "inner_folds": 1,
}  # fmt: skip


def one(frame: pd.DataFrame, **where) -> pd.Series:
    """The single record with these coordinates; of metric `read` where none is named."""
    for name, value in ({"metric": "read"} | where).items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1, f"{len(frame)} records"
    return frame.iloc[0]


def setting_of(x: np.ndarray, behaviour: np.ndarray, groups: np.ndarray | None = None, floor=None) -> Setting:
    """The one setting of a behaviour on rows of one domain."""
    _, observations = as_activations(x, behaviour, floor, groups, None, None)
    (name,) = observations.behaviours
    study = Study(observations, ReadSpec(floors=("strong",), outer_folds=1, inner_folds=1))
    return study.setting(name, study.home)


def signs(n: int, bits: int, seed: int, d: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `bits` balanced signs along random directions, the other coordinates noise."""
    rng = np.random.default_rng(seed)
    s = 2 * (rng.permutation(np.arange(n) % 2**bits)[:, None] >> np.arange(bits) & 1) - 1
    h = np.concatenate([s, rng.normal(size=(n, d - bits))], 1)
    return h @ np.linalg.qr(rng.normal(size=(d, d)))[0], s


def prepared(setting: Setting, x: torch.Tensor) -> Site:
    return Site.prepare([setting.training(x)], 0, LAMBDAS, setting.inner)[0]


@pytest.mark.parametrize("level", ["direction", "directions", "simple:two_thresholds", "linear", "nonlinear"])
def test_permuted_gains_are_those_of_the_reader_on_permuted_activations(level):
    rng = np.random.default_rng(0)
    h, s = signs(600, 2, 0)
    label = np.where(rng.random(600) < 0.2, rng.integers(0, 3, 600), (s > 0).sum(1))
    x = torch.from_numpy(h).float()
    setting = setting_of(h, label, np.arange(600) // 6, floor=s[:, :1] + rng.normal(size=(600, 1)))
    side = setting.side(x, "test")
    plan = permutation_plan(setting.group[setting.split.test], 12, 0, False)
    assert (plan != np.arange(len(side.x))).any(1).all()
    moved = 0.0
    for reader in fit_level(prepared(setting, x), Level.parse(level), (2,)):
        found = permuted_gains(reader, side, plan)
        rows = [torch.arange(len(side.x)), *torch.from_numpy(plan)]
        brute = [-float(reader.bits(Side(side.x[at], side.law, side.offset)).sum()) for at in rows]
        assert found == pytest.approx(brute, rel=1e-5)
        moved = max(moved, np.ptp(brute))
    assert moved > 1, "no reader depends on its activations, so nothing was compared"


def sites_of(seed: int, n_noise: int, planted: bool, n: int = 400) -> tuple[dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng([seed, 40])
    label = rng.integers(0, 2, n)
    sites = {f"blocks.{i}.hook_resid_post": rng.normal(size=(n, 4)) for i in range(n_noise)}
    if planted:
        x = rng.normal(size=(n, 4))
        x[:, 1] += 1.5 * (2 * label - 1)
        sites[f"blocks.{n_noise}.hook_resid_post"] = x
    return sites, label


def test_p_max_of_noise_is_small_no_oftener_than_it_says():
    """Twelve runs of six sites: the least of the six p-values is below .05 in at most two of them."""
    hits = 0
    for seed in range(12):
        sites, label = sites_of(seed, 6, planted=False)
        frame = pk.measure(sites, behaviour=label, levels=("linear",), **QUICK | {"n_permutations": 99})
        p = frame.loc[frame["metric"] == "read", "p_max"]
        assert len(p) == 6 and p.notna().all()
        hits += p.min() <= 0.05
    assert hits <= 2


def test_p_max_and_selection_find_the_one_planted_site_among_six_of_noise():
    sites, label = sites_of(1, 6, planted=True)
    frame = pk.measure(sites, behaviour=label, levels=("linear",), **QUICK | {"n_permutations": 199})
    p = frame[frame["metric"] == "read"].set_index("layer")["p_max"]
    assert p[6] == pytest.approx(1 / 200)
    assert (p.drop(6) > 0.05).all()
    chosen = one(frame, metric="selected", level="linear")
    assert chosen.hook == "blocks.6.hook_resid_post"
    assert chosen.value == pytest.approx(one(frame, hook=chosen.hook).value)
    band = frame[frame["metric"] == "read"]
    assert ((band["band_low"] <= band["value"]) & (band["value"] <= band["band_high"])).all()
    assert (band["band_high"] - band["band_low"] >= band["high"] - band["low"] - 0.02).all()


def test_p_max_is_missing_where_no_whole_groups_can_be_exchanged():
    """A behaviour that is constant in groups of different sizes: no permutation is allowed, and the rest stands."""
    size = np.arange(4, 44)
    group = np.repeat(np.arange(40), size)
    label = np.random.default_rng(2).permutation(np.arange(40) % 2)[group]
    x = np.random.default_rng(3).normal(size=(len(group), 3)) + 2 * label[:, None]
    frame = pk.measure(x, behaviour=label, groups=group, levels=("direction",), **QUICK | {"n_permutations": 99})
    read = frame[frame["metric"] == "read"]
    assert read["value"].notna().all() and read["p_max"].isna().all()
    assert read["band_low"].notna().all()


@pytest.mark.parametrize("plant", ["sealed", "xor"])
def test_outer_and_inner_folds_test_every_row_once_and_find_the_truth(plant):
    """P1 and P2, each of 150 groups tested once by readers that never saw it."""
    x, s = signs(900, 2, 3)
    label = s[:, 0] if plant == "sealed" else s.prod(1)
    group = np.arange(900) // 6
    sites, observations = as_activations(x, label, None, group, None, None)
    levels = ("linear", "simple:two_thresholds")
    spec = ReadSpec(
        hooks=tuple(sites), levels=levels, simple_ks=(1,), outer_folds=3, inner_folds=2, controls=(),
        decomposition=False, floors=("strong",), n_permutations=0, extrapolate=False,
    )  # fmt: skip
    measurement = Measurement(observations, spec, n_bootstrap=200)
    (name,) = observations.behaviours
    settings = measurement.pool(name, measurement.domains[0]).settings
    assert sorted(np.concatenate([setting.rows("test") for setting in settings])) == list(range(900))
    for setting in settings:
        sides = [set(setting.group[getattr(setting.split, w)]) for w in ("fit", "select", "calibrate", "test")]
        assert sum(map(len, sides)) == len(set().union(*sides)) == 150
        assert len(setting.split.inner) == 2
    frame = pd.DataFrame([r.row() for r in measurement.read_cell("", name, torch.from_numpy(x).float(), None).records])
    linear, simple = (one(frame, level=level) for level in levels)
    assert (linear["n"], linear["groups"]) == (900, 150)
    assert linear.value == pytest.approx(0 if plant == "sealed" else 1, abs=0.03)
    assert simple.value == pytest.approx(0, abs=0.05)


def test_a_row_split_reads_types_that_whole_groups_show_to_be_absent():
    """P10: a random label per type, 40 types in 48 coordinates."""
    rng = np.random.default_rng(10)
    kind = np.repeat(np.arange(40), 60)
    label = rng.permutation(np.arange(40) % 2)[kind]
    x = rng.normal(size=(40, 48))[kind] + 0.05 * rng.normal(size=(2400, 48))
    frame = pk.measure(x, behaviour=label, groups=kind, levels=("direction",), **QUICK | {"controls": ("row_split",)})
    for source in ("lda", "logistic"):
        grouped, by_row = (one(frame, source=source, control=control).value for control in ("", "row_split"))
        assert grouped > 0.9
        assert by_row < 0.1


@pytest.mark.parametrize("readable", [True, False])
def test_the_control_task_is_explained_where_types_can_be_read(readable):
    rng = np.random.default_rng(6)
    kind = rng.integers(0, 8, 2400)
    label = rng.random(2400) < np.where(kind < 4, 0.9, 0.1)
    x = np.eye(8)[kind] if readable else rng.normal(size=(2400, 8))
    frame = pk.measure(
        x + 0.01 * rng.normal(size=x.shape), behaviour=label, groups=np.arange(2400) // 4, types=kind,
        levels=("linear",), **QUICK | {"controls": ("control_task",)},
    )  # fmt: skip
    control = one(frame, control="control_task")
    assert control.value == pytest.approx(0 if readable else 1, abs=0.05)
    assert control.floor_bits > 0.5


def test_extrapolation_is_nearer_to_the_truth_than_twenty_rows_per_coordinate():
    """y ~ Bernoulli(sigmoid(w h)), d 16: the oracle's bits on the same test rows, mean of ten samples."""
    raw, limit = [], []
    for seed in range(10):
        rng = np.random.default_rng([seed, 41])
        h = rng.normal(size=(640, 16))
        p = 1 / (1 + np.exp(-2 * h @ np.linalg.qr(rng.normal(size=(16, 16)))[0][0]))
        label = rng.random(640) < p
        sites, observations = as_activations(h, label, None, None, None, None)
        spec = ReadSpec(hooks=tuple(sites), levels=("linear",), controls=(), decomposition=False, floors=("strong",),
                        n_permutations=0, lambdas=(1e-4,), outer_folds=1, inner_folds=1)  # fmt: skip
        measurement = Measurement(observations, spec, n_bootstrap=200)
        (name,) = observations.behaviours
        records = measurement.read_cell("", name, torch.from_numpy(h).float(), None).records
        at = measurement.setting(name, measurement.domains[0]).rows("test")
        found = {r.metric: r for r in records}
        truth = -np.log2(np.where(label, p, 1 - p)[at]).mean() / found["read"].floor_bits
        raw.append(found["read"].value - truth)
        limit.append(found["extrapolated"].value - truth)
    assert np.mean(raw) > 0.02, "at twenty rows per coordinate a reader is biased upwards"
    assert abs(np.mean(limit)) < 0.6 * np.mean(raw)


@pytest.mark.parametrize("plant", ["sealed", "absent"])
def test_online_code_is_short_for_what_is_there_alone(plant):
    x, s = signs(4000, 1, 7, d=4)
    label = s[:, 0] if plant == "sealed" else np.random.default_rng(8).integers(0, 2, 4000)
    frame = pk.measure(x, behaviour=label, levels=("linear",), **QUICK | {"online_orders": 2})
    code = one(frame, metric="code_length", level="linear")
    if plant == "sealed":
        assert code.value < 0.1
    else:
        assert code.value == pytest.approx(1, abs=0.05)
    assert code["n"] == 3000 and "2 orders" in code.note


def test_calibration_on_rows_of_its_own_repairs_a_mean_difference_fitted_on_few():
    """Fitted on 8 rows per coordinate, the direction separates its own rows better than any others.

    With one weak ridge: a path of them, chosen on the selection rows, repairs a single scale as well.
    """
    gained, best = [], []
    for seed in range(6):
        rng = np.random.default_rng([seed, 42])
        label = rng.integers(0, 2, 5200)
        h = rng.normal(size=(5200, 64))
        h[:, 0] += 0.6 * (2 * label - 1)
        law = torch.from_numpy(np.eye(2, dtype=np.float32)[label].T[:, None])
        parts = np.split(np.arange(5200), [512, 800, 1200])
        sides = [Side(torch.from_numpy(h[at]).float(), law[..., at], torch.zeros(2, 1, len(at))) for at in parts]
        fit, select, calibrate, test = sides
        bits = {}
        for name, rows in (("bare", None), ("platt", calibrate)):
            site = Site.prepare([(fit, select, rows)], 0, (1e-4,))[0]
            reader = next(r for r in fit_level(site, Level("direction"), ()) if r.source == "mean_difference")
            logits = reader.logits(test.x, test.offset)
            bits[name] = float(cross_entropy(logits, law[..., parts[3]]).mean())
            if name == "bare":
                best.append(float(fit_platt(logits, test.law)[0, 0].exp()))
        gained.append(bits["bare"] - bits["platt"])
    assert np.mean(best) < 0.85, "overconfident: the best temperature of its logits is below one"
    assert np.mean(gained) > 0.008
    assert min(gained) > -0.003, "kept only where the selection rows gain"


@pytest.mark.parametrize("gap", [0.0, 0.1, 3.0, 30.0])
def test_calibration_converges_on_noise_and_on_what_is_certain(gap):
    """Forty rows each: where little is left of the logits a Gauss-Newton step overshoots and comes back for ever."""
    for seed in range(30):
        rng = np.random.default_rng([seed, 43])
        label = rng.integers(0, 2, 40)
        score = rng.normal(size=40) * rng.choice([0.1, 0.3, 3.0]) + gap * (2 * label - 1)
        logits = torch.from_numpy(np.stack([-score, score]))[:, None]
        law = torch.from_numpy(np.eye(2)[label].T[:, None])
        theta = fit_platt(logits, law)[0].double().requires_grad_()
        fitted = theta[0].exp() * (logits - logits.mean(0))[:, 0] + theta[1:, None]
        loss = -(law[:, 0] * torch.log_softmax(fitted, 0)).sum() + (theta**2).sum() / 2
        (gradient,) = torch.autograd.grad(loss, theta)
        assert float(gradient.abs().max()) < 1e-3


def test_calibration_converges_where_a_law_sums_to_one_but_for_rounding():
    """Laws of a behaviour that hardly ever happens, in single precision, with `rest`: off 1 by about 1e-6."""
    for seed in range(20):
        rng = np.random.default_rng([seed, 44])
        law = rng.dirichlet([0.01, 0.01, 30], 50) * (1 - 1.5e-6 * rng.random((50, 1)))
        logits = np.array([0.0, 0, 20]) + rng.normal(size=(50, 3))
        given = [torch.from_numpy(a.astype(np.float32).T[:, None]) for a in (logits, law)]
        exact = given[1].double() / given[1].double().sum(0)
        assert torch.allclose(fit_platt(*given), fit_platt(given[0].double(), exact), atol=1e-3)


def test_effective_rows_are_the_groups_where_label_and_activation_are_constant_in_them():
    rng = np.random.default_rng(9)
    group = np.repeat(np.arange(200), 10)
    label = rng.permutation(np.arange(200) % 2)[group]
    within = {"constant": rng.normal(size=(200, 4))[group], "free": rng.normal(size=(2000, 4))}
    found = {}
    for name, h in within.items():
        setting = setting_of(h, label, group)
        x = torch.from_numpy(h).float()
        found[name] = effective_fit_rows(setting, prepared(setting, x))
        n_fit, n_groups = len(setting.split.fit), len(np.unique(setting.group[setting.split.fit]))
    assert found["constant"] == pytest.approx(n_groups, rel=0.02)
    assert 0.85 * n_fit < found["free"] <= n_fit
    alone = setting_of(within["free"], label)
    assert effective_fit_rows(alone, prepared(alone, x)) == len(alone.split.fit)


def test_contrast_pairs_are_worth_their_rows_and_copies_are_not():
    """600 texts ten times over are 600; a true and a false text of each of 600 things are 1,200, alike as they are."""
    rng = np.random.default_rng(10)
    text, label = rng.normal(size=(600, 4)), rng.permutation(np.arange(600) % 2)
    found = {}
    for name, times, shown in (("copies", 10, np.repeat(label, 10)), ("pairs", 2, np.tile([0, 1], 600))):
        group = np.repeat(np.arange(600), times)
        h = text[group] + (0 if name == "copies" else 0.3 * rng.normal(size=(1200, 4)))
        setting = setting_of(h, shown, group)
        found[name] = effective_fit_rows(setting, prepared(setting, torch.from_numpy(h).float()))
        n_fit, n_groups = len(setting.split.fit), len(np.unique(group[setting.rows("fit")]))
        assert found[name] == pytest.approx(n_groups if name == "copies" else n_fit, rel=0.02)


@pytest.mark.parametrize(
    ("types", "message"),
    [
        (np.arange(3), r"types has shape \(3,\)"),
        (np.zeros((300, 2)), r"types has shape \(300, 2\)"),
    ],
)
def test_types_of_another_shape_are_refused_in_a_sentence(types, message):
    x, s = signs(300, 1, 1)
    with pytest.raises(BadInput, match=message) as caught:
        pk.measure(x, behaviour=s[:, 0], types=types, levels=("linear",), **QUICK)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
