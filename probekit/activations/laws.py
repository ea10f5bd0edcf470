"""Laws: how a model's logits become rows of a behaviour's law, in the same pass that reads its activations."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from probekit.activations.keys import places_of_answers
from probekit.errors import BadInput
from probekit.model.model import Model
from probekit.records import digest
from probekit.task import MAX_OUTCOMES, VALUE, BehaviourSpec, Task

AMONG_ANSWERS = ("choice", "logit_diff", "value")  # kinds that look at the named tokens alone
OF_TWO = ("logit_diff", "value")  # and compare two of them, as a law and as log-odds
ENTRIES_AT_ONCE = 2**22  # of logits that are held in double precision


@dataclass(frozen=True, eq=False)  # compared and hashed as an object: a spec may hold a dictionary
class Reduction:
    """How one behaviour's law is taken from logits. groups: tokens of each outcome, None until they are found.

    behind: digest of the places that it is read at, where these are not the rows' own.
    """

    spec: BehaviourSpec
    groups: tuple[tuple[int, ...], ...] | None
    names: tuple[str, ...] | None
    d_vocab: int
    width: int
    behind: str = ""

    @classmethod
    def of(cls, spec: BehaviourSpec, model: Model, task: Task) -> "Reduction":
        """Check a behaviour against the model's vocabulary."""
        return replace(cls._of(spec, model, task), behind=places_of_answers(task))

    @classmethod
    def _of(cls, spec: BehaviourSpec, model: Model, task: Task) -> "Reduction":
        vocab = model.d_vocab
        where = f"behaviour '{spec.name}' ({spec.kind})"
        if spec.row_tokens is not None:
            return cls._row_by_row(spec, spec.row_tokens, where, vocab, task)
        if spec.kind == "groups":
            if not spec.sets:
                raise BadInput(f"{where} needs `sets`: named sets of tokens.")
            groups, names = tuple(tuple(s) for s in spec.sets.values()), tuple(spec.sets)
        elif spec.kind in ("law", "argmax", *AMONG_ANSWERS):
            if spec.tokens is None and spec.kind in AMONG_ANSWERS:
                raise BadInput(f"{where} needs `tokens`.")
            if spec.tokens is None and vocab > MAX_OUTCOMES + 1:
                return cls(spec, None, None, vocab, MAX_OUTCOMES + 1)
            tokens = tuple(range(vocab)) if spec.tokens is None else tuple(spec.tokens)
            groups, names = tuple((t,) for t in tokens), tuple(spec.outcomes or model.token_names(tokens))
        else:
            raise BadInput(
                f"{where}: kinds are law, argmax, choice, logit_diff, value, groups, generation, logprob and label."
            )
        flat = [token for group in groups for token in group]
        if len(set(flat)) < len(flat) or not flat or min(flat) < 0 or max(flat) >= vocab or not all(groups):
            raise BadInput(f"{where}: tokens must differ and lie in 0 to {vocab - 1}.")
        if len(names) != len(groups):
            raise BadInput(f"{where} has {len(groups)} outcomes and {len(names)} names for them.")
        if spec.kind in OF_TWO and len(groups) != 2:
            raise BadInput(f"{where} compares two tokens; found {len(groups)}.")
        return cls(spec, groups, names, vocab, 0).sized()

    @classmethod
    def _row_by_row(
        cls, spec: BehaviourSpec, tokens: NDArray[np.int64], where: str, vocab: int, task: Task
    ) -> "Reduction":
        n_rows = len(task.row_example)
        if spec.kind not in AMONG_ANSWERS or tokens.ndim != 2 or len(tokens) != n_rows:
            raise BadInput(
                f"{where}: answers by row are for {', '.join(AMONG_ANSWERS)}, [{n_rows}, k]; found "
                f"{list(tokens.shape)}."
            )
        k = tokens.shape[1]
        ordered = np.sort(tokens, axis=1)
        if k < 2 or tokens.min() < 0 or tokens.max() >= vocab or (ordered[:, 1:] == ordered[:, :-1]).any():
            raise BadInput(f"{where}: a row's answers must be two or more, differ and lie in 0 to {vocab - 1}.")
        if spec.kind in OF_TWO and k != 2:
            raise BadInput(f"{where} compares two tokens; found {k}.")
        names = tuple(spec.outcomes or (f"answer {i + 1}" for i in range(k)))
        if len(names) != k:
            raise BadInput(f"{where} has {k} outcomes and {len(names)} names for them.")
        return cls(spec, (), names, vocab, k).sized()

    def sized(self) -> "Reduction":
        """With `rest` as the last outcome, unless the tokens cover the vocabulary or the law is among them alone."""
        assert self.groups is not None and self.names is not None
        if self.spec.kind == "value":
            return replace(self, names=VALUE, width=len(VALUE))
        whole = sum(map(len, self.groups)) == self.d_vocab or self.among_answers
        names = self.names if whole else (*self.names, "rest")
        return replace(self, names=names, width=len(names))

    def keeping(self, kept: Sequence[int], model: Model) -> "Reduction":
        """Over a large vocabulary: each kept token an outcome, all others `rest`."""
        groups, names = tuple((int(t),) for t in kept), tuple(model.token_names([int(t) for t in kept]))
        return replace(self, groups=groups, names=names).sized()

    def fixed(self) -> BehaviourSpec:
        """The behaviour with the outcomes that were kept, so that another text is asked for the same ones."""
        if self.spec.kind not in ("law", "argmax") or self.spec.tokens is not None or self.width == self.d_vocab:
            return self.spec
        tokens = tuple(group[0] for group in self.groups or ())
        return replace(self.spec, tokens=tokens, outcomes=(self.names or ())[: len(tokens)])

    @property
    def among_answers(self) -> bool:
        """Whether the law is among the named tokens alone, whatever mass the others have."""
        return self.spec.kind in AMONG_ANSWERS

    @property
    def stored_width(self) -> int:
        """Columns of `stored`."""
        return self.width + 2 * self.among_answers

    @property
    def stored_as(self) -> str:
        """Name in the store: two behaviours that ask the same of the logits share their rows."""
        sets = [list(s) for s in self.spec.sets.values()] if self.spec.kind == "groups" and self.spec.sets else None
        kind = "choice" if self.spec.kind == "logit_diff" else self.spec.kind
        tokens = list(self.spec.tokens) if self.spec.tokens and kind != "groups" else None
        asked: dict[str, Any] = {"kind": kind, "tokens": tokens, "sets": sets}
        asked |= {"beside": ["mass", "likeliest"]} if self.among_answers else {}
        asked |= {"behind": self.behind} if self.behind else {}
        if self.spec.row_tokens is not None:
            rows = np.ascontiguousarray(self.spec.row_tokens, dtype="<i8")
            asked["row_tokens"] = [list(rows.shape), hashlib.sha256(rows.tobytes()).hexdigest()]
        return "behaviour." + digest(asked)

    def mass(self, logits: Float[Tensor, "n d_vocab"]) -> Float[Tensor, " d_vocab"]:
        """Sum over rows of what decides which outcomes of a large vocabulary are kept."""
        if self.spec.kind == "argmax":
            return torch.bincount(logits.argmax(-1), minlength=self.d_vocab).double()
        return torch.softmax(logits, -1).sum(0, dtype=torch.float64)

    def stored(
        self, logits: Float[Tensor, "n d_vocab"], rows: NDArray[np.int64] | None = None
    ) -> Float[Tensor, "n stored"]:
        """The law and, where it is among answers alone, the mass that they have together and the likeliest token."""
        law = self.law(logits, rows)
        if not self.among_answers:
            return law
        found = torch.logsumexp(self._answers(logits, rows), 1) - torch.logsumexp(logits, 1)
        return torch.cat([law, found.exp()[:, None], logits.argmax(1, keepdim=True).to(law)], 1)

    def law(
        self, logits: Float[Tensor, "n d_vocab"], rows: NDArray[np.int64] | None = None
    ) -> Float[Tensor, "n outcome"]:
        """Rows on the simplex over the outcomes. rows: which of the task's, asked for where answers differ by row."""
        assert self.groups is not None
        if self.among_answers:
            answers = self._answers(logits, rows)
            return answers[:, :1] - answers[:, 1:] if self.spec.kind == "value" else torch.softmax(answers, -1)
        column = torch.full((self.d_vocab,), self.width - 1)
        for i, group in enumerate(self.groups):
            column[list(group)] = i
        if self.spec.kind == "argmax":
            return torch.nn.functional.one_hot(column[logits.argmax(-1)], self.width).float()
        some = logits.split(max(1, ENTRIES_AT_ONCE // self.d_vocab))
        return torch.cat([_summed(part, column, self.width) for part in some]).float()

    def _answers(self, logits: Tensor, rows: NDArray[np.int64] | None) -> Float[Tensor, "n outcome"]:
        """Logits of the named tokens."""
        if self.spec.row_tokens is None:
            return logits[:, [group[0] for group in self.groups or ()]]
        if rows is None:
            raise BadInput(f"the answers of behaviour '{self.spec.name}' differ from row to row: say which rows.")
        return logits.gather(1, torch.from_numpy(self.spec.row_tokens[rows]).to(logits.device))


def _summed(logits: Float[Tensor, "n d_vocab"], column: Int[Tensor, " d_vocab"], width: int) -> Tensor:
    """Mass of each outcome, added up in double precision: over a vocabulary float32 would lose 5e-5 of `rest`."""
    mass = torch.softmax(logits, -1, dtype=torch.float64)
    return torch.zeros(len(logits), width, dtype=torch.float64).index_add_(1, column, mass)
