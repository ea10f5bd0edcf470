"""P16: a network that computes nothing, and a search so rich that it finds an algorithm in it all the same."""

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.hookpoint import HookPoint
from probekit.testbeds.ground_truth.case import Case, Truth
from probekit.testbeds.ground_truth.circuits import Network, exclusive_or


def lookup_alignment(network: Network) -> tuple[str, float]:
    """P16: interchange in a random-init model by looking up the activation of a word with the source's answer.

    At the last block, where what is looked up settles the answer.
    """
    import torch

    from probekit.model.branching import EditedTexts

    model = network.model()
    every = np.arange(len(network.words))
    tokens = network.tokens(every)
    last = HookPoint.within(len(network.layers), "hook_resid_post").name
    for seed in range(network.seed, network.seed + 100):
        twin = model.random_twin(seed)
        logits: dict[int, float] = {}

        def note(found: torch.Tensor, rows: NDArray[np.int64], logits: dict[int, float] = logits) -> None:
            logits.update({int(i): float(v[1] - v[0]) for i, v in zip(rows, found, strict=True)})

        places = [np.array([tokens.shape[1] - 1])] * len(every)
        site = twin.read(list(tokens), [last], places, on_logits=note)[last]
        answer = np.array([logits[int(i)] > 0 for i in every])
        if 0.25 <= answer.mean() <= 0.75:
            break
    else:
        raise BadInput(f"{network.name}: no random model of 100 answers either way often enough to interchange.")
    members = {side: np.flatnonzero(answer == side) for side in (False, True)}
    right = []
    for base in every:
        sources = every[answer != answer[base]]
        among = members[not answer[base]]
        given = site[among[base % len(among)]]
        text = EditedTexts(list(tokens[[base]]), [places[base]], places[base])
        after = twin.trunk(text, [last]).logits({last: lambda act, at, given=given: given.expand_as(act)}, 1)[0]
        right.append((((after[:, 1] - after[:, 0]) > 0).numpy() == answer[sources]).mean())
    return "alignment by look-up", float(1 - np.mean(right))


VACUOUS = Truth("replace", "nonlinear", lambda network: None, "na", 1, "iia", "features", keep="both")
MISSED = Truth("replace", "nonlinear", lambda network: 1.0, "one", 1, "iia", "features", keep="both")
UNTRAINED = (
    Case(
        "P16",
        "a random-init model and a featuriser that can look anything up",
        "non-linear alignment search, which interchanges without a miss",
        (VACUOUS,),
        lookup_alignment,
        MISSED,
        network=exclusive_or,
    ),
)
