"""Outside judges of the linear core: TransformerLens's sparse probe with all coordinates, and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probekit.fit.readout import fit_readout


@pytest.mark.parametrize("l2", [1e-3, 1e-2, 1.0])
def test_the_linear_readout_is_the_sparse_probe_of_all_coordinates(l2):
    """Same rows and objective, mean loss + l2 / 2 |w|^2; ours has two weights, with 2 l2 on each."""
    from transformer_lens.tools.analysis import fit_sparse_probe

    rng = np.random.default_rng(3)
    x = torch.tensor(rng.normal(size=(900, 12)) * np.geomspace(0.3, 3, 12), dtype=torch.float32)
    label = torch.tensor(rng.random(900) < 1 / (1 + np.exp(-x.numpy() @ rng.normal(size=12) / 3)))
    judge = fit_sparse_probe(x, label, k=12, class_weight=None, l2_strength=l2)
    theirs = torch.zeros(12)
    theirs[judge.selected_features] = judge.coefficients.float()
    z, y = x[judge.train_indices], label[judge.train_indices]
    law = torch.nn.functional.one_hot(y.long(), 2).T[:, None].float().contiguous()
    ours = fit_readout(z, law, None, z.var(0), 2 * l2, tolerance=1e-8)
    weight, bias = ours.weight[1, 0] - ours.weight[0, 0], float(ours.bias[1, 0] - ours.bias[0, 0])
    assert torch.allclose(weight, theirs, atol=5e-3)
    assert bias == pytest.approx(float(judge.intercept), abs=5e-3)
    second = LogisticRegression(C=1 / (len(z) * l2), tol=1e-10, max_iter=2_000).fit(z.double().numpy(), y.numpy())
    assert np.allclose(weight.numpy(), second.coef_[0], atol=5e-3)
