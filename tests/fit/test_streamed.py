"""Streamed fits: the numbers of fits in memory, whatever is stored and however little memory there is."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from probekit.errors import BadInput, FitError
from probekit.fit.frame import fit_frame
from probekit.fit.path import fit_path
from probekit.fit.readout import Rows, cross_entropy, fit_readout
from probekit.fit.streamed.logistic import fit_streamed, fit_streamed_path
from probekit.fit.streamed.source import RUN, Source

TYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def write(path, x: torch.Tensor, offset: int = 0):
    """The bytes of x after `offset` bytes of something else."""
    path.write_bytes(b"\1" * offset + x.contiguous().view(torch.uint8).numpy().tobytes())
    return path


def problem(n: int, d: int, k: int = 2, t: int = 1, seed: int = 0, outlier: bool = False):
    """Off-centre activations with a steep spectrum, and laws: (x, law)."""
    g = torch.Generator().manual_seed(seed)
    spread = torch.logspace(1, -1, d)
    h = torch.randn(n, d, generator=g)
    logits = 2 * h @ torch.randn(d, k * t, generator=g) / d**0.5
    label = (logits.view(n, k, t) - torch.log(-torch.log(torch.rand(n, k, t, generator=g)))).argmax(1)
    x = (h * spread) @ torch.linalg.qr(torch.randn(d, d, generator=g))[0] + 1.0
    if outlier:
        x[:, 3] = 1000 * x[:, 3]
    return x, torch.nn.functional.one_hot(label, k).permute(2, 1, 0).float().contiguous()


def bits_in_memory(x, law, ridge: float, offset=None) -> float:
    frame = fit_frame(x)
    rows = Rows(frame.apply(x), law, offset)
    return float(rows.bits(fit_readout(rows.z, law, offset, frame.variance, ridge)).mean())


@pytest.mark.parametrize("dtype", list(TYPES))
def test_a_file_of_any_type_is_read_as_it_is(tmp_path, dtype):
    x = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)).to(TYPES[dtype])
    source = Source.file(write(tmp_path / "rows", x, 16), 50, 7, dtype, offset=16)
    assert torch.equal(source.read(10, 33), x[10:33])
    assert torch.equal(source.sample(50), x.float())


def test_a_sample_is_spread_over_all_rows(tmp_path):
    x = torch.arange(5000).float()[:, None].repeat(1, 2)
    source = Source.file(write(tmp_path / "rows", x), 5000, 2, "F32")
    rows = source.sample(600)[:, 0]
    assert len(rows) == 600 // RUN * RUN
    assert rows[0] == 0
    assert rows[-1] == 4999
    at = torch.cat([torch.arange(*run) for run in source.runs(600)])
    assert torch.equal(rows, at.float())


def test_a_short_file_and_an_unknown_type_are_refused(tmp_path):
    path = write(tmp_path / "rows", torch.zeros(10, 4))
    with pytest.raises(BadInput, match="was to hold 11 x 4 F32"):
        Source.file(path, 11, 4, "F32")
    with pytest.raises(BadInput, match="found 0 bytes"):
        Source.file(tmp_path / "none", 1, 4, "F32")
    with pytest.raises(BadInput, match="'I8' cannot be read"):
        Source.file(path, 10, 4, "I8")
    source = Source.file(path, 10, 4, "F32")
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="changed while it was read"):
        source.read(0, 10)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize(("k", "t"), [(2, 1), (3, 1), (2, 3), (4, 2)])
def test_streamed_is_what_is_fitted_in_memory(tmp_path, k, t, dtype):
    x, law = problem(6000, 20, k, t)
    x = x.to(TYPES[dtype])
    source = Source.file(write(tmp_path / "rows", x), 6000, 20, dtype)
    memory = 24 * (k - 1) * 6000 * 2  # the cells of two targets, and hardly any rows
    found = fit_streamed(source, law, ridge=1e-2, memory=memory)
    ours = float(cross_entropy(found.logits(x), law).mean())
    assert ours == pytest.approx(bits_in_memory(x.float(), law, 1e-2), abs=1e-3)
    assert ours < math.log2(k) - 0.1
    in_memory = fit_streamed(Source.of(x), law, ridge=1e-2)
    assert float(cross_entropy(in_memory.logits(x), law).mean()) == pytest.approx(ours, abs=3e-4)


def test_a_thousandfold_coordinate_streams_as_well(tmp_path):
    x, law = problem(8000, 24, outlier=True)
    source = Source.file(write(tmp_path / "rows", x), 8000, 24, "F32")
    found = fit_streamed(source, law, ridge=1e-3, memory=400_000)
    ours = float(cross_entropy(found.logits(x), law).mean())
    assert ours == pytest.approx(bits_in_memory(x, law, 1e-3), abs=1e-3)
    plain, _ = problem(8000, 24)
    assert ours == pytest.approx(bits_in_memory(plain, law, 1e-3), abs=0.02), "it hides nothing"


def test_beside_a_floor_and_from_a_known_readout(tmp_path):
    x, law = problem(4000, 12)
    g = torch.Generator().manual_seed(3)
    offset = torch.randn(2, 1, 4000, generator=g) + 2 * law
    source = Source.file(write(tmp_path / "rows", x), 4000, 12, "F32")
    found = fit_streamed(source, law, offset, 1e-2, memory=200_000)
    ours = float(cross_entropy(found.logits(x, offset), law).mean())
    assert ours == pytest.approx(bits_in_memory(x, law, 1e-2, offset), abs=1e-3)
    again = fit_streamed(source, law, offset, 1e-2, memory=200_000, start=found)
    assert torch.allclose(again.readout.weight, found.readout.weight, atol=0.05)


def test_a_unit_of_one_is_the_ridge_on_raw_activations():
    from sklearn.linear_model import LogisticRegression

    x, law = problem(3000, 10)
    found = fit_streamed(Source.of(x), law, ridge=2 * 5.0, unit=1.0, tolerance=1e-8)
    judge = LogisticRegression(C=1 / (3000 * 5.0), tol=1e-9, max_iter=10_000, solver="newton-cholesky")
    judge.fit(x.double().numpy(), law[1, 0].numpy())
    weight = (found.readout.weight[1, 0] - found.readout.weight[0, 0]).numpy()
    assert weight == pytest.approx(judge.coef_[0], abs=2e-3)


def test_too_little_memory_wrong_rows_and_bad_values_are_refused():
    x, law = problem(3000, 10)
    with pytest.raises(BadInput, match="MiB for one target"):
        fit_streamed(Source.of(x), law, memory=30_000)
    with pytest.raises(BadInput, match="the law has 2999 rows, the source 3000"):
        fit_streamed(Source.of(x), law[..., 1:])
    for at in (0, 1777):  # in the sample and outside of it
        bad = x.clone()
        bad[at, 2] = math.nan
        with pytest.raises(FitError):
            fit_streamed(Source.of(bad), law, memory=150_000)


PEAK = """
import json, sys, torch
from probekit.fit.streamed.logistic import fit_streamed
from probekit.fit.streamed.source import Source
n, path = int(sys.argv[1]), sys.argv[2]
law = torch.zeros(2, 1, n)
law[0], law[1] = (torch.arange(n) % 7 < 3).float(), (torch.arange(n) % 7 >= 3).float()
torch.linalg.eigvalsh(torch.eye(64)); torch.linalg.cholesky(torch.eye(64)); torch.ones(99, 99) @ torch.ones(99, 99)
def resident(what):
    # Not ru_maxrss, which a child inherits from the process that started it.
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(what + ":")))
before = resident("VmRSS")
fit_streamed(Source.file(path, n, 256, "BF16"), law, memory=16 * 2**20)
print(json.dumps(resident("VmHWM") - before))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_does_not_grow_with_the_rows(tmp_path):
    n = 160_000
    path, g = tmp_path / "rows", torch.Generator().manual_seed(0)
    with path.open("wb") as file:
        for _ in range(n // 16_000):
            rows = torch.randn(16_000, 256, generator=g).bfloat16()
            file.write(rows.view(torch.uint8).numpy().tobytes())
    above = []
    for rows in (n // 4, n):
        done = subprocess.run([sys.executable, "-c", PEAK, str(rows), str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        above.append(json.loads(done.stdout))
    assert path.stat().st_size > 80e6
    assert above[1] < 48 * 2**20, np.array(above) / 2**20
    # What grows is what a row needs beside its activations: three numbers and its law.
    assert above[1] - above[0] < 12 * 2**20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize(("k", "t"), [(2, 1), (3, 2)])
def test_the_accelerator_streams_to_the_same_numbers(tmp_path, k, t):
    x, law = problem(6000, 20, k, t)
    source = Source.file(write(tmp_path / "rows", x), 6000, 20, "F32")
    bits = []
    for device in ("cpu", "cuda"):
        found = fit_streamed(source, law.to(device), ridge=1e-2, memory=24 * (k - 1) * 6000 * 2)
        bits.append(float(cross_entropy(found.logits(x.to(device)), law.to(device)).mean()))
    assert bits[0] == pytest.approx(bits[1], abs=1e-4)


def in_halves(x: torch.Tensor, law: torch.Tensor) -> tuple[Rows, Rows]:
    half = len(x) // 2
    return Rows(x[:half], law[..., :half]), Rows(x[half:], law[..., half:])


@pytest.mark.parametrize(("k", "t"), [(2, 1), (3, 2)])
def test_a_streamed_path_ends_where_the_one_in_memory_does(k, t):
    """Few rows for their width, so that a middle ridge holds out best; a target of pure chance keeps the floor."""
    x, law = problem(1200, 60, k, t)
    law[:, -1] = torch.nn.functional.one_hot(torch.randint(k, (1200,), generator=torch.Generator().manual_seed(9)), k).T
    law = torch.cat([problem(1200, 60, k, 1)[1], law], 1)
    fit, select = in_halves(x, law)
    found = fit_streamed_path(Source.of(fit.z), fit.law, Source.of(select.z), select.law)
    frame = fit_frame(fit.z)
    framed = [Rows(frame.apply(rows.z), rows.law) for rows in (fit, select)]
    judge = fit_path(framed[0], framed[1], frame.variance)
    assert found.readout.ridge.tolist() == judge.ridge.tolist()
    assert math.isinf(found.readout.ridge[-1])
    assert 1e-6 < float(found.readout.ridge[0]) < 1
    expected = framed[1].bits(judge).mean(-1)
    torch.testing.assert_close(cross_entropy(found.logits(select.z), select.law).mean(-1), expected, atol=1e-3, rtol=0)
    # Naive: the smallest ridge of all, which the rows held out speak against.
    loose = fit_streamed(Source.of(fit.z), fit.law, ridge=1e-6)
    assert float(cross_entropy(loose.logits(select.z), select.law)[0].mean()) > float(expected[0]) + 0.01


def test_a_streamed_path_ends_before_ridges_without_a_minimum():
    """Separable rows; and a floor is given for both sides or for none."""
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    law = torch.nn.functional.one_hot((x[:, 0] > 0).long(), 2).T[:, None].float().contiguous()
    fit, select = in_halves(x, law)
    sources = Source.of(fit.z), fit.law, Source.of(select.z), select.law
    found = fit_streamed_path(*sources)
    assert float(cross_entropy(found.logits(select.z), select.law).mean()) < 0.1
    with pytest.raises(BadInput, match="give both or neither"):
        fit_streamed_path(*sources, offset=torch.zeros_like(fit.law))
    with pytest.raises(BadInput, match="selection rows are 200 x 3"):
        fit_streamed_path(Source.of(fit.z), fit.law, Source.of(select.z[:, :3]), select.law)
