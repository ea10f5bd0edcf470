"""Frames that are kept for other behaviours of the same rows."""

import pytest
import torch

from probekit.errors import FitError
from probekit.fit import frame as frames
from probekit.fit.frame import Frames, Span, frame_rows


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


def test_frames_of_overlapping_rows_share_their_products_and_nothing_else(monkeypatch):
    (a, b), new = parts(90, 200), torch.randn(5, 200, generator=torch.Generator().manual_seed(1))
    x, known, spans = torch.cat([a, b]) + 50, Frames(), []
    of = Span.of
    monkeypatch.setattr(Span, "of", lambda *rows: spans.append(1) or of(*rows))
    for seed in range(3):
        at = torch.randperm(90, generator=torch.Generator().manual_seed(seed))[:60]
        sides = x[at[:40]], x[at[40:]]
        frame, z = known.of(*sides, among=lambda at=at: (x, at))
        judge, rows = frame_rows(*sides)
        assert torch.allclose(z, rows, atol=1e-5) and torch.allclose(frame.mean, judge.mean)
        assert torch.allclose(frame.variance, judge.variance, rtol=1e-5)
        assert torch.allclose(frame.apply(new), judge.apply(new), atol=1e-4)
        # Rows that it is not of may be anything, up to rounding: centred on all rows it would follow them.
        other = x.clone()
        other[[i for i in range(90) if i not in at.tolist()]] -= 100
        far = Span.of(other).frame(at, *sides)
        assert torch.allclose(far[1], rows, atol=1e-5) and torch.allclose(far[0].variance, judge.variance, rtol=1e-5)
    assert len(spans) == 4  # once for all frames, and once for each of the others
    x[0, 0] = float("nan")
    with pytest.raises(FitError, match="not all finite"):
        Span.of(x)
