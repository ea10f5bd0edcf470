"""JobSpec: what a batch job asks for. Read from strict TOML: an unknown key is an error that names the nearest."""

import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from probekit.errors import BadInput
from probekit.levels import DEFAULT, SIMPLE, Level
from probekit.records import digest


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


Levels = Annotated[tuple[str, ...], AfterValidator(_levels)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSpec(_Strict):
    """`name` is a hub name, a local folder (relative to the spec file) or a bundled testbed."""

    name: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    bos: Literal["exactly_one", "none", "as_is"] = "as_is"
    backend: Literal["auto", "bridge", "hf"] = "auto"  # which forward activations are captured from
    twin: bool = True  # also measure a randomly initialised network of the same architecture


class BehaviourEntry(_Strict):
    """One behaviour; see task.BehaviourSpec for the kinds. Tokens are ids or strings of exactly one token."""

    name: str
    kind: Literal["law", "argmax", "choice", "logit_diff", "groups", "generation", "label"] = "law"
    tokens: tuple[int | str, ...] | None = None
    sets: dict[str, tuple[int | str, ...]] | None = None
    column: str | None = None
    # Columns of answers that differ from row to row: `choice` among a list, `logit_diff` of two.
    answers: str | None = None
    correct: str | None = None
    wrong: str | None = None
    first_token: bool = False  # an answer of several tokens stands for its first one
    # What is generated counts as the first outcome whose rule it meets: a list of beginnings, or a regular expression.
    match: dict[str, str | tuple[str, ...]] | None = None
    n_tokens: int | None = Field(default=None, gt=0)
    samples: int = Field(default=0, ge=0)  # 0: the likeliest token each time, once
    temperature: PositiveFloat = 1.0
    seed: NonNegativeInt = 0


class FeatureEntry(_Strict):
    """A named concept: one label column of the file."""

    name: str
    column: str


class Turn(_Strict):
    """One turn of a chat; `content` is a template."""

    role: str
    content: str


SOURCES = ("text", "tokens", "template", "chat", "messages")


class TaskSpec(_Strict):
    """Either a bundled `testbed`, or a `file` (CSV, JSONL or Parquet) whose columns are named here."""

    testbed: str | None = None
    file: str | None = None
    # What the model reads: a column of texts or of token ids, a template filled from columns, or a chat (a template per
    # turn, or a column of messages), which the tokenizer's own chat template renders.
    text: str | None = None
    tokens: str | None = None
    template: str | None = None
    chat: tuple[Turn, ...] | None = None
    messages: str | None = None
    generation_prompt: bool | None = None  # after a chat; when absent, unless the assistant has the last word
    spans: dict[str, str | tuple[str, str]] = {}  # column of a piece of the text, or columns of its characters
    truncate: Literal["refuse", "right"] = "refuse"  # of rows longer than the model's context
    id: str | None = None
    group: str | None = None
    domain: str | None = None
    position: str | tuple[str, ...] | None = None  # rules of `positions`; the last token when absent
    behaviours: tuple[BehaviourEntry, ...] = ()
    features: tuple[FeatureEntry, ...] = ()
    n_examples: int | None = Field(default=None, gt=0)  # per domain, for testbeds and as a cap for files
    n_positions: int | None = Field(default=None, gt=0)  # read per example, for testbeds

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
        if not self.source_is_chat and self.generation_prompt is not None:
            raise BadInput(f"`generation_prompt` belongs to a chat, and this task reads `{named[0]}`: leave it out.")
        if named[0] == "tokens" and self.spans:
            raise BadInput("`spans` are found in text, and this task reads token ids: use `position` or a mask.")
        return named[0]

    @property
    def source_is_chat(self) -> bool:
        return self.chat is not None or self.messages is not None


class HypothesisEntry(_Strict):
    """A stated hypothesis: `rule` is `file.py:function`, `features` the labels it is given."""

    name: str
    rule: str
    features: tuple[str, ...]
    behaviour: str = ""  # the one it speaks of


class ReadSpec(_Strict):
    """Which levels are read at which hook points. ks apply to the levels that have a k; k above d is left out."""

    hooks: tuple[str, ...] = ("blocks.0.hook_resid_pre", "blocks.*.hook_resid_post")
    levels: Levels = DEFAULT
    ks: tuple[PositiveInt, ...] = Field(default=(1, 2, 4, 8, 16, 32, 64, 128), min_length=1)
    # Of the simple functions, whose cost grows with the square of k.
    simple_ks: tuple[PositiveInt, ...] = Field(default=(1, 2, 4, 8), min_length=1)
    lambdas: tuple[PositiveFloat, ...] = Field(default=(1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6), min_length=1)
    controls: tuple[Literal["random_directions", "permuted", "random_twin", "row_split", "control_task"], ...] = (
        "random_directions", "permuted", "random_twin", "row_split", "control_task",
    )  # fmt: skip
    delete: tuple[str, ...] = ()  # spans of the text that readers are also tried without: `field:tag`, `role:system`
    filler: int | str | None = None  # a token in place of each deleted one; when absent the text closes up
    outer_folds: int = Field(default=1, ge=1)  # of whole groups, each tested once; 1: a single quarter is tested
    inner_folds: int = Field(default=1, ge=1)  # over which ridges are chosen, inside each outer fold's training rows
    n_permutations: int = Field(default=199, ge=0)  # behind the p-values of sites; 0: none
    extrapolate: bool = True  # also fit on 4, 8 and 16 rows per coordinate, for the limit of many rows
    online_orders: int = Field(default=0, ge=0)  # of the online code, at least 5 for figures in print; 0: none
    decomposition: bool = True
    decomposition_k: int = Field(default=4, gt=0)  # directions of the `directions` and `simple` classes
    decomposition_simple: Annotated[str, AfterValidator(_simple)] = "quadratic"  # the simple class that is added
    floors: tuple[Literal["strong", "weak"], ...] = ("strong", "weak")
    features: tuple[str, ...] | None = None  # read as targets, for accuracy and hypotheses; all of them when absent

    def features_of(self, known: Sequence[str]) -> tuple[str, ...]:
        """The features that are read, of those that the task has. Raises BadInput for another."""
        for name in self.features or ():
            if name not in known:
                raise BadInput(f"read.features names '{name}'; the task's features are: {', '.join(known) or 'none'}.")
        return tuple(known) if self.features is None else self.features


class ReplaceSpec(_Strict):
    """Keep-only at one site and at all sites. rows: test examples run; donors: M of docs/method.md section 2.

    hooks: among those of [read]; left out, those of them that are resid_post, or all where none is.
    """

    hooks: tuple[str, ...] = ()
    behaviours: tuple[str, ...] = ()
    levels: Levels = ("directions",)
    ks: tuple[PositiveInt, ...] = Field(default=(1, 4, 16, 64), min_length=1)
    donors: int = Field(default=16, ge=2)
    rows: int = Field(default=256, ge=16)
    arms: tuple[Literal["single:random", "single:matched", "chain:random", "chain:matched"], ...] = (
        "single:random", "single:matched", "chain:random", "chain:matched",
    )  # fmt: skip

    def behaviours_of(self, kinds: Mapping[str, str]) -> tuple[str, ...]:
        """The behaviours that are replaced, of the task's (name -> kind). Raises BadInput for one that cannot be."""
        shown = tuple(name for name, kind in kinds.items() if kind not in ("label", "generation"))
        for name in self.behaviours:
            if name not in shown:
                raise BadInput(f"replace.behaviours has '{name}', which is no behaviour that one forward pass shows.")
        return self.behaviours or shown


class TransferSpec(_Strict):
    """Fitted on one domain, applied to another, for all pairs."""

    levels: Levels = ("linear",)
    domains: tuple[str, ...] = ()  # all of the task's when empty


class JobSpec(_Strict):
    """A batch job. `id` is the digest of everything that decides its numbers."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    model: ModelSpec | None = None
    task: TaskSpec
    hypotheses: tuple[HypothesisEntry, ...] = ()
    read: ReadSpec = ReadSpec()
    replace: ReplaceSpec | None = None
    transfer: TransferSpec | None = None
    seed_probe: NonNegativeInt = 0
    seed_data: NonNegativeInt = 0
    n_bootstrap: int = Field(default=2000, ge=200)

    @property
    def id(self) -> str:
        """Digest of the spec. Data, model and hypothesis sources are hashed beside it where they are read."""
        return digest(self.model_dump(mode="json"))

    @classmethod
    def read_toml(cls, path: Path) -> "JobSpec":
        """Read and check a TOML file; every mistake is one BadInput sentence."""
        try:
            raw = tomllib.loads(Path(path).read_text())
        except FileNotFoundError:
            raise BadInput(f"no spec file {path}.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadInput(f"{path} is not TOML: {error}.") from None
        return cls.check(raw, str(path))

    @classmethod
    def check(cls, raw: dict, where: str) -> "JobSpec":
        """Validate a plain dictionary read from `where`."""
        return validate(cls, raw, where)


_EITHER = ("str", "int")  # pydantic's names of the types of a union, at the end of a problem's place
_Model = TypeVar("_Model", bound=BaseModel)


def validate(model: type[_Model], raw: dict, where: str) -> _Model:
    """Check a plain dictionary against one of the tables here; a mistake is one BadInput sentence."""
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
    near = get_close_matches(str(key), model.model_fields, n=1, cutoff=0.0)[0]
    return f"unknown key '{place}'. Did you mean '{near}'?"


def _model_in(annotation: object) -> type[BaseModel] | None:
    """The pydantic model inside `X`, `X | None` or `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for arg in getattr(annotation, "__args__", ()) if (m := _model_in(arg))), None)
