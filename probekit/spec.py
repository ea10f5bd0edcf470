"""JobSpec: what a batch job asks for. Read from strict TOML: an unknown key is an error that names the nearest."""

import tomllib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from probekit.errors import BadInput, check_texts, nearest
from probekit.levels import DEFAULT, SIMPLE, Level
from probekit.records import SAMPLED, digest


def _levels(names: tuple[str, ...]) -> tuple[str, ...]:
    """Known, each once; hypotheses are stated in a table of their own."""
    for i, name in enumerate(names):
        if Level.parse(name).family == "hypothesis":
            raise BadInput(f"'{name}' is no level to be fitted: state it as a hypothesis of its own.")
        if name in names[:i]:
            raise BadInput(f"level '{name}' is asked for twice.")
    return names


def _simple(name: str) -> str:
    if name not in SIMPLE:
        raise BadInput(f"no simple class '{name}': there are {', '.join(SIMPLE)}.")
    return name


def _kept(names: tuple[str, ...]) -> tuple[str, ...]:
    """Levels that look along k directions, which a run can be made to keep."""
    for name in names:
        if Level.parse(name).family not in ("direction", "directions", "neurons", "simple"):
            raise BadInput(
                f"replace keeps directions, of the levels direction, directions, neurons and simple:; not '{name}'."
            )
    return names


def _token(token: object) -> object:
    if isinstance(token, bool):  # which Python counts as the numbers 1 and 0
        raise BadInput(f"{str(token).lower()} is no token: give an id, or a text in quotes.")
    return token


def _two(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(names) != 2 or names[0] == names[1]:
        found = " and ".join(f"'{name}'" for name in names) or "none"
        raise BadInput(f'`pair` and `members` name two different columns, such as ["good", "bad"]; found {found}.')
    return names


def _a_time(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f'`chat_time` is a date or a time, such as "2026-01-01"; found {text!r}.') from None
    return text


FEW_ROWS = 5_000  # of the seen domain, below which every group is tested unless folds are asked for
FEW_FOLDS = (5, 3)  # outer and inner, there
Name = Annotated[str, Field(min_length=1)]
DIRECTIONS_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}"  # it stands in the names of tensors and columns
Arm = Literal[
    "single:random", "single:matched", "single:mean", "chain:random", "chain:matched", "chain:mean", "roll_out",
    "necessity:resample", "necessity:mean", "necessity:leace", "iia",
]  # fmt: skip
Token = Annotated[int | str, BeforeValidator(_token)]
Adapter = Annotated[str | None, BeforeValidator(lambda name: None if name in ("none", "") else name)]
Levels = Annotated[tuple[str, ...], AfterValidator(_levels)]


class _Strict(BaseModel):
    # What stands below a field is its description, which docs/spec.md is made of (cli/reference.py).
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class ModelSpec(_Strict):
    """The model. A job on a bundled testbed needs none of it."""

    name: str
    """A hub name, a local folder or GGUF file relative to the spec file, or a bundled testbed."""
    revision: str | None = None
    """Of a hub model: a branch, tag or commit."""
    adapter: Adapter = Field(default=None, exclude_if=lambda name: name is None)  # digests of before are as they were
    """Low-rank changes of the weights, merged into them by peft: a folder relative to the spec file, or a hub name.
    `none` is the model as it is."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Numbers the model computes in and activations are stored in. Cost: bfloat16 takes half the memory and disk, and
    rounds activations by up to 1 part in 256. Readers are fitted in float32 either way."""
    bos: Literal["exactly_one", "none", "as_is"] = "as_is"
    """Tokens that begin a sequence: one, none, or what the tokenizer and the text give."""
    eos: Literal["as_is", "none"] = "as_is"
    """Special tokens that the tokenizer puts behind a text: what it gives, or none. Nothing that the model does behind
    one is measured."""
    backend: Literal["auto", "bridge", "hf"] = "auto"
    """Which forward activations come from: TransformerLens (`bridge`), Hugging Face's own (`hf`), or the second where
    both agree on a sample of the texts. Cost: `bridge` is the slower one."""
    seed: NonNegativeInt = Field(default=0, exclude_if=lambda n: n == 0)  # digests of before are as they were
    """What it was trained from, where several networks differ in that alone: `seed_model` of its records."""
    twin: bool = True
    """Also capture a randomly initialised network of the same architecture, for the control `random_twin`. Cost: a
    second capture, in time and in disk."""


class BehaviourEntry(_Strict):
    """One behaviour: what counts as something that the model did. Tokens are ids or strings of exactly one token."""

    name: Name
    """What records call it."""
    kind: Literal["law", "argmax", "choice", "logit_diff", "groups", "generation", "label", "value", "logprob"] = "law"
    """`law`: next-token law. `argmax`: its likeliest token. `choice`: law among answers. `logit_diff`: the first of two
    answers against the second. `groups`: mass of sets of tokens. `generation`: which rule the continuation meets.
    `label`: a column; nothing is read off the model. `value`: a number, of a column or the log-odds of two answers.
    `logprob`: log-probability of the text, or of a completion, in nats."""
    tokens: tuple[Token, ...] | None = None
    """Outcomes of `law` and `argmax` (all of the vocabulary when absent), answers of `choice` and `logit_diff`, the two
    of the log-odds of `value`."""
    sets: dict[str, tuple[Token, ...]] | None = None
    """For `groups`: an outcome's name and its tokens."""
    column: str | None = None
    """For `label`, and for `value` that is no log-odds: the column of the file."""
    answers: str | None = None
    """For `choice`: a column of lists of answers, which differ from row to row."""
    correct: str | None = None
    """For `logit_diff` and `value`: a column of first answers."""
    wrong: str | None = None
    """For `logit_diff` and `value`: a column of second answers."""
    first_token: bool = False
    """Whether an answer of several tokens stands for its first one. Otherwise it is an error."""
    whole: bool = False
    """For `choice`, `logit_diff` and `value`: whether answers are texts of any length, which follow the whole text of
    their row. The law is of their probabilities, renormalised. Cost: a forward pass per answer."""
    completion: str | None = None
    """For `logprob`: a column of what follows the text of its row, and is scored in its place. Token ids where those
    are read. Cost of `logprob`: a forward pass."""
    per_token: bool = False
    """For `logprob` and with `whole`: means over tokens in place of sums."""
    difference: bool = False
    """For `logprob` of a `pair`: this member's less the other's."""
    match: dict[str, str | tuple[str, ...]] | None = None
    """For `generation`: an outcome and its rule, a list of beginnings or a regular expression. The first rule that is
    met counts."""
    n_tokens: int | None = Field(default=None, gt=0)
    """For `generation`: tokens written. Cost: one forward pass per token and sample."""
    samples: int = Field(default=0, ge=0)
    """For `generation`: continuations drawn. 0 takes the likeliest token each time, once."""
    temperature: PositiveFloat = 1.0
    """For `generation`: of the draws."""
    seed: NonNegativeInt = 0
    """For `generation`: of the draws."""


class SampledSpec(_Strict):
    """Contrasts of next tokens that the model gives mass to on the texts. `behaviours = "sampled:200"` is `n = 200`."""

    n: PositiveInt
    """How many. Cost: every level is fitted for each; what a hook point's rows need is done once."""
    seed: NonNegativeInt = 0
    """Of the draws. `behaviours = "sampled:200:7"` is 200 from seed 7."""
    size: PositiveInt = 1
    """Tokens on either side. One against one is a law of two, more are a law of two sets and the rest."""

    @classmethod
    def read(cls, text: str) -> "SampledSpec":
        """`sampled:200` or `sampled:200:7`. Raises BadInput for another text."""
        word, _, rest = text.partition(":")
        n, _, seed = rest.partition(":")
        if word + ":" != SAMPLED or not n.isdecimal() or int(n) < 1 or not (seed or "0").isdecimal():
            raise BadInput(f'behaviours is a list of tables or "{SAMPLED}200", 200 sampled ones; found {text!r:.40}.')
        return cls(n=int(n), seed=int(seed or 0))


class FeatureEntry(_Strict):
    """A named concept, which accuracy is measured for and hypotheses speak of."""

    name: Name
    """What records and rules call it."""
    column: str
    """The column of its labels."""


class Turn(_Strict):
    """One turn of a chat."""

    role: str
    """`system`, `user`, `assistant`, or what the model's chat template knows."""
    content: str
    """A template, filled from columns."""


SOURCES = ("text", "tokens", "template", "chat", "messages", "pair")


class TaskSpec(_Strict):
    """What is asked of the model: a bundled `testbed`, or a `file` and one of text, tokens, template, chat, messages,
    pair ([text.md](text.md))."""

    testbed: str | None = None
    """A bundled task: `othello-6x6`, or `tiny-world-s` or `tiny-world-l`."""
    file: str | None = None
    """CSV, TSV, JSON, JSONL or Parquet, relative to the spec file. One row is one example."""
    text: str | None = None
    """A column of texts."""
    tokens: str | None = None
    """A column of token ids."""
    template: str | None = None
    """A text filled from columns: `the capital of {country} is`."""
    chat: tuple[Turn, ...] | None = None
    """Turns filled from columns, rendered by the tokenizer's own chat template."""
    messages: str | None = None
    """A column of chats."""
    pair: Annotated[tuple[str, ...], AfterValidator(_two)] | None = None
    """Two columns of texts that are a pair: `["good", "bad"]`. A row is two examples of one group, and a column `pair`
    says which of the two each is."""
    members: dict[str, Annotated[tuple[str, ...], AfterValidator(_two)]] = {}
    """Columns that the members of a `pair` have one each of: `truth = ["claim_true", "negation_true"]` makes a column
    `truth`."""
    generation_prompt: bool | None = None
    """Whether the assistant's turn is opened after a chat. When absent, unless the assistant has the last word."""
    chat_time: Annotated[str, AfterValidator(_a_time)] | None = None
    """For a chat template that writes the date into every prompt: the one that it writes, `2026-01-01` or with a time
    of day. Without it such a template is refused, since no prompt would be the same tomorrow."""
    spans: dict[str, str | tuple[str, str]] = {}
    """Named pieces of the text: a column that holds the piece, or columns of its first and last-plus-one character."""
    truncate: Literal["refuse", "right"] = "refuse"
    """What happens to rows longer than the model's context: an error, or their beginning is read."""
    missing: Literal["refuse", "drop"] = "refuse"
    """What happens to rows that lack a value in a column that is asked for, other than a span's: an error, or they are
    left out and counted."""
    copies: Literal["merge", "keep"] = "merge"
    """What becomes of groups that have the same texts: they are one, or stay apart; both are counted and told. A group
    counts where half of its rows do. Where there are more than four groups to one input, those of token ids stay apart,
    and those of text where fewer than 20 would be left."""
    id: str | None = None
    """A column that names examples."""
    group: str | None = None
    """The column of what could be memorised: template, entity, game. No group lies on two sides of a split. When absent
    each row is a group of its own."""
    domain: str | None = None
    """The column of situations. The first one in the file is the seen one."""
    position: str | tuple[str, ...] | None = None
    """Rules of where each example is read ([text.md](text.md)); the last token when absent. Cost: each further rule is
    measured apart, from the same capture."""
    answer: str | None = None
    """Where the model's own behaviours are read, if not where activations are: a rule that names one token of each row,
    such as `last` beside `position = "field:city"`."""
    behaviours: tuple[BehaviourEntry, ...] = ()
    """What the model did. A testbed brings its own. Cost: every level is fitted for each. `"sampled:200"`, in its place
    or in the list, is short for `sampled`."""
    sampled: SampledSpec | None = Field(default=None, exclude_if=lambda one: one is None)  # digests of before stay
    """Behaviours that nobody picks, beside those that are named."""
    features: tuple[FeatureEntry, ...] = ()
    """Named concepts."""
    n_examples: int | None = Field(default=None, gt=0)
    """Per domain: a cap for a file's rows; for a testbed the number of games or stories, twice as many in the seen
    domain."""
    n_positions: int | None = Field(default=None, gt=0)
    """For a testbed: places read per example."""

    @model_validator(mode="before")
    @classmethod
    def _sampled(cls, raw: Any) -> Any:
        """`behaviours = "sampled:200"`, or such a text in the list, as the table `sampled`."""
        asked = raw.get("behaviours") if isinstance(raw, Mapping) else None
        listed = [asked] if isinstance(asked, str) else asked if isinstance(asked, list | tuple) else []
        texts = [one for one in listed if isinstance(one, str)]
        if not texts:
            return raw
        if len(texts) > 1 or raw.get("sampled") is not None:
            raise BadInput(f"behaviours are sampled once; found {len(texts)} texts and a table `sampled`: keep one.")
        rest = [one for one in listed if not isinstance(one, str)]
        return {**raw, "behaviours": rest, "sampled": SampledSpec.read(texts[0])}

    @model_validator(mode="after")
    def _one_task(self) -> "TaskSpec":
        if self.testbed is not None and self.file is not None:
            raise BadInput(
                f"the task names both the testbed '{self.testbed}' and the file '{self.file}': leave one of them out."
            )
        return self

    @property
    def source(self) -> str:
        """Which of SOURCES the file's examples come from. Raises BadInput unless exactly one is named."""
        named = [name for name in SOURCES if getattr(self, name) is not None]
        if len(named) != 1:
            found = " and ".join(named) or "none"
            raise BadInput(f"a file task names one of {', '.join(SOURCES)}; found {found}: name exactly one.")
        for key in ("generation_prompt", "chat_time"):
            if not self.source_is_chat and getattr(self, key) is not None:
                raise BadInput(f"`{key}` belongs to a chat, and this task reads `{named[0]}`: leave it out.")
        if named[0] == "tokens" and self.spans:
            raise BadInput("`spans` are found in text, and this task reads token ids: use `position` or a mask.")
        return named[0]

    @property
    def clock(self) -> datetime | None:
        """What a chat template that asks for the time is told."""
        return None if self.chat_time is None else datetime.fromisoformat(self.chat_time)

    @property
    def source_is_chat(self) -> bool:
        return self.chat is not None or self.messages is not None


class HypothesisEntry(_Strict):
    """A stated hypothesis: features and a rule from them to a law. Running a job runs the rule, which is your code."""

    name: Name
    """Its level is `hypothesis:<name>`."""
    rule: str
    """`file.py:function`, relative to the spec file. It gets {feature: labels [n, targets]} and returns a law
    [n, outcomes]; a row of zeros makes no claim."""
    features: tuple[str, ...]
    """The features that the rule is given."""
    behaviour: str = ""
    """The behaviour it speaks of. When empty, every one with as many outcomes as its law."""


class DirectionsEntry(_Strict):
    """Directions of your own: a source `given:<name>` of the level `directions`, which is read, replaced, moved and, of
    a single one, steered. A row is a direction."""

    name: str = Field(pattern=f"^{DIRECTIONS_NAME}$")
    """Their source is `given:<name>`."""
    file: str
    """Relative to the spec file. `.npy`: [k, d], or [d] for one, with `hook`. `.safetensors`: a tensor for each hook
    point, or one of them with `hook`; or a reader that `save_reader` wrote. `file.py:function`: your code, which
    running a job runs; it returns {hook: [k, d]}, and its source is hashed into the run."""
    hook: str | None = None
    """Where they are, for a file that does not say; a pattern, for all that are read of it."""
    tensor: str | None = None
    """With `hook`: the tensor of a `.safetensors` file that holds several, such as an SAE's decoder."""
    rows: tuple[NonNegativeInt, ...] | None = Field(default=None, min_length=1)
    """Rows that are picked, such as an SAE's latents, from 0 on. All when absent."""


class ReadSpec(_Strict):
    """Which levels are read at which hook points."""

    hooks: tuple[str, ...] = ("blocks.0.hook_resid_pre", "blocks.*.hook_resid_post")
    """TransformerLens names; `*` stands for every layer. Cost: time and disk grow with their number."""
    levels: Levels = DEFAULT
    """Levels of [method.md](method.md#1-read). Cost: `nonlinear` and `simple:` take most of the time."""
    ks: tuple[PositiveInt, ...] = Field(default=(1, 2, 4, 8, 16, 32, 64, 128), min_length=1)
    """Numbers of directions or neurons of the levels that have a k. Those above the width are left out."""
    simple_ks: tuple[PositiveInt, ...] = Field(default=(1, 2, 4, 8), min_length=1)
    """The same for `simple:` levels, at most 8. Cost: grows with the square of k."""
    lambdas: tuple[PositiveFloat, ...] = Field(default=(1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6), min_length=1)
    """Ridges that are tried, in units of the median variance. Cost: little, since they are one path."""
    controls: tuple[Literal["random_directions", "permuted", "random_twin", "row_split", "control_task"], ...] = (
        "random_directions", "permuted", "random_twin", "row_split", "control_task",
    )  # fmt: skip
    """[method.md](method.md#8-controls) says how to read each; `random_twin` needs `twin` of `[model]`. Cost: a fit of
    `linear` each, and of a floor for the last two."""
    delete: tuple[str, ...] = ()
    """Spans of the text that readers are also tried without: `field:tag`, `role:system`. Cost: a capture each."""
    filler: Token | None = None
    """A token in place of each deleted one. When absent the text closes up."""
    outer_folds: int | None = Field(default=None, ge=1)
    """Of whole groups, each tested once. 1 tests a single quarter. When absent: 5 where the seen domain has fewer than
    5,000 rows, else 1. Cost: fits are made once per fold."""
    inner_folds: int | None = Field(default=None, ge=1)
    """Folds over which ridges are chosen, inside each outer fold's training rows. 1 chooses on the select rows. When
    absent: 3 where the seen domain has fewer than 5,000 rows, else 1."""
    n_permutations: int = Field(default=199, ge=0)
    """Permutations behind `p_max`, the p-value that corrects for having looked at all sites. 0: no p-value. The
    smallest p-value is 1 / (1 + n_permutations). Cost: a pass over logits each; no fit."""
    extrapolate: bool = True
    """Also fit `direction` and `linear` on a quarter and half of the rows, for the limit of many rows. Needs 16 rows
    per coordinate. Cost: three more fits of both."""
    falls: bool = True
    """Also fit `linear` on half of the groups, to tell how much its value still falls with more rows. Cost: less than
    one more fit of `linear`."""
    online_orders: int = Field(default=0, ge=0)
    """Orders of the online code; print means of 5 or more. 0: none. Cost: about ten fits of every level per order."""
    decomposition: bool = True
    """Whether the bits of a site are shared out to classes. Cost: two more chains of fits, with a multilayer perceptron
    in each."""
    decomposition_k: int = Field(default=4, gt=0)
    """Directions of the classes `directions` and `simple` in it."""
    decomposition_simple: Annotated[str, AfterValidator(_simple)] = "quadratic"
    """The simple class in it: one of those after `simple:`, without the prefix."""
    floors: tuple[Literal["strong", "weak"], ...] = ("strong", "weak")
    """Which floors are measured. `strong` reads all that the input shows and is always fitted; `weak` reads the
    position alone, and shows what a weak floor would credit to the network. Cost: one more fit of `linear`."""
    features: tuple[str, ...] | None = None
    """Features that are read, for accuracy and hypotheses. All of the task's when absent."""

    def folds_of(self, n_rows: int) -> tuple[int, int]:
        """(outer, inner) folds of a seen domain of so many rows."""
        outer, inner = FEW_FOLDS if n_rows < FEW_ROWS else (1, 1)
        return self.outer_folds or outer, self.inner_folds or inner

    def features_of(self, known: Sequence[str]) -> tuple[str, ...]:
        """The features that are read, of those that the task has. Raises BadInput for another."""
        for name in self.features or ():
            if name not in known:
                raise BadInput(f"read.features names '{name}'; the task's features are: {', '.join(known) or 'none'}.")
        return tuple(known) if self.features is None else self.features


GENERATION = "generation"


def shown_of(kinds: Mapping[str, str], asked: tuple[str, ...], table: str) -> tuple[str, ...]:
    """Behaviours (name -> kind) that one forward pass shows, or those `asked`. Raises BadInput for another."""
    shown = tuple(name for name, kind in kinds.items() if kind not in ("label", "generation", "value", "logprob"))
    for name in asked:
        if name not in shown:
            raise BadInput(f"{table}.behaviours has '{name}', which is no behaviour that one forward pass shows.")
    return asked or shown


class ReplaceSpec(_Strict):
    """The network run with the abstraction kept, or erased ([method.md](method.md#2-replace)). Left out, nothing is.

    Cost: rows x donors runs of the tokens from the first edited one on, per level, k, arm and domain; the dearest part
    on a large model.
    """

    hooks: tuple[str, ...] = ()
    """Among those of `[read]`. When empty, those of them that are resid_post, or all where none is."""
    behaviours: tuple[str, ...] = ()
    """Behaviours of the model's own output. All that one forward pass shows when empty."""
    levels: Annotated[Levels, AfterValidator(_kept)] = ("directions",)
    """Levels whose directions are kept, of those and of the ks that `[read]` has: direction, directions, neurons and
    simple:."""
    labels: tuple[str, ...] | None = None
    """Labels whose directions are kept beside those of the behaviour itself: does the model's own answer run on what
    tells the label? All of the task's when absent. Cost: each as much as the behaviour's own."""
    features: tuple[str, ...] = ()
    """Features whose decoded directions are kept together."""
    ks: tuple[PositiveInt, ...] = Field(default=(1, 4, 16, 64), min_length=1)
    """Numbers of directions kept."""
    donors: int = Field(default=16, ge=2)
    """Rows that what is not kept is taken from, per row."""
    rows: int = Field(default=256, ge=16)
    """Test rows that are run."""
    swap: str | None = None
    """A field of the text. `iia` then exchanges with texts that differ in this field alone, made of the task's own
    rows. Cost: rows x swaps texts are run."""
    swaps: PositiveInt = 4
    """Texts that are made for each row."""
    das_ks: tuple[PositiveInt, ...] = ()
    """Ranks at which a subspace is learned by interchange (distributed alignment search), on fit rows. Cost: das_steps
    x 256 runs of the edited token, forwards and backwards, at each hook point."""
    das_steps: PositiveInt = 150
    """Steps of that search, at most."""
    das_controls: tuple[Literal["random_twin", "shuffled_counterfactuals", "placebo"], ...] = (
        "random_twin", "shuffled_counterfactuals", "placebo",
    )  # fmt: skip
    """What stands beside a learned subspace in `iia`: the same search in a randomly initialised network, without which
    nothing says that it is not the search that succeeds; one for answers that were shuffled among the pairs; and as
    large a move in random directions. Cost: the first two as much as the search itself, and a capture of the twin."""
    arms: tuple[Arm, ...] = (
        "single:random", "single:matched", "single:mean", "necessity:resample", "necessity:mean", "necessity:leace",
        "iia", "chain:random", "chain:matched",
    )  # fmt: skip
    """`single`: kept at one hook point at a time. `chain`: at all at once. `roll_out`: at the first ones, up to each.
    `necessity`: erased at one. `iia`: exchanged at one with a donor's that answers otherwise: does the answer follow?
    `random`, `resample`: any donors. `matched`: donors with nearly the same value of what is kept. `mean`: no donor.
    `leace`: all that is linear in the label goes. Cost: `mean` and `leace` a run per row."""

    curves: dict[str, str] = {}
    """Of a behaviour: a file, relative to the spec file, of the model's own checkpoints, with columns `compute` (steps,
    tokens or FLOPs: shares of the last one are told) and `loss` in nats, of that behaviour on texts like these. What is
    lost under `random` and `matched` is then also told as the share of training after which the model was this good."""

    def labels_of(self, kinds: Mapping[str, str], behaviour: str) -> tuple[str, ...]:
        """The labels whose directions are kept for a behaviour. kinds: of the task's behaviours. Raises BadInput."""
        known = tuple(name for name, kind in kinds.items() if kind == "label")
        for name in self.labels or ():
            if name not in known:
                raise BadInput(f"replace.labels names '{name}'; the task's labels are: {', '.join(known) or 'none'}.")
        asked = known if self.labels is None else self.labels
        return tuple(name for name in asked if name != behaviour)

    def behaviours_of(self, kinds: Mapping[str, str]) -> tuple[str, ...]:
        """The behaviours that are replaced, of the task's (name -> kind). Raises BadInput for one that cannot be."""
        asked = shown_of(kinds, self.behaviours, "replace")
        for name in self.curves:
            if name not in asked:
                raise BadInput(f"replace.curves names '{name}'; what is replaced is: {', '.join(asked) or 'nothing'}.")
        return asked


class ComposeSpec(_Strict):
    """Whether parts add up ([method.md](method.md#4-compose)). Left out, nothing is composed.

    Cost: rows x donors x 2 ^ parts runs of the edited token per hook point and behaviour, or `sets` in place of the
    power where there are more than 12 parts.
    """

    parts: tuple[Name, ...] = ()
    """Features of `[read]`: what each is decoded along is a part. Two or more, or else `k`."""
    k: int | None = Field(default=None, ge=2)
    """Without `parts`: that many leading principal directions, each of them a part."""
    hooks: tuple[str, ...] = ()
    """Among those of `[read]`. When empty, those of them that are resid_post, or all where none is."""
    behaviours: tuple[str, ...] = ()
    """Behaviours of the model's own output. All that one forward pass shows when empty."""
    rows: int = Field(default=64, ge=16)
    """Test rows that are run."""
    donors: int = Field(default=8, ge=2)
    """Rows that parts are taken from, per row."""
    sets: int = Field(default=512, ge=16)
    """Of more than 12 parts: sets of them that are drawn."""
    bins: int = Field(default=2, ge=2)
    """Values that a direction is told apart into, where it is no feature with labels of its own."""

    @model_validator(mode="after")
    def _some_parts(self) -> "ComposeSpec":
        if bool(self.parts) == bool(self.k) or len(self.parts) == 1 or len(set(self.parts)) < len(self.parts):
            found = f"parts {', '.join(self.parts) or 'none'} and k {self.k or 'none'}"
            raise BadInput(f"compose takes `parts`, two or more different features, or `k`; found {found}.")
        return self

    def behaviours_of(self, kinds: Mapping[str, str]) -> tuple[str, ...]:
        """The behaviours that are composed, of the task's (name -> kind). Raises BadInput for one that cannot be."""
        return shown_of(kinds, self.behaviours, "compose")

    def check_parts(self, features: Sequence[str]) -> None:
        """Raise BadInput for a part that is none of the features that are read."""
        for name in self.parts:
            if name not in features:
                near = nearest(name, features)
                hint = f"did you mean '{near}'? There are {', '.join(features)}." if near else "there are none."
                raise BadInput(f"compose.parts names '{name}', which is no feature that is read: {hint}")


class SteerSpec(_Strict):
    """A direction added where `[replace]` edits, in several doses: those of the behaviour, of labels and learned ones.

    Left out, nothing is steered. It takes hooks, labels and rows from `[replace]`, which it needs. Cost: two runs of
    the edited token per row, dose and direction; of a behaviour of kind `generation` as many texts are written.
    """

    doses: tuple[float, ...] = Field(default=(-4.0, -2.0, -1.0, 1.0, 2.0, 4.0), min_length=1)
    """In standard deviations of the direction's readout over fit rows."""
    behaviours: tuple[str, ...] = ()
    """Those of `[replace]`, and all of kind `generation`, when empty."""
    written: bool = True
    """Of kind `generation`: the dose is at every token from the first edited one on, those that the model writes
    included. Otherwise at the edited ones alone."""

    def behaviours_of(self, kinds: Mapping[str, str], replaced: tuple[str, ...]) -> tuple[str, ...]:
        """The behaviours that are steered, of the task's (name -> kind). Raises BadInput for one that cannot be."""
        written = tuple(name for name, kind in kinds.items() if kind == GENERATION)
        shown = (*shown_of(kinds, (), "steer"), *written)
        for name in self.behaviours:
            if name not in shown:
                raise BadInput(
                    f"steer.behaviours has '{name}', which no model says or writes; those of this task that one does: "
                    f"{', '.join(shown) or 'none'}."
                )
        return self.behaviours or (*replaced, *written)


class TransferSpec(_Strict):
    """Fitted on one domain, applied to another, for all pairs. Left out, nothing is transferred."""

    levels: Levels = ("linear",)
    """Levels that are moved. Cost: a fit of each in every domain."""
    domains: tuple[str, ...] = ()
    """Domains between which. All of the task's when empty."""


class BudgetSpec(_Strict):
    """What a run may take, of a file of many jobs all of them together. It decides no number: a job goes on under
    another one.

    `plan` tells what is known to be needed, `run` refuses to start what is known to need more.
    """

    minutes: PositiveFloat | None = None
    """Of each call of `run`, which then stops between cells; the same command goes on."""
    gigabytes: PositiveFloat | None = None
    """Of activations, 10^9 bytes each, that the store is to hold for it."""


class AcrossSpec(_Strict):
    """Of a sweep over models: what was fitted on one of them, asked of another one on the same rows, task by task and
    seed by seed (`pk.transfer_across`, docs/method.md)."""

    depths: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(0.5, 1.0), min_length=1)
    """Where each model is read: behind this share of its blocks, at least one. 1 is behind the last one."""
    anchors: float = Field(default=0.25, gt=0, lt=1)
    """Share of the groups whose rows align two models, and are measured by nothing."""
    levels: tuple[Literal["neurons", "direction", "directions", "linear"], ...] = Field(
        default=("direction", "linear"), min_length=1
    )
    """Levels whose readers are carried over."""
    ks: tuple[PositiveInt, ...] = Field(default=(1, 4), min_length=1)
    """Of levels that have a k."""
    alignments: tuple[Literal["identity", "permutation", "procrustes", "affine"], ...] = ("procrustes", "affine")
    """Classes of maps from one model's rows to another's. `identity` and `permutation` ask for equal widths."""


class JobSpec(_Strict):
    """A batch job, as a TOML file says it.

    `read_toml` reads a file, `check` a plain dictionary; every mistake is one BadInput sentence. `id` is the digest of
    all that the file says.

    >>> from probekit import JobSpec
    >>> job = JobSpec.check({"name": "first", "task": {"testbed": "othello-6x6"}}, "here")
    >>> job.read.folds_of(1_000), job.read.folds_of(100_000), len(job.id)
    ((5, 3), (1, 1), 16)
    >>> JobSpec.check({"name": "first", "task": {"testbd": "othello-6x6"}}, "here")
    Traceback (most recent call last):
    probekit.errors.BadInput: here: unknown key 'task.testbd'. Did you mean 'testbed'?
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,90}$")
    """The run folder's name begins with it."""
    model: ModelSpec | None = None
    """The model; absent for a testbed, which brings its own."""
    task: TaskSpec
    """What is asked of it."""
    hypotheses: tuple[HypothesisEntry, ...] = ()
    """Stated hypotheses."""
    directions: tuple[DirectionsEntry, ...] = ()
    """Directions of your own. Cost: a fit of each at each of the ks of `[read]` where it is given."""
    read: ReadSpec = ReadSpec()
    """Is it there?"""
    replace: ReplaceSpec | None = None
    """Does the model run on it?"""
    steer: SteerSpec | None = None
    """What does adding it do?"""
    compose: ComposeSpec | None = None
    """Do the parts add up?"""
    transfer: TransferSpec | None = None
    """Does it carry over?"""
    seed_probe: NonNegativeInt = 0
    """Decides starts and draws of fits."""
    seed_data: NonNegativeInt = 0
    """Decides splits, bootstrap and permutations."""
    repeats: int = Field(default=1, ge=1)
    """Splits that every level is read on: seeds `seed_data`, `seed_data` + 1 ... All else is measured on the first one,
    whose values are told with the spread over all. Cost: a fit of the floors and of every level each."""
    n_bootstrap: int = Field(default=2000, ge=200)
    """Cluster bootstrap samples behind every interval. Cost: little."""
    budget: BudgetSpec = Field(default=BudgetSpec(), exclude=True)  # no part of what a job is
    """What it may take."""

    @model_validator(mode="after")
    def _kept_levels_are_read(self) -> "JobSpec":
        """Those that are named: the default is left out where it is not read."""
        names = [entry.name for entry in self.directions]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise BadInput(f"two of the directions are named '{twice}': give each a name of its own.")
        if self.steer is not None and self.replace is None:
            raise BadInput("[steer] takes its hook points and directions from [replace], which is not there: add it.")
        asked = () if self.replace is None or self.replace.levels == ReplaceSpec().levels else self.replace.levels
        for name in asked:
            if name not in self.read.levels:
                raise BadInput(
                    f"replace.levels has '{name}', which read.levels lacks: its directions come from there, so name it "
                    "in both."
                )
        return self

    @property
    def id(self) -> str:
        """Digest of the spec. Data, model and hypothesis sources are hashed beside it where they are read."""
        return digest(self.model_dump(mode="json"))

    def edited_of(self, kinds: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """Behaviours that are replaced and that are steered, of the task's (name -> kind). Raises BadInput."""
        replaced = self.replace.behaviours_of(kinds) if self.replace else ()
        steered = self.steer.behaviours_of(kinds, replaced) if self.steer else ()
        return {"replace": replaced, "steer": steered}

    @property
    def seeds(self) -> tuple[int, int, int]:
        """Of fits, of draws of rows, and of the model: `seed_probe`, `seed_data`, `seed_model` of records."""
        return self.seed_probe, self.seed_data, self.model.seed if self.model else 0

    @property
    def wants_twin(self) -> bool:
        """Whether the activations of the randomly initialised network are read, too."""
        return "random_twin" in self.read.controls and (self.model is None or self.model.twin)

    @property
    def backend(self) -> str:
        """Whose forward is asked for: `auto` where no model is named."""
        return self.model.backend if self.model else "auto"

    @classmethod
    def read_toml(cls, path: Path) -> "JobSpec":
        """Read and check a TOML file; every mistake is one BadInput sentence."""
        return cls.check(read_table(path), str(path))

    @classmethod
    def check(cls, raw: dict, where: str) -> "JobSpec":
        """Validate a plain dictionary read from `where`."""
        return validate(cls, raw, where)


_EITHER = ("str", "int")  # pydantic's names of the types of a union, at the end of a problem's place
_Model = TypeVar("_Model", bound=BaseModel)


def read_table(path: Path) -> dict[str, Any]:
    """The table of a TOML file. Raises BadInput for a file that is none."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # editors on Windows put a mark in front
    except FileNotFoundError:
        raise BadInput(f"no spec file {path}.") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be read as a spec file ({error.strerror}): give a TOML file.") from None
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not TOML, which is UTF-8 ({error.reason}): save it as UTF-8.") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no TOMLDecodeError
        raise BadInput(f"{path} is not TOML: {error}.") from None


def validate(model: type[_Model], raw: dict, where: str) -> _Model:
    """Check a plain dictionary against one of the tables here; a mistake is one BadInput sentence."""
    check_texts(raw, where)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise BadInput(f"{where}: {_sentence(error, model)}") from None
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None


def _sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a pydantic error, as one sentence; an unknown key names the nearest known one.

    Of a value that fits none of several types, what each of them asks for.
    """
    problems = error.errors()
    # A misspelt required key is both missing and extra: the extra one says what to correct.
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    *parents, key = first["loc"]
    if first["type"] != "extra_forbidden":
        said = [first["msg"]]
        if key in _EITHER:
            said += [p["msg"] for p in problems if p["loc"][: len(parents)] == tuple(parents)]
        else:
            parents.append(key)
        told = dict.fromkeys(message.replace("valid tuple", "list") for message in said)
        return f"{'.'.join(map(str, parents))}: {', or '.join(told)}."
    place = ".".join(str(part) for part in first["loc"])
    for parent in parents:
        if isinstance(parent, str) and parent in model.model_fields:
            model = _model_in(model.model_fields[parent].annotation) or model
    near = nearest(str(key), model.model_fields)
    return f"unknown key '{place}'. Did you mean '{near}'?"


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The pydantic model inside `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for arg in getattr(annotation, "__args__", ()) if (m := _model_in(arg))), None)
