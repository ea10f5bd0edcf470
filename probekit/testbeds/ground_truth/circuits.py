"""Tier 2: transformers with hand-set weights, whose behaviour under replacement is known by enumerating their states.

A word of bits is spelt as tokens (i, b), each embedded as +-1 along its own direction; a head that attends evenly sums
them at the last token; ReLU layers compute the behaviour, and the unembedding reads it as the logit between two
answers. What is replaced is the residual stream after that head. Directions are rotated and scaled per seed, and bits
that nothing reads are added.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from probekit.hookpoint import HookPoint
from probekit.testbeds.ground_truth.case import Case, Kind, Truth
from probekit.testbeds.ground_truth.exact import binary_entropy, interaction_share, states

if TYPE_CHECKING:
    from probekit.model.interventions import Abstraction
    from probekit.model.model import Model
    from probekit.task import Task

Array = NDArray[np.float64]
Keep = Mapping[str, Array]
ANSWERS, QUERY, FIRST = (0, 1), 2, 3  # token ids: two answers, the query, then (i, b) as FIRST + 2 i + b
SITE = "blocks.0.hook_resid_post"
TINY = 1e-300


@dataclass(frozen=True)
class Layer:
    """h + relu(h @ read + bias) @ write + constant: read [d, n], bias [n], write [n, d], constant [d]."""

    read: Array
    bias: Array
    write: Array
    constant: Array

    def __call__(self, h: Array) -> Array:
        return h + np.maximum(h @ self.read + self.bias, 0) @ self.write + self.constant


@dataclass(frozen=True)
class Network:
    """A planted transformer and the states it can be in.

    words [n_states, T]: bits (0, 1) as they are spelt, every state equally likely; embed [T, d]: what a bit at each
    place adds, times +-1; layers after block 0; out [d]: the logit between the answers is h @ out. keeps: name -> hook
    point -> directions [d, k] that an abstraction keeps. heads: for each block that attends, the rows [n_heads, d] that
    its heads read at the words' tokens and those that they write at the query; one head copies everything if empty.
    What later blocks read there must be written by no block.
    """

    name: str
    seed: int
    words: NDArray[np.int64]
    embed: Array
    layers: tuple[Layer, ...]
    out: Array
    keeps: Mapping[str, Keep]
    heads: Mapping[int, tuple[Array, Array]] = field(default_factory=dict)
    setting: Mapping[str, float] = field(default_factory=dict)
    held: Mapping[str, Array] = field(default_factory=dict)

    # What happens, by enumeration -----------------------------------------------------------------------------------

    @cached_property
    def arrives(self) -> tuple[Array, ...]:
        """What the heads of each block write at the query in each state: [n_states, d] per block."""
        spelt = (2.0 * self.words - 1) @ self.embed
        out = [spelt] + [np.zeros_like(spelt) for _ in self.layers]
        for block, (read, write) in self.heads.items():
            out[block] = spelt @ read.T @ write
        return tuple(out)

    @property
    def site(self) -> Array:
        """The residual stream at SITE in each state: [n_states, d]."""
        return self.arrives[0]

    @cached_property
    def law(self) -> Array:
        """P(second answer) in each state: [n_states]."""
        return self.run(self.site)

    def run(self, h: Array) -> Array:
        """P(second answer) for residual streams h [n_states, ..., d] at SITE, the first axis being the word."""
        for block in range(1, len(self.layers) + 1):
            h = self._block(h, block)
        return expit(h @ self.out)

    def _block(self, h: Array, block: int) -> Array:
        new = self.arrives[block]
        return self.layers[block - 1](h + new.reshape(len(new), *(1,) * (h.ndim - 2), -1))

    def _edited(self, keep: str) -> list[tuple[int, Array]]:
        """(block, basis) of the sites that an abstraction is kept at, in forward order."""
        return sorted((HookPoint.parse(hook).layer or 0, basis) for hook, basis in self.keeps[keep].items())

    @cached_property
    def natural(self) -> tuple[Array, ...]:
        """The residual stream after each block: [n_states, d] per block."""
        streams = [self.site]
        for block in range(1, len(self.layers) + 1):
            streams.append(self._block(streams[-1], block))
        return tuple(streams)

    def replaced(self, keep: str) -> Array:
        """P(second answer) with an abstraction kept of each state and the rest from each donor: [n_states, n_donors].

        At several sites each edit keeps what the already edited blocks computed, and all take the same donor.
        """
        bases = dict(self._edited(keep))
        h = np.broadcast_to(self.site[:, None], (len(self.words), *self.site.shape))
        for block in range(len(self.layers) + 1):
            h = self._block(h, block) if block else h
            if block in bases:
                donor = self.natural[block]
                h = donor + (h - donor) @ bases[block] @ bases[block].T
        return expit(h @ self.out)

    def agree(self, keep: str) -> NDArray[np.bool_]:
        """Whether state and donor have the same value in all that is kept: [n_states, n_donors]."""
        same = np.ones((len(self.words), len(self.words)), bool)
        for block, basis in self._edited(keep):
            value = self.natural[block] @ basis
            same &= (abs(value[:, None] - value) < 1e-6).all(-1)
        return same

    def fbu(self, keep: str, arm: str) -> float:
        """FBU under replacement, exactly: of the mean over all donors, or the mean per donor for arms with `:pair`."""
        after, p = self.replaced(keep), self.law
        chance = self.agree(keep) if ":matched" in arm else np.ones_like(after)
        chance = chance / chance.sum(1, keepdims=True)
        if arm.endswith(":pair"):
            lost = (chance * _kl(p[:, None], after)).sum(1)
        else:
            lost = _kl(p, (chance * after).sum(1))
        return float(lost.mean() / self.available)

    @property
    def available(self) -> float:
        """Bits between the prior and the model's own entropy."""
        ceiling = np.mean([binary_entropy(float(p)) for p in self.law])
        return binary_entropy(float(self.law.mean())) - float(ceiling)

    # The same as a model ---------------------------------------------------------------------------------------------

    @property
    def d_vocab(self) -> int:
        return FIRST + 2 * self.words.shape[1]

    def tokens(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """Token ids of the states at `at`: [n, T + 1], the query last."""
        places = FIRST + 2 * np.arange(self.words.shape[1])
        return np.column_stack([self.words[at] + places, np.full(len(at), QUERY)])

    def model(self) -> "Model":
        """The transformer, run through TransformerLens."""
        import torch

        from probekit.model.loading import plant_model

        n_places, d = self.embed.shape
        width = max(layer.read.shape[1] for layer in self.layers)
        tokens = np.zeros((self.d_vocab, d))
        tokens[FIRST::2], tokens[FIRST + 1 :: 2] = -self.embed, self.embed
        heads = {0: (np.eye(d), np.eye(d))} | dict(self.heads)
        n_heads = max(len(read) for read, _ in self.heads.values()) if self.heads else 1
        inside = n_heads if self.heads else d  # one number per head, or one head for all of the stream
        head = np.zeros((self.d_vocab, d))
        head[ANSWERS[0]], head[ANSWERS[1]] = -self.out / 2, self.out / 2
        weights = {
            "tok_embed.weight": tokens,
            "layers.0.mlp.fc_in.weight": np.zeros((width, d)),
            "head.weight": head,
        }
        for block, (read, write) in heads.items():
            inward, outward = np.zeros((inside, d)), np.zeros((d, inside))
            # Attention without queries and keys is even: the mean over n_places + 1 tokens, scaled back to their sum.
            inward[: len(read)], outward[:, : len(write)] = read, (n_places + 1) * write.T
            weights |= {f"layers.{block}.attn.v.weight": inward, f"layers.{block}.attn.o.weight": outward}
        for i, layer in enumerate(self.layers, 1):
            n = layer.read.shape[1]
            inner, bias, outer = np.zeros((width, d)), np.zeros(width), np.zeros((d, width))
            inner[:n], bias[:n], outer[:, :n] = layer.read.T, layer.bias, layer.write.T
            weights |= {
                f"layers.{i}.mlp.fc_in.weight": inner,
                f"layers.{i}.mlp.fc_in.bias": bias,
                f"layers.{i}.mlp.fc_out.weight": outer,
                f"layers.{i}.mlp.fc_out.bias": layer.constant,
            }
        tensors = {name: torch.from_numpy(value).float() for name, value in weights.items()}
        return plant_model(tensors, n_heads=n_heads, n_ctx=n_places + 1, name=f"planted-{self.name}-{self.seed}")

    def task(self, n: int, seed: int = 0) -> "Task":
        """n words drawn evenly, read at the query; the floor is given nothing, so that it is the prior."""
        from probekit.task import BehaviourSpec, Task

        at = np.random.default_rng([seed, self.seed, 26]).integers(0, len(self.words), n)
        return Task(
            name=f"planted-{self.name}-{self.seed}-{seed}",
            tokens=list(self.tokens(at)),
            positions=[np.array([self.words.shape[1]])] * n,
            group=np.arange(n),
            domain=np.full(n, "seen"),
            behaviours=(BehaviourSpec("answer", "choice", tokens=ANSWERS),),
            floor_inputs={},
        )

    @property
    def hooks(self) -> dict[str, tuple[str, ...]]:
        """Hook points that each abstraction is kept at, in forward order."""
        return {name: tuple(bases) for name, bases in self.keeps.items()}

    def abstraction(self, keep: str) -> "Abstraction":
        """What `Replacement.cell` keeps: the stated directions."""
        import torch

        from probekit.model.interventions import Abstraction

        bases = {hook: torch.from_numpy(basis).float() for hook, basis in self.keeps[keep].items()}
        return Abstraction("directions", "features", next(iter(bases.values())).shape[1], bases)


def _kl(p: Array, q: Array) -> Array:
    """KL(p || q) in bits of two Bernoulli chances."""
    terms = [a * np.log2(np.maximum(a, TINY) / np.maximum(b, TINY)) for a, b in ((p, q), (1 - p, 1 - q))]
    return terms[0] + terms[1]


# Building -----------------------------------------------------------------------------------------------------------


class _Frame:
    """Axes by number, turned and scaled once per seed. Reads are scaled back, so that functions see values of +-1."""

    def __init__(self, seed: int, n_axes: int, n_idle: int) -> None:
        generator = np.random.default_rng([seed, 27])
        self.gain = float(generator.uniform(0.5, 2.0))
        self.idle = n_axes + np.arange(n_idle)
        d = n_axes + n_idle + int(generator.integers(1, 4))
        self.rotation = np.linalg.qr(generator.normal(size=(d, d)))[0]
        self.sharpness = float(generator.uniform(2.0, 5.0))

    def along(self, **axes: float) -> Array:
        """sum of weight * axis, for axes named a0, a1, ...: [d]."""
        return sum(
            (weight * self.rotation[int(name[1:])] for name, weight in axes.items()), np.zeros(len(self.rotation))
        )

    def layer(self, neurons: Sequence[tuple[Array, float, Array]], constant: Array | None = None) -> Layer:
        """Neurons as (what is read, bias, what is written), in units of +-1."""
        d = len(self.rotation)
        return Layer(
            np.stack([read for read, _, _ in neurons], 1) / self.gain,
            np.array([bias for _, bias, _ in neurons]),
            self.gain * np.stack([write for _, _, write in neurons]),
            np.zeros(d) if constant is None else self.gain * constant,
        )

    def network(
        self,
        name: str,
        seed: int,
        bits: Array,
        spelt: Sequence[Array],
        layers: Sequence[Layer],
        out: Array,
        keeps: Mapping[str, Sequence[Array]],
        sites: Sequence[int] = (0,),
        heads: Mapping[int, tuple[Array, Array]] | None = None,
        setting: Mapping[str, float] | None = None,
    ) -> Network:
        """bits [n, places] of +-1, spelt: what a bit at each place adds. Idle bits take every combination with them."""
        idle = states(len(self.idle))
        words = np.concatenate([np.repeat(bits, len(idle), 0), np.tile(idle, (len(bits), 1))], 1)
        embed = self.gain * np.stack([*spelt, *(self.rotation[i] for i in self.idle)])
        hooks = [HookPoint.within(i, "hook_resid_post").name for i in sites]
        kept = {what: np.stack([v / np.linalg.norm(v) for v in basis], 1) for what, basis in keeps.items()}
        return Network(
            name, seed, (words > 0).astype(np.int64), embed, tuple(layers), out / self.gain,
            {what: dict.fromkeys(hooks, basis) for what, basis in kept.items()}, heads or {}, setting or {},
        )  # fmt: skip


def _frame(seed: int, n_axes: int) -> _Frame:
    return _Frame(seed, n_axes, int(np.random.default_rng([seed, 28]).integers(0, 3)))


def _copy(read: Array, write: Array) -> list[tuple[Array, float, Array]]:
    """z = relu(z) - relu(-z)."""
    return [(read, 0.0, write), (-read, 0.0, -write)]


def sealed(seed: int) -> Network:
    """P1: the behaviour is s1, copied."""
    f = _frame(seed, 3)
    s1, s2, o = f.along(a0=1), f.along(a1=1), f.along(a2=1)
    keeps = {"s1": [s1], "s2": [s2], "both": [s1, s2]}
    return f.network("P1", seed, states(2), [s1, s2], [f.layer(_copy(s1, o))], f.sharpness * o, keeps)


def exclusive_or(seed: int) -> Network:
    """P2: 1 - relu(z) - relu(-z) with z = s1 + s2."""
    f = _frame(seed, 3)
    s1, s2, o = f.along(a0=1), f.along(a1=1), f.along(a2=1)
    layer = f.layer([(s1 + s2, 0.0, -o), (-s1 - s2, 0.0, -o)], o)
    keeps = {"s1": [s1], "both": [s1, s2], "sum": [s1 + s2], "difference": [s1 - s2]}
    return f.network("P2", seed, states(2), [s1, s2], [layer], f.sharpness * o, keeps)


def _parity_layer(f: _Frame, z: Array, o: Array) -> Layer:
    """Minus the product of three signs, whose sum is z: z - 2 relu(z - 1) + 2 relu(-z - 1)."""
    return f.layer([*_copy(z, o), (z, -1.0, -2 * o), (-z, -1.0, 2 * o)])


def parity_of_three(seed: int) -> Network:
    """P3."""
    f = _frame(seed, 4)
    s, o = [f.along(**{f"a{i}": 1.0}) for i in range(3)], f.along(a3=1)
    keeps = {"one": s[:1], "pair": s[:2], "all": s, "sum": [s[0] + s[1] + s[2]]}
    layer = _parity_layer(f, s[0] + s[1] + s[2], o)
    return f.network("P3", seed, states(3), s, [layer], f.sharpness * o, keeps)


def synergy(seed: int) -> Network:
    """P7: parity of three bits, each brought to the query by a head of its own."""
    f = _Frame(seed, 4, 0)  # an idle bit would need a head, too
    s, o = [f.along(**{f"a{i}": 1.0}) for i in range(3)], f.along(a3=1)
    layer = _parity_layer(f, s[0] + s[1] + s[2], o)
    heads = {0: (np.stack(s), np.stack(s))}
    keeps = {"one": s[:1], "pair": s[:2], "all": s}
    return f.network("P7", seed, states(3), s, [layer], f.sharpness * o, keeps, heads=heads)


def dormant(seed: int, angle: float = 45.0) -> Network:
    """P5: s is written along e_c and e_r, nothing along e_d; the behaviour reads e_c + 2 e_d, by separate neurons."""
    f = _frame(seed, 4)
    c, r, d, o = (f.along(**{f"a{i}": 1.0}) for i in range(4))
    turn = np.deg2rad(angle)
    keeps = {"e_c": [c], "e_r": [r], "e_d": [d], "u": [np.cos(turn) * r + np.sin(turn) * d]}
    layer = f.layer([*_copy(c, o), *_copy(d, 2 * o)])
    bits = states(1)
    return f.network("P5", seed, bits, [c + r], [layer], f.sharpness * o, keeps, setting={"angle": angle})


def copied(seed: int) -> Network:
    """P6b: one bit spelt at three places; the majority of the copies is read."""
    f = _frame(seed, 4)
    s, o = [f.along(**{f"a{i}": 1.0}) for i in range(3)], f.along(a3=1)
    z = s[0] + s[1] + s[2]
    layer = f.layer([(z, 1.0, o), (z, -1.0, -o)], -o)
    keeps = {"one": s[:1], "two": s[:2], "all": s}
    return f.network("P6b", seed, np.repeat(states(1), 3, 1), s, [layer], f.sharpness * o, keeps)


def backup(seed: int) -> Network:
    """P8: out = a + bump(a, c) - bump(-a, -c), six ReLUs; the backup c is the same bit and speaks where a is silent."""
    f = _frame(seed, 3)
    a, c, o = f.along(a0=1), f.along(a1=1), f.along(a2=1)
    steep = 2.0
    neurons = _copy(a, o)
    for sign in (1, -1):
        read = sign * (a + steep * c)
        neurons += [(read, 1.0 - steep, sign * o), (read, -steep, -2 * sign * o), (read, -1.0 - steep, sign * o)]
    keeps = {"a": [a], "c": [c], "both": [a, c]}
    made = f.network("P8", seed, np.repeat(states(1), 2, 1), [a, c], [f.layer(neurons)], f.sharpness * o, keeps)
    # The two neurons that copy a come first; the bumps are what repairs.
    return replace(made, held={HookPoint.within(1, "mlp.hook_post").name: np.eye(len(neurons))[:, 2:]})


def cancelling(seed: int) -> Network:
    """P17: B = s1 with chance p. A second bit is spelt twice; where its spellings differ, the chance shifts by e.

    They never differ by themselves. With one spelling kept and the other a donor's, inputs whose second bit is 1 shift
    up and the others down, by equal amounts for either s1.
    """
    f = _frame(seed, 4)
    generator = np.random.default_rng([seed, 29])
    s1, s2, s3, o = (f.along(**{f"a{i}": 1.0}) for i in range(4))
    p = float(generator.uniform(0.7, 0.76))
    e = 0.95 * (1 - p)
    layers = _copy(s1, float(logit(p)) * o)
    for sign, chance in ((1, p), (-1, 1 - p)):
        for way in (1, -1):
            shift = float(logit(chance + way * e) - logit(chance))
            layers.append((2 * sign * s1 + way * (s2 - s3), -2.0, shift / 2 * o))
    bits = states(2)[:, [0, 1, 1]]
    keeps = {"s1": [s1], "s1 and one spelling": [s1, s2], "all": [s1, s2, s3]}
    return f.network("P17", seed, bits, [s1, s2, s3], [f.layer(layers)], o, keeps, setting={"p": p, "e": e})


def spelt_out(seed: int) -> Network:
    """Specificity: s1 XOR s2 from s1 + s2, as in P2, and the words spell s1 s2 as well, where nothing reads it."""
    f = _frame(seed, 4)
    s1, s2, parity, o = (f.along(**{f"a{i}": 1.0}) for i in range(4))
    layer = f.layer([(s1 + s2, 0.0, -o), (-s1 - s2, 0.0, -o)], o)
    bits = np.column_stack([states(2), states(2).prod(1)])
    keeps = {"parity": [parity], "both": [s1, s2]}
    return f.network("specificity", seed, bits, [s1, s2, parity], [layer], f.sharpness * o, keeps)


def chain(seed: int, n_hops: int = 4) -> Network:
    """k hops, each of which takes over a share of e_a from a line e_b that is not in the abstraction.

    Every line carries the same bit, brought afresh from the word by the block below its hop, so that an edit of one
    site spoils one hop. The abstractions `last n` keep e_a at the last n sites.
    """
    f = _Frame(seed, n_hops + 2, 0)
    a, source = f.along(a0=1), f.along(a1=1)
    lines = [f.along(**{f"a{2 + i}": 1.0}) for i in range(n_hops)]
    share = float(np.random.default_rng([seed, 30]).uniform(0.15, 0.35))
    hops = [f.layer(_copy(line - a, share * a)) for line in lines]
    heads = {i: (source[None], (line + a if i == 0 else line)[None]) for i, line in enumerate(lines)}
    setting = {"share": share, "n_hops": float(n_hops)}
    made = f.network("chain", seed, states(1), [source], hops, f.sharpness * a, {}, heads=heads, setting=setting)
    sites = [HookPoint.within(i, "hook_resid_post").name for i in range(n_hops)]
    return replace(made, keeps={f"last {n}": dict.fromkeys(sites[-n:], a[:, None]) for n in range(1, n_hops + 1)})


# Truths -------------------------------------------------------------------------------------------------------------


def _replaced(keep: str, k: int, arms: Mapping[str, Kind]) -> list[Truth]:
    return [
        Truth("replace", "directions", _value_of(keep, arm), kind, k, arm, "features", keep=keep)
        for arm, kind in arms.items()
    ]


def _value_of(keep: str, arm: str) -> Callable[[Network], float]:
    return lambda network: network.fbu(keep, arm)


def _constant(keep: str, k: int, value: float, arm: str, metric: str = "replace") -> Truth:
    kind: Kind = "zero" if value == 0 else "one" if value == 1 else "interior"
    return Truth(metric, "directions", lambda network: value, kind, k, arm, "features", keep=keep)


def _single(kind: Kind, matched: Kind | None = None, pair: Kind | None = None) -> dict[str, Kind]:
    """Arms at one site; the mean per donor is stated where asked."""
    arms: dict[str, Kind] = {"single:random": kind}
    if matched:
        arms["single:matched"] = matched
    if pair:
        arms["single:random:pair"] = pair
    return arms


def _composed(keep: str, values: Mapping[str, float]) -> list[Truth]:
    """Of the directions of an abstraction as parts: arm -> value."""
    return [_constant_of(keep, value, arm) for arm, value in values.items()]


def _constant_of(keep: str, value: float, arm: str) -> Truth:
    kind: Kind = "zero" if value == 0 else "one" if value == 1 else "interior"
    return Truth("compose", "directions", lambda network: value, kind, arm=arm, source="features", keep=keep)


LEAST_CHANCE = 0.1  # by how much the site has to bring more answers than a random direction, to be told from it


def interchange_accuracy(network: Network, keep: str) -> float:
    """Share of pairs with different answers in which the source's part of the subspace brings the source's answer."""
    return _brought(network, network.keeps[keep][SITE])


def _brought(network: Network, basis: Array) -> float:
    base, source = network.site[:, None], network.site[None]
    after = network.run(base + (source - base) @ basis @ basis.T) > 0.5
    answer = network.law > 0.5
    changed = answer[:, None] != answer
    return float((after == answer[None])[changed].mean())


def interchange_leak(network: Network, keep: str) -> float | None:
    """What of the site's answers beyond those of random directions of equal k an abstraction does not bring.

    None where those bring nearly all: of few coordinates a random one is often enough.
    """
    from probekit.fit.directions import random_directions

    basis = network.keeps[keep][SITE]
    random = random_directions(len(basis), basis.shape[1], network.seed).double().numpy()
    chance = _brought(network, random)
    return None if chance > 1 - LEAST_CHANCE else (1 - _brought(network, basis)) / (1 - chance)


def _iia_leak(keep: str, k: int, kind: Kind) -> Truth:
    return Truth(
        "replace", "directions", lambda network: interchange_leak(network, keep), kind, k, "iia", "features", keep=keep
    )


def mean_ablation_rise(network: Network, keep: str) -> float:
    """E KL(p || p edited) with the subspace set to its mean, over the same with all of the site set to its mean."""
    basis = network.keeps[keep][SITE]
    mean = network.site.mean(0)
    edited = network.run(network.site + (mean - network.site) @ basis @ basis.T)
    whole = network.run(np.broadcast_to(mean, network.site.shape))
    return float(_kl(network.law, edited).mean() / _kl(network.law, whole).mean())


def resampling_rise(network: Network, keep: str) -> float:
    """The same with the subspace, or the site, taken from every other state."""
    basis = network.keeps[keep][SITE]
    x, y = network.site[:, None], network.site[None]
    edited = network.run(x + (y - x) @ basis @ basis.T)
    whole = np.broadcast_to(network.law, edited.shape)
    p = network.law[:, None]
    return float(_kl(p, edited).mean() / _kl(p, whole).mean())


def readable_part(network: Network) -> tuple[str, float]:
    """P5: a probe finds s along e_r without a miss, and takes it for what the model uses."""
    from sklearn.linear_model import LogisticRegression

    y = (network.law > 0.5).astype(int)
    x = network.site @ network.keeps["e_r"][SITE]
    probe = LogisticRegression(C=1e6).fit(x, y)
    missed = -np.log2(probe.predict_proba(x)[np.arange(len(y)), y]).mean()
    return "probe along e_r", float(missed)


def patch_one_copy(network: Network) -> tuple[str, float]:
    """P6b: patch each copy by itself; no answer changes, so that none is said to matter."""
    effects = []
    for i in range(3):
        copy = network.embed[i] / np.linalg.norm(network.embed[i])
        x, y = network.site[:, None], network.site[None]
        after = network.run(x + ((y - x) @ copy)[..., None] * copy) > 0.5
        effects.append((after != (network.law > 0.5)[:, None]).mean())
    return "patching one copy", float(1 - max(effects))


def single_effects(network: Network) -> tuple[str, float]:
    """P7: first-order Sobol shares of the three bits, summed: what is not additive is taken for pairwise."""
    value = np.log(network.law / (1 - network.law))
    return "first-order effects", float(1 - interaction_share(value, 3, 1))


def mean_ablation(network: Network) -> tuple[str, float]:
    """P8: set a to its mean; the backup speaks, and a is said not to be needed."""
    return "mean ablation", 1 - mean_ablation_rise(network, "a")


def mean_behaviour(network: Network) -> tuple[str, float]:
    """P17: the mean behaviour for each s1, scrubbed against not: errors of two halves cancel."""
    after = network.replaced("s1 and one spelling").mean(1)
    first = network.words[:, 0] > 0
    lost = [_kl(network.law[rows].mean(keepdims=True), after[rows].mean(keepdims=True)) for rows in (first, ~first)]
    return "mean behaviour under scrubbing", float(np.mean(lost) / network.available)


def scrubbing(network: Network) -> tuple[str, float]:
    """Specificity: donors that agree on what is spelt out leave every answer as it is."""
    return "scrubbing by donors that agree", network.fbu("parity", "single:matched")


def last_hop(network: Network) -> tuple[str, float]:
    """The chain: one hop by itself is nearly right, so all hops are said to be."""
    return "one hop", network.fbu("last 1", "single:random")


P5_INERT = _constant("e_r", 1, 1.0, "single:random")
P6B_ALL = _replaced("all", 3, _single("zero"))[0]
P7_PAIR = _constant_of("all", 1.0, "pair_value")
P8_RESAMPLE = Truth(
    "replace", "directions", lambda network: 1 - resampling_rise(network, "a"), "zero", 1, "necessity:resample",
    "features", keep="a",
)  # fmt: skip
P17_KEPT = _replaced("s1 and one spelling", 2, _single("interior"))[0]
SPELT_OUT = _constant("parity", 1, 1.0, "single:random")
CHAIN_ALL = _replaced("last 4", 1, {"chain:random": "positive"})[0]

# Truths that join the cases of tier 1, and cases of networks alone.
NETWORKS = {
    "P1": (
        sealed,
        (
            *_replaced("s1", 1, _single("zero", "zero", "zero")),
            *_replaced("s2", 1, _single("one", "one")),
            _constant("s1", 1, 0.0, "necessity:resample"),
            _constant("s2", 1, 1.0, "necessity:resample"),
            _iia_leak("s1", 1, "zero"),
            *_composed("both", {"additive_value": 0, "pair_value": 0, "additive_ablation": 0, "leave_one_out": 1,
                                "alone": 0}),
        ),
    ),
    "P2": (
        exclusive_or,
        (
            *_replaced("both", 2, _single("zero", "zero", "zero")),
            *_replaced("sum", 1, _single("zero", "zero")),
            *_replaced("s1", 1, _single("one", "one", "positive")),
            # The difference of two bits gives their XOR away, and is not what the layer reads.
            *_replaced("difference", 1, _single("one", "zero")),
            *_composed("both", {"additive_value": 1, "pair_value": 0, "additive_ablation": 1 / 3, "pair_ablation": 0,
                                "leave_one_out": 2}),
        ),
    ),
    "P3": (
        parity_of_three,
        (
            *_replaced("all", 3, _single("zero")),
            *_replaced("sum", 1, _single("zero")),
            *_replaced("pair", 2, _single("one", "one")),
            *_replaced("one", 1, _single("one")),
            # Uniform sets of parts hardly ever lack none of them, and take what needs all three for nearly pairwise.
            *_composed("all", {"pair_value": 1, "pair_ablation": 1 / 7, "pair_ablation:loss": 1 / 7}),
        ),
    ),
}  # fmt: skip
PLANTED = (
    Case(
        "P5",
        "a readable copy that nothing uses, and a used direction that nothing writes",
        "one-dimensional alignment search, which finds their illusory mean",
        (
            P5_INERT,
            *_replaced("e_c", 1, _single("zero", "zero")),
            *_replaced("e_d", 1, _single("one")),
            *_replaced("u", 1, _single("zero", "zero")),
            _iia_leak("u", 1, "zero"),
            _iia_leak("e_r", 1, "interior"),
            _iia_leak("e_d", 1, "interior"),
        ),
        readable_part,
        P5_INERT,
        network=dormant,
    ),
    Case(
        "P6b",
        "one bit at three places, read by majority",
        "patching a single site",
        (
            P6B_ALL,
            *_replaced("two", 2, _single("zero")),
            *_replaced("one", 1, {"single:random": "one", "single:matched": "zero"}),
            _constant("one", 1, 1.0, "positions"),
        ),
        patch_one_copy,
        P6B_ALL,
        network=copied,
    ),
    Case(
        "P7",
        "synergy: parity of three bits, each by its own head",
        "pairs, leave-one-out",
        (
            P7_PAIR,
            *_composed("all", {"leave_one_out": 3, "leave_one_out:loss": 3, "alone": 1}),
            *_replaced("pair", 2, _single("one")),
            *_replaced("all", 3, _single("zero")),
        ),
        single_effects,
        P7_PAIR,
        network=synergy,
    ),
    Case(
        "P8",
        "a gated backup: the same bit elsewhere, heard only where the first is silent",
        "mean and zero ablation",
        (
            P8_RESAMPLE,
            Truth("replace", "directions", lambda network: 1 - mean_ablation_rise(network, "a"), "one", 1,
                  "necessity:mean", "features", keep="a"),
            *_composed("both", {"self_repair:mean": 1, "self_repair:resample": 0, "leave_one_out:mean": 0,
                                "leave_one_out": 1, "dependence": 1}),
            *_replaced("a", 1, _single("zero", "zero")),
            *_replaced("c", 1, _single("one")),
        ),
        mean_ablation,
        P8_RESAMPLE,
        network=backup,
    ),
    Case(
        "P17",
        "errors that cancel: a chance shifts up on one half of the inputs and down on the other",
        "scrubbing by the mean loss",
        (
            P17_KEPT,
            *_replaced("s1 and one spelling", 2, {"single:random:pair": "interior", "single:matched": "zero"}),
            *_replaced("s1", 1, _single("zero", "zero", "zero")),
            *_replaced("all", 3, _single("zero")),
        ),
        mean_behaviour,
        P17_KEPT,
        network=cancelling,
    ),
    Case(
        "specificity",
        "a variable that is right about every input, and that the model does not run on",
        "causal scrubbing, whose donors agree on it",
        (
            SPELT_OUT,
            *_replaced("parity", 1, {"single:matched": "zero"}),
            _constant("parity", 1, 1.0, "necessity:resample"),
            _iia_leak("parity", 1, "interior"),
            *_replaced("both", 2, _single("zero", "zero")),
            _iia_leak("both", 2, "zero"),
        ),
        scrubbing,
        SPELT_OUT,
        network=spelt_out,
    ),
    Case(
        "chain",
        "k hops that lose a known share of the bit at each",
        "the error of one hop",
        (
            CHAIN_ALL,
            *_replaced("last 4", 1, {"chain:random:pair": "positive", "chain:matched": "zero"}),
            *_replaced("last 1", 1, {"single:random": "interior"}),
            *_replaced("last 2", 1, {"chain:random": "interior"}),
            *_replaced("last 3", 1, {"chain:random": "positive"}),
            Truth("replace", "directions", _value_of("last 4", "chain:random"), "positive", 1, "roll_out", "features",
                  keep="last 4"),
        ),
        last_hop,
        CHAIN_ALL,
        network=chain,
    ),
)  # fmt: skip
