"""Wide plants: a case of tier 1 in many coordinates, most of which know nothing. For readers of few rows."""

from dataclasses import replace

import numpy as np

from probekit.testbeds.ground_truth.case import Planted


def widened(planted: Planted, d: int, seed: int) -> Planted:
    """The seen rows of a plant in d coordinates: rotated at random, with noise as loud as the plant's own in the rest.

    What is true of the plant stays true in the limit of many rows; its parameters are those of what was drawn.
    """
    rows = planted.domain == planted.domain[0]
    x = planted.activations[rows]
    generator = np.random.default_rng([seed, 31])
    frame = np.linalg.qr(generator.standard_normal((d, x.shape[1])))[0].astype(np.float32)
    idle = np.float32(planted.parameters.noise) * generator.standard_normal((len(x), d), np.float32)
    return replace(
        planted,
        activations=x @ frame.T + idle - (idle @ frame) @ frame.T,
        law=planted.law[rows], signs=planted.signs[rows], domain=planted.domain[rows], group=planted.group[rows],
        features={name: labels[rows] for name, labels in planted.features.items()}, twin=None,
    )  # fmt: skip
