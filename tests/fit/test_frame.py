"""Frames that are kept for other behaviours of the same rows."""

import pytest
import torch

from probekit.fit import frame as frames
from probekit.fit.frame import Frames, frame_rows


def parts(n, d, seed=0):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * torch.linspace(1, 9, d)
    return x[: n // 2], x[n // 2 :]


@pytest.mark.parametrize(("n", "d"), [(60, 200), (200, 60)])
def test_a_kept_frame_is_the_one_that_was_fitted(n, d, monkeypatch):
    known, (a, b), calls = Frames(), parts(n, d), []
    eigh = frames.eigh
    monkeypatch.setattr(frames, "eigh", lambda moment: calls.append(1) or eigh(moment))
    frame, z = known.of(a, b)
    again, same = known.of(a.clone(), b.clone())
    assert len(calls) == 1
    judge, rows = frame_rows(a, b)
    new = torch.randn(5, d, generator=torch.Generator().manual_seed(1))
    for one, its in ((frame, z), (again, same)):
        assert torch.equal(its, rows)
        assert torch.equal(one.apply(new), judge.apply(new))
        assert torch.equal(one.rotation, judge.rotation)
    kept = [part for frame, _ in known._known.values() for part in frame.span]
    assert sum(part.untyped_storage().nbytes() for part in kept) == 0  # whoever asks brings the rows
    known.of(*parts(n, d, 1))
    assert len(calls) == 3  # the judge's, and that of other rows


def test_no_more_is_kept_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(frames, "KEPT_BYTES", 60 * 60 * 4)
    known, calls = Frames(), []
    fitted = frames.frame_rows
    monkeypatch.setattr(frames, "frame_rows", lambda *rows, **more: calls.append(1) or fitted(*rows, **more))
    for seed in (0, 1, 1, 0):
        known.of(*parts(200, 60, seed))
    assert len(calls) == 3  # the second takes the room of the first
