"""Encoding: texts to token ids with the characters that each token stands for, under an explicit policy for BOS.

Works on any tokenizer with the face of Hugging Face's; imports none. Nothing is padded and nothing is cut here.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.records import canonical

BOS = ("exactly_one", "none", "as_is")
_AT_ONCE = 1000  # texts per call of the tokenizer: its answers take many times the memory of the ids


@dataclass(frozen=True)
class Tokenised:
    """Token ids per text, unpadded. shift: by how much a token's index moved against the tokenizer's own output.

    n_bos: leading BOS tokens per row as they now stand. n_truncated: rows cut to the model's context length.
    offsets: per text, first and last-plus-one character of each token [n, 2], both 0 for a token that stands for no
    text; None where the tokenizer cannot tell (a slow one).
    """

    tokens: list[NDArray[np.int64]]
    shift: NDArray[np.int64]
    n_bos: NDArray[np.int64]
    n_truncated: int = 0
    offsets: list[NDArray[np.int64]] | None = None


class Encoder:
    """A tokenizer under a BOS policy. n_ctx: the longest row that the model reads, None for any."""

    def __init__(self, tokenizer: Any, bos: str = "as_is", n_ctx: int | None = None, name: str = "the model") -> None:
        if tokenizer is None:
            raise BadInput(f"{name} has no tokenizer: give token ids in place of text.")
        if bos not in BOS:
            raise BadInput(f"bos is one of {', '.join(BOS)}; found '{bos}'.")
        self.tokenizer, self.bos, self.n_ctx, self.name = tokenizer, bos, n_ctx, name
        if bos == "exactly_one" and tokenizer.bos_token_id is None:
            raise BadInput(f"{name}'s tokenizer has no BOS token: use bos = 'as_is' or 'none'.")

    @property
    def has_offsets(self) -> bool:
        """Whether characters can be mapped to tokens: only fast tokenizers can."""
        return bool(self.tokenizer.is_fast)

    @property
    def fingerprint(self) -> str:
        """Digest of the vocabulary: what turns ids back into text."""
        return hashlib.sha256(canonical(sorted(self.tokenizer.get_vocab().items())).encode()).hexdigest()[:16]

    def encode(self, texts: Sequence[str], special: bool = True) -> Tokenised:
        """Tokenise under the policy.

        exactly_one: leading BOS tokens become one, or one is put in front. none: leading ones are removed. as_is: what
        the tokenizer gives. special: whether it adds its own special tokens; False for rendered chats, whose template
        has put them there. Raises BadInput for a text without tokens.
        """
        tokens, offsets, shift, n_bos = [], [], [], []
        bos = self.tokenizer.bos_token_id
        for ids, places in self._raw(texts, special):
            lead = next((i for i, token in enumerate(ids) if token != bos), len(ids)) if bos is not None else 0
            keep = {"exactly_one": 1, "none": 0, "as_is": lead}[self.bos]
            if not keep and not ids[lead:]:
                raise BadInput(f"text {len(tokens)} gives no tokens: leave it out.")
            tokens.append(np.asarray([bos] * keep + ids[lead:], np.int64))
            offsets.append(np.asarray([(0, 0)] * keep + places[lead:], np.int64).reshape(-1, 2))
            shift.append(keep - lead)
            n_bos.append(keep)
        return Tokenised(
            tokens, np.asarray(shift, np.int64), np.asarray(n_bos, np.int64), 0, offsets if self.has_offsets else None
        )

    def answer(self, text: str) -> list[int]:
        """Ids of a piece of text as it stands, with nothing put around it."""
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]

    def chat(self, messages: Sequence[Mapping[str, str]], generation_prompt: bool) -> str:
        """Messages {role, content} as the tokenizer's own chat template writes them; BadInput has its reason."""
        if not getattr(self.tokenizer, "chat_template", None):
            raise BadInput(f"{self.name}'s tokenizer has no chat template: use `template` or `text`.")
        try:
            rendered = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=generation_prompt
            )
        except Exception as error:
            # A chat template is a program of the tokenizer's makers and raises whatever it likes (jinja2, KeyError).
            reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            raise BadInput(f"{self.name}'s chat template refuses these messages ({reason}).") from None
        return str(rendered)

    def _raw(self, texts: Sequence[str], special: bool):
        """(ids, offsets) of each text."""
        for start in range(0, len(texts), _AT_ONCE):
            got = self.tokenizer(
                list(texts[start : start + _AT_ONCE]), add_special_tokens=special, verbose=False,
                return_offsets_mapping=self.has_offsets,
            )  # fmt: skip
            ids = got["input_ids"]
            yield from zip(ids, got["offset_mapping"] if self.has_offsets else map(_nowhere, ids), strict=True)


def _nowhere(ids: Sequence[int]) -> list[tuple[int, int]]:
    return [(0, 0)] * len(ids)
