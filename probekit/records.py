"""Record: one measured number with everything needed to trust it, and the fixed vocabularies of its coordinates.

This is the waist of the package. What makes numbers ends here; what shows numbers starts here.
"""

import hashlib
import json
from dataclasses import dataclass, fields

from probekit.errors import BadInput

SCHEMA_VERSION = 1
SAMPLED = "sampled:"  # how behaviours begin that nobody picked
METRICS = (
    "read", "replace", "transfer", "decomposition", "crossing", "accuracy",
    "steer",  # a direction added at a site: `effect` and `unrelated` are bits, `share` and `wrong` shares
    "selected",  # read at the site of each fold that its selection rows prefer
    "extrapolated",  # read in the limit of many fit rows
    "code_length",  # online code beside the floor
    "auroc",  # 1 - (A - 1/2) / (1/2) along one direction, for two outcomes
    "compose",  # whether parts add up; the arm says in which sense
    "feedback",  # the share of an edit's effect that teacher forcing does not show
    "foresight",  # 1 - (precision - base) / (best - base) at a budget, of a ranking that was made in advance
)  # fmt: skip
ARMS = (
    "",  # read, accuracy: nothing to tell apart
    # replace at one site: kept, all else from donors drawn at random, from donors matched on the readouts, or its mean
    "single:random", "single:matched", "single:mean",
    "chain:random", "chain:matched", "chain:mean",  # replace at all sites at once
    "roll_out",  # replace at all sites up to this one, donors drawn at random
    # replace at one site: erased, its part from donors or its mean, or all that is linear in its label
    "necessity:resample", "necessity:mean", "necessity:leace",
    "positions",  # a bit kept at one of several places that spell it, the others from one donor
    "iia", "iia:odds",  # replace at one site: its part from a donor of another answer, which is to follow; or its odds
    "iia:illusion",  # accuracy of that exchange less that of what of the subspace is read there
    "iia:gap",  # accuracy of that exchange on the pairs that a subspace was learned from, less that on test rows
    "iia:dormant", "iia:far",  # how far that exchange leads off support: shares of the displacement, of edited rows
    "single:random:pair", "single:matched:pair", "chain:random:pair", "chain:matched:pair",  # mean KL per donor
    # replace: the share of its training compute after which the model was as good as with one donor's rest
    "single:random:compute", "single:matched:compute", "chain:random:compute", "chain:matched:compute",
    "linear_first", "simple_first",  # decomposition: order in which the classes are added
    "raw", "refit", "platt50",  # transfer: as fitted; after one temperature and intercepts; after 50 labels
    # transfer to another network on the same inputs: of a frozen reader on rows aligned so, of a frozen function on the
    # other's own directions, of the same form fitted there
    "models:identity", "models:permutation", "models:procrustes", "models:affine", "models:function", "models:refit",
    "additive_value", "pair_value", "dependence",  # compose: E[B | parts], and whether parts tell each other
    # compose, over sets of parts that are kept: log-odds of the model's own answer in bits, or minus its loss
    "additive_ablation", "pair_ablation", "leave_one_out", "alone", "leave_one_out:mean",
    "additive_ablation:loss", "pair_ablation:loss", "leave_one_out:loss", "alone:loss",
    "self_repair:resample", "self_repair:mean",  # compose: the rest of what is behind held, the last norm free or held
    "self_repair:resample:norm_held", "self_repair:mean:norm_held",
    "cross_talk",  # compose: how far other readouts move when one part is set
)  # fmt: skip
# Of `steer`, ending in the dose in standard deviations of the readout: `effect:+2`.
ARM_PREFIXES = ("effect:", "share:", "wrong:", "unrelated:")
LEVELS = (
    "prior", "baseline", "neurons", "direction", "directions", "linear", "nonlinear",
    "absent",  # decomposition only: what no level finds at this site
)  # fmt: skip
LEVEL_PREFIXES = ("simple:", "hypothesis:")
# Directions fitted to another behaviour or feature (`label:truth`, `label:truth:lda`), or brought by a user.
SOURCE_PREFIXES = ("label:", "given:")
SOURCES = (
    "", "behaviour", "mean_difference", "lda", "logistic", "beam", "pca", "random", "joint", "mlp",
    "decoded", "true", "features",
    "das",  # learned so that an answer follows its exchange: distributed alignment search
    "covariance", "least_squares",  # single directions of a number
    "class_means",  # of an AUROC: along the difference of two class means, beside `mean_difference`, E[h (p - floor)]
    "score",  # neurons of older runs, each chosen for itself
)  # fmt: skip
CONTROLS = (
    "", "random_directions", "permuted_in_group", "permuted_groups", "random_twin",
    "row_split",  # rows of a group on both sides of the split: what memorising groups would earn
    "control_task",  # a random label for each type in place of the behaviour
    # of a learned subspace: learned to bring answers that were shuffled among pairs; as far moved, in another direction
    "shuffled_counterfactuals", "placebo",
)  # fmt: skip
# As fitted on whole texts, applied to the same without a named span: `deleted:field:tag`.
CONTROL_PREFIXES = ("deleted:",)
FLOORS = ("strong", "weak")
UNITS = ("example", "pair", "seed")
NA_REASONS = (
    "",
    "small_denominator",  # S(floor) - S(ceiling) below .005 bit or not told apart from 0: nothing to explain
    "too_few_rows",  # a number would have no meaning: too few groups, or rows of a class
    "absent_in_test_domain",  # transfer: the level fitted on the test domain adds nothing there
    "vacuous",  # interchange accuracy: a search in a random network comes as far
    "not_converged",  # the solver did not reach its certificate
    "not_defined",  # the level does not exist for this behaviour or site
    "failed",  # the cell raised; the error is in the run's status
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One number, its coordinates and its figures. Bits are per example; `value` is a fraction unless metric says else.

    value: FBU for read, selected, extrapolated, code_length and replace, a leak on a base of 1/2 for auroc, T for
    transfer, a share for decomposition, a proportion for accuracy, a difference of bits for crossing. low, high: 95 %
    interval. raw: the value before calibration refits or debiasing, where one is done. p99_bits: 99th percentile over
    examples of missed bits; worst_group: the largest mean of missed bits over groups. NA is None in `value` with
    `na_reason` set. n_fit, n_fit_effective: rows that the reader was fitted on (mean over folds) and what they are
    worth; d_read: coordinates that it reads. falls: how much FBU still fell when the fit rows doubled, with its
    interval. auroc, accuracy: of the reader's law, where the behaviour is certain; r2: of the
    reader and its floor together, where it is a number. Coordinates are words of METRICS,
    ARMS, LEVELS, SOURCES, CONTROLS, FLOORS and NA_REASONS; another one is a BadInput. `id` is the digest of the
    coordinates, `row()` the record as a dictionary.

    >>> import probekit as pk
    >>> place = {"behaviour": "truth", "fit_domain": "all", "test_domain": "all", "hook": "blocks.0.hook_resid_post"}
    >>> record = pk.Record(**place, metric="read", level="linear", value=0.7, low=0.6, high=0.8, n=400, groups=100)
    >>> record.value, len(record.id)
    (0.7, 16)
    """

    # coordinates
    run: str = ""
    model: str = ""
    revision: str = ""
    task: str = ""
    behaviour: str
    fit_domain: str
    test_domain: str
    metric: str
    arm: str = ""
    hook: str = ""
    layer: int | None = None
    position: str = "all"
    level: str
    source: str = ""
    k: int | None = None
    parameters: int | None = None
    floor: str = "strong"
    unit: str = "example"
    control: str = ""
    seed_probe: int = 0
    seed_data: int = 0
    seed_model: int = 0
    # figures
    value: float | None = None
    low: float | None = None
    high: float | None = None
    raw: float | None = None
    bits: float | None = None
    floor_bits: float | None = None
    ceiling_bits: float | None = None
    p99_bits: float | None = None
    worst_group: float | None = None
    n: int = 0
    groups: int = 0
    na_reason: str = ""
    note: str = ""
    n_fit: int | None = None
    n_fit_effective: float | None = None
    d_read: int | None = None
    falls: float | None = None
    falls_low: float | None = None
    falls_high: float | None = None
    auroc: float | None = None
    accuracy: float | None = None
    r2: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in _VOCABULARY.items():
            prefixes = _PREFIXES.get(name, ())
            if getattr(self, name) not in allowed and not getattr(self, name).startswith(prefixes):
                known = ", ".join(allowed + prefixes)
                raise BadInput(f"a record's {name} is one of {known}; found '{getattr(self, name)}'.")
        if (self.value is None) != bool(self.na_reason):
            raise BadInput(f"a record has either a value or a reason why not; found {self.value}, '{self.na_reason}'.")

    @property
    def id(self) -> str:
        """Digest of the coordinates: two records with one id are the same cell measured twice."""
        return digest({name: getattr(self, name) for name in COORDINATES})

    def row(self) -> dict:
        """The record as a flat dictionary, `id` and `seed` (the probe's) included."""
        return {"id": self.id, **vars(self), "seed": self.seed_probe}


_VOCABULARY = {
    "metric": METRICS, "arm": ARMS, "level": LEVELS, "source": SOURCES, "control": CONTROLS, "floor": FLOORS,
    "unit": UNITS, "na_reason": NA_REASONS,
}  # fmt: skip
_PREFIXES = {"level": LEVEL_PREFIXES, "control": CONTROL_PREFIXES, "source": SOURCE_PREFIXES, "arm": ARM_PREFIXES}
_NAMES = [f.name for f in fields(Record)]
COORDINATES = tuple(_NAMES[: _NAMES.index("value")])
FIGURES = tuple(_NAMES[_NAMES.index("value") :])


@dataclass(frozen=True)
class Losses:
    """Sums over one group behind a record: value = sum(numerator) / sum(denominator) over groups."""

    record: str
    group: list[str]
    numerator: list[float]
    denominator: list[float]
    n: list[int]


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: the text that every digest in the package is taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: object, n_hex: int = 16) -> str:
    """SHA-256 of the canonical JSON, shortened to `n_hex` hexadecimal digits."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:n_hex]
