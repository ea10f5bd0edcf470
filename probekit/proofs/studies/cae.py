"""CAE: the score that `causal-abstraction-eval` gives an account of a mechanism: an outside judge.

The Causal Abstraction Error of Méloux, Pimentel, Portet and Peyrard (2026), arXiv 2607.00267: values are set in the
account or in the mechanism, either runs, and what they have made of all that was not set is compared. In its faithful
form variables that the account has no word for are overwritten by noise in part of the draws.
"""

from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import numpy as np

from probekit.errors import MissingExtra
from probekit.testbeds.ground_truth.systems import Account, Array, Mechanism, Proposal

SCORES = {"down": "CAE_down", "up": "CAE_up", "down without noise": "CAE_down_nf", "up without noise": "CAE_up_nf"}
AROUND = 0.1  # half of the width of what a value is set to, as in their adder
NOISE = 1.0  # standard deviation of what variables are overwritten with, as in their contrasts
SILENT = 60  # above every level that is logged at


def cae(claim: Proposal, seed: int = 0, n: int = 300, batch: int = 30, at_most: int = 2) -> dict[str, float]:
    """The four scores by the names of SCORES; 0 is a right account. n: interventions, of at most `at_most` names each.

    Share of what differs, or of an account whose answer is a chance the mean squared difference. The same for the same
    seed. Raises MissingExtra without the package.
    """
    judge = _package()
    account = claim.account
    coarse, values = _maps(judge, claim.mechanism, account)
    config = judge.EvaluationConfig(
        metric="mse" if account.soft else "hard", seed=seed, phi_noise_std=NOISE, logging_level=SILENT
    )
    run = _low_level(judge, claim.mechanism, account)
    engine = judge.EvaluationEngine(_high_level(judge, account), run, values, coarse, config)
    samplers = {"down": judge.TopDownSampler(values), "up": judge.BottomUpSampler(values)}
    tasks = [
        judge.StandardTasks.score(engine.builder, sampler=samplers[ours.split()[0]], name=theirs,
                                  include_faithfulness="without" not in ours)
        for ours, theirs in SCORES.items()
    ]  # fmt: skip
    with redirect_stderr(StringIO()):  # bars of progress
        found = engine.run_tasks(tasks, n_samples=n, batch_size=batch, max_interventions=at_most).summary()
    return {ours: float(found[theirs]) for ours, theirs in SCORES.items()}


def _package() -> Any:
    try:
        import causal_abstraction
    except ImportError:
        raise MissingExtra(
            "the study of metrics asks the package causal-abstraction-eval: pip install 'abstraction-probekit[study]'."
        ) from None
    return causal_abstraction


def _maps(judge: Any, mechanism: Mechanism, account: Account) -> tuple[Any, Any]:
    """Which variables stand for what, and what their values are, in their words."""
    natural = mechanism.run(mechanism.states)
    kinds = {name: bool if set(np.unique(natural[name])) <= {0.0, 1.0} else float for name in mechanism.names}
    schema = judge.MicroVariableSchema([judge.Variable(name, dtype=kind) for name, kind in kinds.items()])
    parts = {name: list(found) for name, found in account.parts.items()}
    coarse = judge.CoarseGrainingMap(schema, parts, internal_variables=account.internal)
    around = 0.0 if account.soft else AROUND
    specs = {
        name: {value: judge.RectSubspace(*((at - around, at + around) for at in _code_of(account, name, value)))
               for value in values}
        for name, values in account.values.items()
    }  # fmt: skip

    class Values(judge.ValueMap):
        """A name's value: the nearest of those it can be set to, or of a chance the chance itself."""

        def abstract(self, abstract_var_name: str, micro_values: Array) -> Any:
            at = dict(zip(account.parts[abstract_var_name], np.reshape(micro_values, (-1, 1)), strict=True))
            if account.soft and abstract_var_name in account.output:
                return float(micro_values[0])
            return min(
                account.values[abstract_var_name], key=lambda value: _distance(account, abstract_var_name, value, at)
            )

    return coarse, Values(coarse, specs)


def _code_of(account: Account, name: str, value: float) -> list[float]:
    return [float(part[0]) for part in account.write({name: np.array([value])}).values()]


def _distance(account: Account, name: str, value: float, at: Mapping[str, Array]) -> float:
    code = zip(_code_of(account, name, value), at.values(), strict=True)
    return sum(float(abs(there - here[0])) for there, here in code)


def _high_level(judge: Any, account: Account) -> Any:
    """The account as their graph: each name told from all before it, and evenly spread where it is set."""
    graph = judge.CausalGraph()
    before: list[str] = []
    for name in account.parts:
        even = dict.fromkeys(account.values[name], 1 / len(account.values[name]))
        if name in account.told.roots:
            graph.add_variable(name, lambda: None, distribution=even)
        else:
            graph.add_variable(name, _told(account.told.equations[name]), parents=list(before), distribution=even)
        before.append(name)
    return graph


def _told(equation: Callable[..., Array]) -> Callable[..., float]:
    return lambda **names: float(np.ravel(equation({name: np.array([value]) for name, value in names.items()}))[0])


def _low_level(judge: Any, mechanism: Mechanism, account: Account) -> Any:
    """The mechanism as their model: what is set stands where its value is, without the width that it was drawn with."""

    class Run(judge.LowLevelModel):
        def forward_with_interventions(self, input_state: Any, interventions: Mapping[str, Array]) -> Any:
            held = {name: np.asarray(found, float).reshape(-1) for name, found in interventions.items()}
            if not account.soft:
                held = {name: _snapped(account, name, found) for name, found in held.items()}
            told = mechanism.run(held)
            return judge.SystemState(values={name: value.reshape(-1, 1) for name, value in told.items()})

    return Run()


def _snapped(account: Account, name: str, found: Array) -> Array:
    """Values of a variable that stands for something, at the nearest that it can have."""
    owner = next((of for of, parts in account.parts.items() if name in parts), None)
    if owner is None:
        return found
    codes = account.codes.get(owner)
    known = np.array(account.values[owner]) if codes is None else codes[:, account.parts[owner].index(name)]
    return known[abs(found[:, None] - known).argmin(1)]
