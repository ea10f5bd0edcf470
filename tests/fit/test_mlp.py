"""The MLP reader: it starts from what it stands on, is never worse on selection, and solves what no line can."""

import numpy as np
import pytest
import torch

from probekit.errors import BadInput
from probekit.fit import mlp as module
from probekit.fit.mlp import fit_mlp, fit_mlps
from probekit.fit.path import fit_path
from probekit.fit.readout import Rows, cross_entropy


def one_hot(label, k: int = 2) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.as_tensor(label), k).T[:, None].float().contiguous()


def parity(bits: int, n: int, seed: int, d: int = 8):
    """Rows of a parity in a random rotation, half of the other dimensions noise: (fit, select, test)."""
    rng = np.random.default_rng(seed)
    s = 2 * rng.integers(0, 2, (3 * n, bits)) - 1
    h = np.concatenate([s, rng.normal(size=(3 * n, (d - bits) // 2)), np.zeros((3 * n, d - bits - (d - bits) // 2))], 1)
    z = torch.tensor(h @ np.linalg.qr(rng.normal(size=(d, d)))[0], dtype=torch.float32)
    law = one_hot((s.prod(1) > 0).astype(int))
    return [Rows(z[i * n : (i + 1) * n], law[..., i * n : (i + 1) * n]) for i in range(3)]


@pytest.mark.parametrize("bits", [2, 3])
def test_solves_xor_and_parity(bits):
    fit, select, test = parity(bits, 600, bits)
    mlp = fit_mlp(fit, select, seed=0)
    base = torch.zeros_like(test.law)
    assert float(cross_entropy(mlp.logits(test.z, base), test.law).mean()) < 0.05
    assert float(test.bits(fit_path(fit, select)).mean()) > 0.97, "a linear readout sees nothing"


def test_never_worse_than_its_base_on_selection():
    g = torch.Generator().manual_seed(0)
    for seed in range(4):
        z, law = torch.randn(400, 12, generator=g), one_hot(torch.randint(0, 3, (400,), generator=g), 3)
        offset = torch.randn(3, 1, 400, generator=g) * seed / 3
        fit, select = (Rows(z[s], law[..., s], offset[..., s]) for s in (slice(0, 200), slice(200, 400)))
        assert select.offset is not None
        mlp = fit_mlp(fit, select, seed)
        before = float(cross_entropy(select.offset, select.law).mean())
        after = float(cross_entropy(mlp.logits(select.z, select.offset), select.law).mean())
        assert after <= before


def test_epoch_zero_is_the_base_exactly():
    """Selection rows whose labels contradict the fit rows: nothing can help, so nothing is changed."""
    g = torch.Generator().manual_seed(1)
    z = torch.randn(300, 4, generator=g)
    law = one_hot((z[:, 0] > 0).long())
    base = 8 * (law.flip(0) - 0.5)
    fit, select = Rows(z, law, 0 * base), Rows(z, law.flip(0), base)
    mlp = fit_mlp(fit, select, seed=0)
    assert mlp.epochs == 0
    assert torch.equal(mlp.logits(z, base), base)
    assert fit_mlp(fit, Rows(z, law, 0 * base), seed=0).epochs > 0


def test_a_useless_base_is_trusted_less():
    g = torch.Generator().manual_seed(2)
    z = torch.randn(1800, 3, generator=g)
    law = torch.softmax(torch.stack([2 * z[:, 0], 2 * z[:, 1].abs()])[:, None], 0)
    base = 3 * torch.randn(2, 1, 1800, generator=g)
    fit, select = (Rows(z[s], law[..., s], base[..., s]) for s in (slice(0, 1200), slice(1200, 1800)))
    mlp = fit_mlp(fit, select, seed=0)
    assert abs(float(mlp.trust[0])) < 0.6
    assert select.offset is not None
    before, after = (cross_entropy(a, select.law).mean() for a in (select.offset, mlp.logits(select.z, select.offset)))
    assert float(after) < float(before) - 1


def test_same_seed_same_weights():
    fit, select, _ = parity(2, 200, 0)
    first, second, other = (fit_mlp(fit, select, seed=s, width=16) for s in (3, 3, 4))
    assert torch.equal(first.inner, second.inner)
    assert torch.equal(first.outer, second.outer)
    assert not torch.equal(first.inner, other.inner)


def test_directions_that_hold_only_rounding_stay_silent():
    fit, select, test = parity(2, 600, 5)
    dust = [torch.randn(600, 4, generator=torch.Generator().manual_seed(i)) * 1e-7 for i in range(3)]
    rows = [Rows(torch.cat([r.z, d], 1), r.law) for r, d in zip((fit, select, test), dust, strict=True)]
    mlp = fit_mlp(rows[0], rows[1], seed=0)
    base = torch.zeros_like(test.law)
    loud = torch.cat([test.z, 1e-7 * torch.ones(600, 4)], 1)
    assert torch.allclose(mlp.logits(rows[2].z, base), mlp.logits(loud, base), atol=1e-3)
    assert float(cross_entropy(mlp.logits(rows[2].z, base), test.law).mean()) < 0.05


def test_sites_in_one_batch_are_each_alone():
    """Three sites: one that is easy, one of several epochs, one that no epoch helps."""
    sites = [parity(2, 600, 3), parity(3, 600, 4), parity(2, 600, 5)]
    fits, selects = [three[0] for three in sites], [three[1] for three in sites]
    g = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 2, (2, 600), generator=g)
    fits[2], selects[2] = Rows(fits[2].z, one_hot(noise[0])), Rows(selects[2].z, one_hot(noise[1]))
    together = fit_mlps(fits, selects, [7, 8, 9], width=64)
    for i, mlp in enumerate(together):
        alone = fit_mlp(fits[i], selects[i], 7 + i, width=64)
        base = torch.zeros_like(selects[i].law)
        bits = [float(cross_entropy(m.logits(selects[i].z, base), selects[i].law).mean()) for m in (mlp, alone)]
        assert bits[0] == pytest.approx(bits[1], abs=0.02)
        if i < 2:
            assert bits[0] < 0.05
        else:
            assert bits[0] > 0.97
    with pytest.raises(BadInput, match="same shapes"):
        fit_mlps([fits[0], parity(2, 500, 6)[0]], selects[:2], [0, 1])


def test_slopes_and_steps_are_those_of_the_library():
    g = torch.Generator().manual_seed(1)
    rows = [Rows(torch.randn(40, 6, generator=g), one_hot(torch.randint(0, 3, (40,), generator=g), 3),
                 torch.randn(3, 1, 40, generator=g)) for _ in range(2)]  # fmt: skip
    batch = module._Batch.of(rows, torch.zeros(2, 1, 6), torch.ones(2, 1, 6))
    weights = [torch.randn(w.shape, generator=g) for w in module._initial(batch, 5, [g, g])]
    at = torch.stack([torch.randperm(40, generator=g)[:16] for _ in range(2)])
    theirs = [w.clone().requires_grad_() for w in weights]
    groups = [{"params": theirs[:-1], "weight_decay": module.DECAY}, {"params": theirs[-1:], "weight_decay": 0.0}]
    library, ours = torch.optim.AdamW(groups, lr=0.01), module._Adam(weights)
    for _ in range(3):
        lost = torch.zeros(())
        for i, row in enumerate(rows):
            hidden = torch.nn.functional.gelu(row.z[at[i]] @ theirs[0][i] + theirs[1][i])
            said = (hidden @ theirs[2][i] + theirs[3][i]).T.view(3, 1, 16)
            logits = theirs[4][i][:, None] * row.beside[..., at[i]] + said
            lost = lost + cross_entropy(logits, row.law[..., at[i]]).mean()
        library.zero_grad()
        lost.backward()
        slopes = batch.slopes(at, weights)
        for slope, weight in zip(slopes, theirs, strict=True):
            assert weight.grad is not None
            assert torch.allclose(slope, weight.grad, atol=1e-5)
        library.step()
        ours.step(0.01, slopes)
        for weight, other in zip(weights, theirs, strict=True):
            assert torch.allclose(weight, other, atol=1e-5)
