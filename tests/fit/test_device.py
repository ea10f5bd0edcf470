"""Every fit on a device that is not the processor: nothing is left behind, and the numbers are the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from probekit.fit.readers import Side, Site, fit_level, random_readers
from probekit.levels import SIMPLE, Level

LEVELS = ("prior", "baseline", "neurons", "direction", "directions", "linear", *(f"simple:{kind}" for kind in SIMPLE))
N, D = 1_200, 50  # four classes of 50 coordinates are beyond Newton's method
SIDES = slice(0, 600), slice(600, 800), slice(800, 900), slice(900, N)


def problem(n_class: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The outcome is the largest of some coordinates, with a few wrong: (x [n, d], law [class, 1, n])."""
    g = torch.Generator().manual_seed(n_class)
    h = torch.randn(N, D, generator=g)
    label = (h[:, :n_class] + 0.5 * torch.randn(N, n_class, generator=g)).argmax(1)
    law = torch.nn.functional.one_hot(label, n_class).T[:, None].float().contiguous()
    return h * torch.logspace(1, -1, D), law


def fitted(device: torch.device) -> dict[str, float]:
    """Held-out bits of every reader, by what it is; everything is computed on the device and fetched at the end."""
    out = {}

    def told(name: str, bits: torch.Tensor) -> None:
        assert bits.device.type == device.type, f"{name} left the device"
        out[name] = float(bits.double().mean().to("cpu"))

    # Of functions, one direction where outcomes are two and two where they are four: more of them run the same lines,
    # and their joint fits are four of five operations here, each of which the pretended device makes in Python.
    for n_class, folds, few in ((2, 0, (1,)), (4, 4, (2,))):
        x, law = problem(n_class)
        parts = torch.randperm(800, generator=torch.Generator().manual_seed(folds)).chunk(max(folds, 1))
        inner = [(torch.cat([*parts[:i], *parts[i + 1 :]]), parts[i]) for i in range(folds)]
        fit, select, calibrate, test = (
            Side(*(part.contiguous().to(device) for part in (x[at], law[..., at], torch.zeros_like(law[..., at]))))
            for at in SIDES
        )
        site = Site.prepare([(fit, select, calibrate)], 0, inner=inner)[0]
        levels = {name: few if name.startswith("simple:") else (1, 2, 4) for name in LEVELS}
        readers = [reader for name, ks in levels.items() for reader in fit_level(site, Level.parse(name), ks)]
        for i, reader in enumerate([*readers, *random_readers(site, (1, 3), 0)]):
            told(f"{n_class}/{reader.level}/{reader.source}/{reader.k}/{i}", reader.bits(test))
    return out


def refusals(device: torch.device) -> list[str]:
    """What a device refuses of those who forget it."""
    here, there = torch.ones(3, device=device), torch.ones(3)
    out = []
    for name, forgetful in (("mixed", lambda: here + there), ("numpy", lambda: here.numpy())):
        try:
            forgetful()
        except (RuntimeError, TypeError):
            out.append(name)
    return out


def test_nothing_is_left_on_the_processor():
    """On a device that only pretends, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("pretend.py"))], capture_output=True, text=True, timeout=1200
    )
    # Such devices rest on a function of torch that is still experimental: older and later versions may lack it, and the
    # test marked gpu asks the same of a real device.
    if "cannot import name '_setup_privateuseone_for_python_backend'" in done.stderr:
        pytest.skip("this version of torch has no devices written in Python")
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["refused"] == ["mixed", "numpy"], "a device that forgives everything shows nothing"
    expected = fitted(torch.device("cpu"))
    assert list(found["bits"]) == list(expected) and len(expected) > 40
    assert found["bits"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_accelerator_gives_the_numbers_of_the_processor():
    """Joint fits are not convex: a last digit may send one to another optimum, but seldom, and none gets worse."""
    found, expected = fitted(torch.device("cuda")), fitted(torch.device("cpu"))
    for name, bits in expected.items():
        assert found[name] == pytest.approx(bits, abs=0.02 if "/simple:" in name else 1e-3), name
