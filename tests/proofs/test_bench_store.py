"""The store bench: what it compares agrees to the bit, and its rows have the keys of every bench."""

from probekit.proofs.bench import store


def test_rows_agree_and_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_age", lambda folder: None)
    folder = tmp_path / "bench"
    size = store.StoreSize(rows=300, width=8, gathered=5, shards=3, repeats=1)
    rows = [row.row() for row in store.store_bench(size, folder)]
    assert not folder.exists()
    assert len({row["case"] for row in rows}) == len(rows) == 19
    assert all(row["gap"] == 0 and row["ours_seconds"] > 0 and row["peer_seconds"] > 0 for row in rows)


def test_a_wrong_read_shows_in_the_gap(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_age", lambda folder: None)
    monkeypatch.setattr(store, "_read", lambda path: store.Store(path).read(store.KEY, "x") + 1)
    size = store.StoreSize(rows=30, width=8, gathered=5, shards=3, repeats=1)
    gaps = {row.case: row.gap for row in store.store_bench(size, tmp_path / "bench")}
    assert gaps["cold read, one shard"] == 1
    assert gaps["warm read again, one shard"] == 0
