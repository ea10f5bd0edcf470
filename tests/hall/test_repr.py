"""What an object says of itself fits a screen, however large it is."""

import numpy as np
import torch

from probekit.activations.activations import Activations
from probekit.storage.runs import open_run
from probekit.task import Behaviour, BehaviourSpec, Observations, Task
from tests.synthetic_run import shared_run, write_run

N = 400


def law():
    return np.tile(np.float32([0.25, 0.75]), (N, 1))


def observations(n_behaviours=200):
    names = [f"behaviour number {i} " + "x" * 90 for i in range(n_behaviours)]
    return Observations(
        example=np.arange(N), position=np.zeros(N, np.int64), group=np.arange(N) // 4, domain=np.full(N, "home"),
        behaviours={name: Behaviour(name, law(), ("a", "b")) for name in names},
    )  # fmt: skip


def task():
    return Task(
        name="t", tokens=[np.arange(9)] * N, positions=[np.array([1])] * N, group=np.arange(N),
        domain=np.full(N, "home"), behaviours=[BehaviourSpec("law")],
    )  # fmt: skip


def test_large_objects_say_what_they_are_in_a_few_lines():
    seen = observations()
    many = Activations({f"blocks.{i}.hook_resid_post": torch.zeros(N, 2) for i in range(90)}, seen, {})
    for one in (seen, task(), many):
        assert len(repr(one)) < 800 and "\n" not in repr(one)
    assert "400 rows in 100 groups" in repr(seen) and "194 more" in repr(seen)
    assert "90 hook points" in repr(many) and "400 examples" in repr(task())


def test_a_run_says_how_far_it_came_and_shows_its_summary_in_a_notebook(tmp_path):
    whole = open_run(shared_run())
    assert "complete" in repr(whole) and len(repr(whole)) < 400
    html = whole._repr_html_()
    assert "of 400 groups" in html and "<table>" in html and html.count("<table>") == html.count("</table>")
    half = open_run(write_run(tmp_path, finish=False), partial=True)
    assert "not finished" in repr(half) and "is not finished" in half._repr_html_()
