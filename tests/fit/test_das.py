"""Alignment search: planted subspaces are found where simple directions fail, beside pyvene and TransformerLens."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch.nn.functional import one_hot

from probekit.errors import BadInput
from probekit.fit.das import Das, fit_das, interchanged_laws
from probekit.testbeds.ground_truth.circuits import SITE, dormant

N = 1200
PARTS = {"select": torch.arange(N // 2, 3 * N // 4), "test": torch.arange(3 * N // 4, N)}


def rotation(d: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(seed)))[0]


def signs(n: int, m: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 2, (n, m), generator=torch.Generator().manual_seed(seed)).float() * 2 - 1


def angle(basis: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest principal angle in degrees, by SciPy."""
    return float(np.rad2deg(subspace_angles(basis.double().numpy(), truth.double().numpy()).max()))


class ExclusiveOr:
    """Two signs along two axes of twelve, noise along the others; the network answers with their product."""

    def __init__(self, seed: int, d: int = 12):
        self.axes = rotation(d, seed)
        noise = torch.Generator().manual_seed(seed + 1)
        self.signs = [signs(N, 2, seed + part) for part in (2, 3)]
        self.base, self.source = (
            torch.cat([s, torch.randn(N, d - 2, generator=noise)], 1) @ self.axes.T for s in self.signs
        )
        product = self.signs[1][:, 0] * self.signs[0][:, 1]  # with the first sign of the source
        self.wanted = one_hot((product > 0).long(), 2).float()

    def run(self, h: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        value = 4 * (h @ self.axes[:, :2]).clamp(-1, 1).prod(1)  # a swap that overshoots earns nothing
        return torch.stack([-value, value], 1)

    def fit(self, **asked) -> Das:
        return fit_das(self.run, self.base, self.source, self.wanted, **PARTS, **{"k": 1, "steps": 300} | asked)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_sign_of_an_exclusive_or_is_found_that_no_mean_difference_shows(seed):
    case = ExclusiveOr(10 * seed)
    moved = case.source - case.base
    naive = (moved.T @ (case.wanted - case.wanted.mean(0)))[:, :1]
    found = case.fit(seed=seed)
    assert angle(naive, case.axes[:, :1]) > 45
    assert angle(found.basis, case.axes[:, :1]) < 3
    assert found.test_loss is not None and found.test_loss < 0.02
    assert abs(found.overfit or 0) < 0.01


def test_a_search_that_finds_nothing_is_over_before_its_last_step_and_one_that_finds_is_as_good():
    """Shuffled answers are given up; the true ones are found as with all the patience in the world."""
    case, calls = ExclusiveOr(20), []

    def counted(h, rows):
        calls.append(h.requires_grad)
        return case.run(h, rows)

    def search(wanted, patience):
        calls.clear()
        found = fit_das(counted, case.base, case.source, wanted, **PARTS, k=1, steps=300, seed=2, patience=patience)
        return found, sum(calls)

    long, steps = search(case.wanted, 100)
    short, fewer = search(case.wanted, 3)
    assert steps == 300 and fewer <= 300 and short.test_loss == pytest.approx(long.test_loss, abs=0.01)
    shuffled = case.wanted[torch.randperm(N, generator=torch.Generator().manual_seed(1))]
    _, given_up = search(shuffled, 3)
    assert given_up <= 160


def test_a_plane_is_found_as_a_plane():
    """Both signs are wanted from the source: the subspace is told, its axes are not."""
    case = ExclusiveOr(5)
    case.wanted = one_hot((case.signs[1].prod(1) > 0).long(), 2).float()
    found = case.fit(k=2)
    assert found.basis.T @ found.basis == pytest.approx(torch.eye(2), abs=1e-5)
    assert angle(found.basis, case.axes[:, :2]) < 5
    line = case.fit(k=1)
    assert line.test_loss is not None and found.test_loss is not None and line.test_loss > found.test_loss + 0.2


def test_one_dimension_finds_the_illusion():
    """P5: of all directions the one that moves the answer most, half of which is dormant, in closed form.

    Swapping v changes what is read by (v . written) (v . used), which is largest halfway between the two.
    """
    network = dormant(3)
    (layer,) = network.layers
    read, bias, write, out = (
        torch.from_numpy(part).float() for part in (layer.read, layer.bias, layer.write, network.out)
    )
    states = torch.from_numpy(network.site).float()
    at = torch.randint(0, len(states), (2, N), generator=torch.Generator().manual_seed(0))
    law = torch.from_numpy(network.law)
    wanted = one_hot((law[at[1]] > 0.5).long(), 2).float()

    def run(h, rows):
        value = 0.3 * (h + torch.relu(h @ read + bias) @ write) @ out  # soft, so that more effect earns more
        return torch.stack([torch.zeros_like(value), value], 1)

    found = fit_das(run, states[at[0]], states[at[1]], wanted, **PARTS, k=1)
    c, r, d = (torch.from_numpy(network.keeps[name][SITE][:, 0]).float() for name in ("e_c", "e_r", "e_d"))
    written, used = c + r, c + 2 * d + out / out.norm()  # the answer is read from the stream, too
    ideal = written / written.norm() + used / used.norm()
    assert angle(found.basis, ideal[:, None]) < 5
    assert abs(float(found.basis[:, 0] @ d)) > 0.4
    laws = interchanged_laws(run, found.basis, states[at[0]], states[at[1]], PARTS["test"])
    assert (laws.argmax(1) == wanted[PARTS["test"]].argmax(1)).all()


def test_pyvene_makes_the_same_logits_of_the_same_rotation():
    pyvene = pytest.importorskip("pyvene")
    case = ExclusiveOr(7)
    found = case.fit(k=3, steps=5)
    theirs = pyvene.LowRankRotatedSpaceIntervention(embed_dim=12, low_rank_dimension=3)
    theirs.rotate_layer.weight = found.basis
    rows = torch.arange(N)
    with torch.no_grad():
        expected = case.run(theirs(case.base, case.source), rows).softmax(1)
    assert interchanged_laws(case.run, found.basis, case.base, case.source, rows) == pytest.approx(expected, abs=1e-5)


def small_model(seed: int):
    """A hooked model of one hidden layer; half of what it is given is the source's, and that is to be swapped."""
    from transformer_lens import HookedRootModule
    from transformer_lens.hook_points import HookPoint

    class Small(HookedRootModule):
        def __init__(self):
            super().__init__()
            g = torch.Generator().manual_seed(seed)
            self.inner, self.outer = (torch.nn.Parameter(torch.randn(*s, generator=g)) for s in ((16, 12), (12, 3)))
            self.hook_h = HookPoint()
            self.setup()

        def after(self, h):
            return torch.tanh(h) @ self.outer

        def forward(self, x):
            return self.after(self.hook_h(x @ self.inner / 4))

    model = Small().eval()
    x = torch.randn(2, 2 * N, 16, generator=torch.Generator().manual_seed(seed + 1))
    with torch.no_grad():
        wanted = model(torch.cat([x[1][:, :8], x[0][:, 8:]], 1)).argmax(1)
        base, source = (part @ model.inner / 4 for part in x)
    return model, x, base, source, wanted


def test_transformer_lens_finds_nothing_better():
    """Its search on the same pairs of the same small models, held out from both, each with what it takes by default."""
    from transformer_lens.tools.analysis.interchange import fit_das as peer

    fit, select, test = torch.arange(N), torch.arange(N, 3 * N // 2), torch.arange(3 * N // 2, 2 * N)
    ours, theirs = [], []
    for seed in range(3):
        model, x, base, source, wanted = small_model(10 * seed)
        law = one_hot(wanted, 3).float()
        found = fit_das(lambda h, rows, m=model: m.after(h), base, source, law, select=select, test=test, k=4)
        learned = peer(model, "hook_h", x[0][fit], x[1][fit], wanted[fit], model, rank=4, epochs=60)
        with torch.no_grad():
            basis = learned.subspace.basis
            told = interchanged_laws(lambda h, rows, m=model: m.after(h), basis, base, source, test)
        ours.append(found.test_loss)
        theirs.append(float(-told.gather(1, wanted[test, None]).log2().mean()))
    assert np.mean(ours) <= np.mean(theirs) + 0.005, (ours, theirs)


def test_the_same_seed_gives_the_same_subspace_and_no_global_state_is_used():
    case = ExclusiveOr(1)
    torch.manual_seed(1)
    first = case.fit(seed=3, steps=40)
    torch.manual_seed(2)
    again, other = case.fit(seed=3, steps=40), case.fit(seed=4, steps=40)
    assert torch.equal(first.basis, again.basis) and first.starts == again.starts
    assert not torch.equal(first.basis, other.basis)


def test_activations_of_inference_mode_and_half_precision_are_taken():
    case = ExclusiveOr(2)
    with torch.inference_mode():
        case.base, case.source, case.wanted = (part.clone() for part in (case.base, case.source, case.wanted))
        found = case.fit()
    assert angle(found.basis, case.axes[:, :1]) < 3
    case.base, case.source, case.axes = (part.clone().bfloat16() for part in (case.base, case.source, case.axes))
    half = case.fit()
    assert half.basis.dtype == torch.float32
    assert angle(half.basis, case.axes[:, :1].float()) < 5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_accelerator_finds_the_same():
    case = ExclusiveOr(6)
    expected = case.fit()
    case.base, case.source, case.wanted, case.axes = (
        part.cuda() for part in (case.base, case.source, case.wanted, case.axes)
    )
    found = case.fit()
    assert found.basis.device.type == "cuda"
    assert angle(found.basis.cpu(), expected.basis) < 1


def test_a_subspace_of_pure_chance_shows_by_held_out_pairs():
    g = torch.Generator().manual_seed(0)
    n, d = 90, 40
    base, source = torch.randn(2, n, d, generator=g)
    readout = torch.randn(d, 2, generator=g)
    wanted = one_hot(torch.randint(0, 2, (n,), generator=g), 2).float()
    parts = {"select": torch.arange(30, 60), "test": torch.arange(60, 90)}
    loose = fit_das(lambda h, rows: h @ readout / 4, base, source, wanted, k=10, **parts)
    assert loose.overfit is not None and loose.overfit > 0.1
    # What is kept is the best on select pairs, not the last: longer fits are not worse there.
    short = fit_das(lambda h, rows: h @ readout / 4, base, source, wanted, k=10, steps=20, **parts)
    assert loose.select_loss <= min(loose.starts) + 1e-6 and short.n_steps <= 20


def test_the_whole_site_has_nothing_to_be_turned():
    case = ExclusiveOr(3)
    found = case.fit(k=12, steps=30)
    rows = torch.arange(N)
    assert interchanged_laws(case.run, found.basis, case.base, case.source, rows) == pytest.approx(
        case.run(case.source, rows).softmax(1), abs=1e-4
    )


def test_the_runner_is_told_which_pairs_it_runs():
    """Its own state may differ between pairs: here the sign of the answer does."""
    case = ExclusiveOr(4)
    turned = signs(N, 1, 9)
    case.wanted = torch.where(turned > 0, case.wanted, case.wanted.flip(1))
    plain = case.run
    case.run = lambda h, rows: turned[rows] * plain(h, rows)
    assert angle(case.fit().basis, case.axes[:, :1]) < 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 0}, "rank 0 .* in 12 coordinates: give a rank from 1 to 12"),
        ({"k": 13}, "rank 13"),
        ({"select": torch.arange(0)}, "select and test are different pairs"),
        ({"test": PARTS["select"][:3]}, "give each once"),
        ({"select": torch.arange(N // 2), "test": torch.arange(N // 2, N)}, "leave some to fit"),
        ({"steps": 0}, "at least 1; found 0"),
    ],
)
def test_what_cannot_be_fitted_is_said(change, said):
    case = ExclusiveOr(0)
    with pytest.raises(BadInput, match=said):
        fit_das(case.run, case.base, case.source, case.wanted, **PARTS | {"k": 1} | change)


def test_values_that_are_not_finite_are_said():
    case = ExclusiveOr(0)
    case.base[0, 0] = torch.nan
    with pytest.raises(BadInput, match="finite"):
        case.fit()
