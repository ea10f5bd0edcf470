"""A ranking is sealed before the model is run: what was changed, or answered too early, is refused in one sentence."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

import probekit as pk
from probekit.errors import BadInput

ROWS = [f"row {i}" for i in range(100)]
SCORES = np.linspace(0, 1, 100)
BAD = SCORES > 0.9


def test_a_ranking_is_sealed_run_once_and_judged(tmp_path):
    sealed = pk.foresee(tmp_path / "a", ROWS, {"knows": SCORES, "not": -SCORES}, by={"knows": "it"})
    ran = []

    def answer():
        assert (tmp_path / "a" / "ranking.json").exists()
        ran.append(1)
        return BAD

    assert np.array_equal(sealed.run(answer), BAD)
    again = pk.Ranking.open(tmp_path / "a", sealed.digest)
    told = again.judge(budget=0.1, beside={"confidence": np.zeros(100)}, n_bootstrap=200)
    assert told.rankings["knows"]["precision"].value == 1 and told.rankings["not"]["recall"].value == 0
    assert told.rankings["confidence"]["precision"].value == pytest.approx(0.1)
    some = again.judge(budget=0.1, at=SCORES > 0.5, n_bootstrap=200)
    assert some.n == 50 and some.n_bad == 10
    with pytest.raises(BadInput, match="answered already"):
        again.run(answer)
    assert ran == [1]
    done = subprocess.run(["sha256sum", "-c", "ranking.sha256"], cwd=tmp_path / "a", capture_output=True, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("reseal", [False, True])
def test_a_ranking_that_was_changed_is_refused(tmp_path, reseal):
    """Also when the digest beside it is made anew: the answers, and whoever was told the digest, know another."""
    sealed = pk.foresee(tmp_path, ROWS, SCORES)
    sealed.run(lambda: BAD)
    path = tmp_path / "ranking.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    told["scores"]["scores"] = told["scores"]["scores"][::-1]
    path.chmod(0o644)
    path.write_text(json.dumps(told), encoding="utf-8")
    if reseal:
        from probekit.storage.files import sha256_of

        (tmp_path / "ranking.sha256").chmod(0o644)
        (tmp_path / "ranking.sha256").write_text(f"{sha256_of(path)}  ranking.json\n", encoding="ascii")
        with pytest.raises(BadInput, match="answers another ranking"):
            pk.Ranking.open(tmp_path).judge()
    with pytest.raises(BadInput, match="changed after it was sealed"):
        pk.Ranking.open(tmp_path, sealed.digest)
    with pytest.raises(BadInput, match="changed after it was sealed"):
        sealed.judge()


def test_answers_from_before_the_ranking_are_refused(tmp_path):
    early = datetime.now(UTC)
    sealed = pk.foresee(tmp_path, ROWS, SCORES)
    with pytest.raises(BadInput, match="that is no foresight"):
        sealed.keep(BAD, early)
    with pytest.raises(BadInput, match="time zone"):
        sealed.keep(BAD, datetime(2030, 1, 1))
    with pytest.raises(BadInput, match="no answers yet"):
        sealed.judge()
    with pytest.raises(BadInput, match="True or False for each of the 100"):
        sealed.keep(SCORES, datetime.now(UTC))
    assert np.array_equal(sealed.keep(BAD, datetime.now(UTC) + timedelta(seconds=1)), BAD)


def test_a_folder_holds_one_ranking_and_rows_have_names(tmp_path):
    pk.foresee(tmp_path, ROWS, SCORES)
    with pytest.raises(BadInput, match="never overwritten"):
        pk.foresee(tmp_path, ROWS, SCORES)
    with pytest.raises(BadInput, match="a name of its own"):
        pk.foresee(tmp_path / "b", ["a"] * 100, SCORES)
    with pytest.raises(BadInput, match="one finite score per row"):
        pk.foresee(tmp_path / "b", ROWS, SCORES[:5])
    with pytest.raises(BadInput, match="holds no sealed ranking"):
        pk.Ranking.open(tmp_path / "nothing")


def test_a_ranking_killed_before_it_was_sealed_is_taken_up_by_the_same_call_alone(tmp_path):
    """Killed between its two files: the child ends where the digest would be written."""
    lines = [
        "import os, sys, numpy as np",
        "import probekit.jobs.foresight as foresight",
        "first = foresight.publish",
        "foresight.publish = lambda folder, final, *more: "
        "os._exit(9) if final.name == foresight.DIGEST else first(folder, final, *more)",
        "foresight.foresee(sys.argv[1], [f'row {i}' for i in range(100)], np.linspace(0, 1, 100), by={'scores': 'it'})",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines), str(tmp_path)], check=False)
    assert done.returncode == 9 and not (tmp_path / "ranking.sha256").exists()
    left = (tmp_path / "ranking.json").read_bytes()
    with pytest.raises(BadInput, match="holds another ranking, which was never sealed"):
        pk.foresee(tmp_path, ROWS, -SCORES, by={"scores": "it"})
    sealed = pk.foresee(tmp_path, ROWS, SCORES, by={"scores": "it"})
    assert (tmp_path / "ranking.json").read_bytes() == left
    assert np.array_equal(sealed.run(lambda: BAD), BAD) and sealed.bad.sum() == 10
    with pytest.raises(BadInput, match="never overwritten"):
        pk.foresee(tmp_path, ROWS, SCORES, by={"scores": "it"})
