"""Accounts: what our metrics say of a mechanism and an account of it, by counting all states.

The same questions that replace asks of a network (docs/method.md section 2), where every state can be run: is what the
account keeps enough, does anything need its mediators, and does an answer follow what is exchanged?
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from probekit.metrics.causal.replace import fbu_mean, kl_bits, necessity
from probekit.metrics.causal.support import support
from probekit.testbeds.ground_truth.systems import Array, Proposal, Values

MOST = 20_000  # combinations of donors up to which all of them are run


def kept(claim: Proposal, apart: bool = False) -> float | None:
    """FBU with what the account says the answer depends on kept, and all other variables from donors.

    apart: each of the others from a donor of its own, and not all from the same; None where they are too many.
    """
    mechanism, account = claim.mechanism, claim.account
    natural = mechanism.run(mechanism.states)
    keep = tuple(part for name in account.parents for part in account.parts[name])
    never = {*keep, *account.internal, *(part for name in account.output for part in account.parts[name])}
    rest = tuple(name for name in mechanism.names if name not in never)
    n = len(next(iter(natural.values())))
    if apart and n ** len(rest) > MOST:
        return None
    donors = (
        np.array(list(product(range(n), repeat=len(rest)))) if apart else np.arange(n)[:, None].repeat(len(rest), 1)
    )
    m = len(donors)
    held = {part: natural[part].repeat(m) for part in keep}
    held |= {name: np.tile(natural[name][donors[:, i]], n) for i, name in enumerate(rest)}
    law, edited = _laws(claim, natural, mechanism.run(held))
    lost = fbu_mean(law, edited.reshape(n, m, -1).mean(1), kl_bits(law, law.mean(0, keepdims=True)), np.zeros(n))
    return float(lost.missed.sum() / lost.available.sum())


def erased(claim: Proposal) -> float | None:
    """What is left of the effect of all variables with the account's mediators from a donor; None without mediators."""
    mechanism, account = claim.mechanism, claim.account
    between = [name for name in account.parents if name not in account.told.roots]
    if not between:
        return None
    natural = mechanism.run(mechanism.states)
    base, source = _pairs(natural)
    held = {name: base[name] for name in mechanism.roots}
    held |= {part: source[part] for name in between for part in account.parts[name]}
    law, edited = _laws(claim, natural, mechanism.run(held))
    n = len(law)
    whole = np.broadcast_to(law, (n, *law.shape))
    told = necessity(law, edited.reshape(n, n, -1), whole)
    return float(told.missed.sum() / told.available.sum())


def follows(claim: Proposal) -> float:
    """Share of interchanges whose answer is as the account says, for the name that it is least of.

    Each name that is no answer is set, in every state, to what it is in every other: in the account to the account's
    own value, in the mechanism to the variables' values there.
    """
    mechanism, account = claim.mechanism, claim.account
    natural = mechanism.run(mechanism.states)
    base, source = _pairs(natural)
    told = account.told.run({name: account.read(natural)[name] for name in account.told.roots})
    low, high = _pairs(told)
    right = []
    for name in account.parts:
        if name in account.output:
            continue
        said = account.told.run({**{root: low[root] for root in account.told.roots}, name: high[name]})
        parts = {part: source[part] for part in account.parts[name]}
        done = account.read(mechanism.run({**{root: base[root] for root in mechanism.roots}, **parts}))
        right.append(
            np.all([_answer(claim, said[out]) == _answer(claim, done[out]) for out in account.output], 0).mean()
        )
    return float(min(right))


def dormant(claim: Proposal) -> bool:
    """Whether an interchange of the mediator moves variables where they never vary (`Support.flags`).

    Only where the account is of coordinates of a site; of single variables there is nothing to lie between.
    """
    mechanism, account = claim.mechanism, claim.account
    if not account.soft:
        return False
    natural = mechanism.run(mechanism.states)
    site = [name for name in mechanism.equations if name not in account.parts["Y"]]
    base, source = (np.stack([part[name] for name in site], 1) for part in _pairs(natural))
    inside = np.isin(site, account.parts["M"])
    flags = support(base, base, np.where(inside, source, base)).flags
    return "dormant" in flags


def _answer(claim: Proposal, value: Array) -> Array | NDArray[np.bool_]:
    return value > 0.5 if claim.account.soft else value


def _pairs(values: Values) -> tuple[dict[str, Array], dict[str, Array]]:
    """Every state with every other: (base, source), each name -> [n * n]."""
    n = len(next(iter(values.values())))
    return {name: value.repeat(n) for name, value in values.items()}, {
        name: np.tile(v, n) for name, v in values.items()
    }


def _laws(claim: Proposal, *variables: Values) -> list[Array]:
    """Laws [n, outcome] of the answers: what each is for sure, or the chance of one of two."""
    account = claim.account
    told = [np.stack([account.read(part)[name] for name in account.output], -1) for part in variables]
    if account.soft:
        return [np.concatenate([1 - chance, chance], -1) for chance in told]
    _, number = np.unique(np.concatenate(told), axis=0, return_inverse=True)
    sure = np.eye(number.max() + 1)[number.ravel()]
    return np.split(sure, np.cumsum([len(part) for part in told])[:-1])
