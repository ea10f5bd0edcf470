"""A plant whose label is, or is not, nothing but a tag in the text; for span deletion."""

import numpy as np
import torch

from probekit.model.loading import plant_model
from probekit.model.model import Model
from probekit.task import Behaviour, BehaviourSpec, Task

D, N_WORDS = 16, 60
TAGS, WORDS = (0, 1), tuple(range(2, 2 + N_WORDS))
BOS = 2 + N_WORDS


def span(*places):
    return np.array(places, dtype=np.int64).reshape(-1, 2)


def planted_model() -> Model:
    """One head that attends everywhere alike adds the mean embedding of all tokens to the last one."""
    rng = np.random.default_rng(0)
    rotation = torch.from_numpy(np.linalg.qr(rng.standard_normal((D, D)))[0]).float()
    embed = torch.zeros(BOS + 1, D)
    embed[0, 0], embed[1, 0] = 1.0, -1.0  # a tag is one direction
    embed[2 : 2 + N_WORDS // 2, 1] = torch.tensor([1.0, -1.0]).repeat(N_WORDS // 4)  # the class of a subject another
    embed[2 : 2 + N_WORDS, 2:] = 0.2 * torch.from_numpy(rng.standard_normal((N_WORDS, D - 2))).float()
    weights = {
        "tok_embed.weight": embed @ rotation, "layers.0.attn.v.weight": torch.eye(D),
        "layers.0.attn.o.weight": 4 * torch.eye(D), "layers.0.mlp.fc_in.weight": torch.zeros(2, D),
        "head.weight": embed @ rotation,
    }  # fmt: skip
    return plant_model(weights, n_heads=1, n_ctx=16, name="uniform")


def plant_task(label_is, n=3_000, seed=0, **changes):
    """[BOS, tag, subject, word, word]: the label is the tag's, or the class of the subject; both are drawn alone."""
    rng = np.random.default_rng(seed)
    tags = rng.integers(0, 2, n)
    words = np.c_[rng.choice(WORDS[: N_WORDS // 2], n), rng.choice(WORDS[N_WORDS // 2 :], (n, 2))]
    tokens = [np.array([BOS, tag, *row]) for tag, row in zip(tags, words, strict=True)]
    label = tags if label_is == "tag" else words[:, 0] % 2
    law = np.eye(2, dtype=np.float32)[label]
    return Task(
        "plant", tokens, [np.array([4])] * n, np.arange(n), np.array(["all"] * n),
        (BehaviourSpec("b", "label", outcomes=("0", "1"), column="b"),), labels={"b": Behaviour("b", law, ("0", "1"))},
        spans={"field:tag": [span((1, 2))] * n, "field:word": [span((2, 3))] * n}, **changes,
    )  # fmt: skip


HOOK = "blocks.0.hook_resid_post"
READ = dict(levels=("baseline", "direction", "linear"), controls=(), decomposition=False, extrapolate=False,
            n_permutations=0, n_bootstrap=400, outer_folds=1, inner_folds=1, falls=False)  # fmt: skip
