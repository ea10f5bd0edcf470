"""Pure noise for the false-positive study: sites that know nothing of the behaviour, rows alike within groups."""

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from probekit.errors import BadInput


def noise_sites(
    n_sites: int, n_groups: int, rows_per_group: int, d: int, icc: float, seed: int
) -> tuple[Float32[np.ndarray, "site n d"], NDArray[np.int64], NDArray[np.int64]]:
    """(activations [n_sites, n, d], binary behaviour [n], group [n]) with n = n_groups * rows_per_group.

    Activations are N(0, 1), independent between sites and coordinates; two rows of a group correlate by `icc`. The
    behaviour has the same intra-group correlation and is independent of all activations: each row repeats its group's
    fair coin with probability sqrt(icc), else it tosses its own. Raises BadInput for an icc outside [0, 1].
    """
    if not 0 <= icc <= 1:
        raise BadInput(f"an intra-group correlation lies in [0, 1]; found {icc}.")
    generator = np.random.default_rng([seed, 22])
    group = np.repeat(np.arange(n_groups), rows_per_group)
    n = len(group)
    shared = generator.standard_normal((n_sites, n_groups, d), np.float32)
    own = generator.standard_normal((n_sites, n, d), np.float32)
    activations = np.float32(np.sqrt(icc)) * shared[:, group] + np.float32(np.sqrt(1 - icc)) * own
    repeats = generator.random(n) < np.sqrt(icc)
    behaviour = np.where(repeats, generator.integers(0, 2, n_groups)[group], generator.integers(0, 2, n))
    return activations, behaviour.astype(np.int64), group
