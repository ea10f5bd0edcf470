"""Foresight, in order: a ranking of inputs is written and sealed, then the model is run, then both are compared.

A folder holds `ranking.json` (rows, scores, when), `ranking.sha256`, which `sha256sum -c` reads too, and in the end
`answers.json`, which names the digest of the ranking that it was made after. What cannot be enforced is that nobody ran
the model elsewhere before: publish the digest when the ranking is made.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probekit.errors import BadInput
from probekit.metrics.bootstrap import Clusters
from probekit.metrics.foresight import Foresight, foresight
from probekit.storage.files import publish, to_json

RANKING, DIGEST, ANSWERS = "ranking.json", "ranking.sha256", "answers.json"
ONLY = "scores"  # the name of a ranking that was given none


@dataclass(frozen=True)
class Ranking:
    """A sealed ranking. rows: what each input is called; scores: name -> [n], worst highest; by: what made them;
    written: when, in UTC; digest: SHA-256 of the file.

    >>> import tempfile
    >>> import numpy as np
    >>> import probekit as pk
    >>> folder = tempfile.mkdtemp()
    >>> sealed = pk.foresee(folder, [f"input {i}" for i in range(100)], np.arange(100.0))
    >>> pk.Ranking.open(folder, sealed.digest).written == sealed.written
    True
    """

    folder: Path
    rows: tuple[str, ...]
    scores: Mapping[str, NDArray[np.float64]]
    by: Mapping[str, str]
    written: datetime
    digest: str

    @classmethod
    def open(cls, folder: str | Path, digest: str = "") -> "Ranking":
        """The ranking in a folder. digest: what was published when it was made, if it was.

        Raises BadInput when there is none, or its file is not the one that was sealed.
        """
        folder = Path(folder)
        try:
            text, sealed = (folder / RANKING).read_bytes(), (folder / DIGEST).read_text(encoding="ascii").split()[0]
        except (OSError, IndexError, UnicodeDecodeError):
            raise BadInput(
                f"{folder} holds no sealed ranking ({RANKING} and {DIGEST}): make one with foresee."
            ) from None
        found = sha256(text).hexdigest()
        if found != sealed or (digest and found != digest):
            raise BadInput(
                f"{folder / RANKING} was changed after it was sealed: its SHA-256 is {found[:12]}..., sealed was "
                f"{(digest if digest else sealed)[:12]}...; it is no longer a ranking made in advance, make a new one."
            )
        told = json.loads(text)
        scores = {name: np.array(values, dtype=np.float64) for name, values in told["scores"].items()}
        return cls(folder, tuple(told["rows"]), scores, told["by"], datetime.fromisoformat(told["written"]), found)

    def run(self, answer: Callable[[], NDArray]) -> NDArray[np.bool_]:
        """Run the model now: `answer` gives which rows are bad, [n]; they are kept beside the ranking.

        The ranking is read again first. Raises BadInput when it was changed, or was answered already.
        """
        Ranking.open(self.folder, self.digest)
        if (self.folder / ANSWERS).exists():
            raise BadInput(f"{self.folder} has been answered already: a ranking is run once, read it with `bad`.")
        began = datetime.now(UTC)
        return self.keep(answer(), began)

    def keep(self, bad: NDArray, began: datetime) -> NDArray[np.bool_]:
        """The same for answers that were made elsewhere, from `began` (with a time zone) on.

        Raises BadInput when the model began to answer before the ranking was written, or for another number of rows.
        """
        Ranking.open(self.folder, self.digest)
        if began.tzinfo is None:
            raise BadInput(f"when the model began needs a time zone: found {began}; give datetime.now(UTC).")
        if began < self.written:
            raise BadInput(
                f"the model answered from {began.isoformat()} on, before the ranking was written "
                f"({self.written.isoformat()}): that is no foresight, rank inputs that it has not been run on."
            )
        bad = np.asarray(bad)
        if bad.shape != (len(self.rows),) or bad.dtype != np.bool_:
            raise BadInput(
                f"an answer is True or False for each of the {len(self.rows)} ranked rows; found {bad.dtype} of shape "
                f"{bad.shape}."
            )
        told = {"ranking": self.digest, "began": began.isoformat(), "bad": bad.astype(int).tolist()}
        if not publish(self.folder, self.folder / ANSWERS, to_json(told, "answers").encode(), BadInput):
            raise BadInput(f"{self.folder} has been answered already: a ranking is run once, read it with `bad`.")
        return bad

    @property
    def bad(self) -> NDArray[np.bool_]:
        """Which rows turned out to be bad: [n]. Raises BadInput before there are answers, or for another ranking's."""
        path = self.folder / ANSWERS
        if not path.exists():
            raise BadInput(f"{self.folder} has no answers yet: run the model with `Ranking.run` first.")
        told = json.loads(path.read_bytes())
        if told["ranking"] != self.digest or datetime.fromisoformat(told["began"]) < self.written:
            raise BadInput(f"{path} answers another ranking than the one beside it: make a new ranking and run it.")
        return np.array(told["bad"], dtype=np.bool_)

    def judge(
        self,
        group: NDArray | None = None,
        budget: float = 0.1,
        *,
        beside: Mapping[str, NDArray] | None = None,
        at: NDArray | None = None,
        only: Sequence[str] = (),
        n_bootstrap: int = 2_000,
        seed: int = 0,
    ) -> Foresight:
        """What every sealed ranking found, with intervals over whole groups [n]; see `Foresight`.

        beside: further scores [n] that need the model's run, such as its own confidence: references, not in advance.
        at: the rows that are judged, all when left out; only: the rankings, all when empty. Raises BadInput when
        anything was changed since it was sealed.
        """
        sealed = Ranking.open(self.folder, self.digest)
        bad = sealed.bad
        rows = np.arange(len(bad)) if at is None else np.arange(len(bad))[at]
        group = np.arange(len(bad)) if group is None else np.asarray(group)
        every = dict(sealed.scores) | {name: np.asarray(score) for name, score in (beside or {}).items()}
        if unknown := set(only) - set(every):
            raise BadInput(f"no ranking {', '.join(sorted(unknown))} in {self.folder}: there are {', '.join(every)}.")
        every = {name: score for name, score in every.items() if not only or name in only}
        short = [name for name, score in {**every, "group": group}.items() if len(score) != len(bad)]
        if short:
            raise BadInput(f"{short[0]} is not of the {len(bad)} ranked rows: give one value per row.")
        clusters = Clusters.of(group[rows], n_bootstrap, seed)
        return foresight({name: score[rows] for name, score in every.items()}, bad[rows], clusters, budget)


def foresee(
    folder: str | Path,
    rows: Sequence[str],
    scores: NDArray | Mapping[str, NDArray],
    *,
    by: Mapping[str, str] | None = None,
) -> Ranking:
    """Seal a ranking of inputs by how bad the model is expected to be there, before it is run on them.

    rows: what each input is called; scores [n], the worst highest, or several by name; by: what made each, such as the
    digest of a frozen `Predictor`. The files are published whole, and never over others; a call that was killed before
    the digest was there is taken up by the same call. Raises BadInput for scores that are not one finite number per
    row, rows that share a name, or a folder that holds a ranking.

    >>> import tempfile
    >>> import numpy as np
    >>> import probekit as pk
    >>> rng = np.random.default_rng(0)
    >>> seen, hard = rng.normal(size=(400, 3)), lambda x: x[:, 0] > 1
    >>> predictor = pk.Predictor.fit(seen, hard(seen), np.arange(400))
    >>> unseen = rng.normal(size=(200, 3))
    >>> sealed = pk.foresee(tempfile.mkdtemp(), [str(i) for i in range(200)], predictor.scores(unseen))
    >>> _ = sealed.run(lambda: hard(unseen))
    >>> sealed.judge(budget=0.1).rankings["scores"]["precision"].value
    1.0
    """
    folder, named = Path(folder), scores if isinstance(scores, Mapping) else {ONLY: scores}
    if len(set(rows)) != len(rows) or not rows:
        raise BadInput(f"each ranked row needs a name of its own: found {len(set(rows))} names for {len(rows)} rows.")
    for name, score in named.items():
        if np.shape(score) != (len(rows),) or not np.isfinite(score).all():
            raise BadInput(f"ranking '{name}' needs one finite score per row, {len(rows)}: found {np.shape(score)}.")
    folder.mkdir(parents=True, exist_ok=True)
    told = {"rows": list(rows), "scores": {name: np.asarray(score, np.float64) for name, score in named.items()},
            "by": dict(by or {}), "written": datetime.now(UTC).isoformat()}  # fmt: skip
    text = to_json(told, "a ranking").encode()
    if not publish(folder, folder / RANKING, text, BadInput):
        text = _unsealed(folder, text)
    publish(folder, folder / DIGEST, f"{sha256(text).hexdigest()}  {RANKING}\n".encode("ascii"), BadInput)
    return Ranking.open(folder)


def _unsealed(folder: Path, asked: bytes) -> bytes:
    """The ranking that a call which was killed before it sealed it has left, where it is the one that is asked for."""
    if (folder / DIGEST).exists():
        raise BadInput(f"{folder} holds a ranking already, which is never overwritten: give another folder.")
    left = (folder / RANKING).read_bytes()
    if json.loads(left) | {"written": ""} != json.loads(asked) | {"written": ""}:
        raise BadInput(f"{folder} holds another ranking, which was never sealed: give another folder, or remove it.")
    return left
