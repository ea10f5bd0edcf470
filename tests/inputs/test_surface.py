"""The embedding block of the default floor: its columns, its memory, and a leak that only it can see."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch

import probekit as pk
from probekit.errors import BadInput
from probekit.fit.floor import fit_floor
from probekit.inputs.surface import surface_features, word_features
from probekit.metrics.splits import split_by_group
from probekit.task import Task


def task_of(tokens, positions=None):
    n = len(tokens)
    positions = positions or [np.array([len(t) - 1]) for t in tokens]
    return Task("t", tokens, positions, np.arange(n), np.array(["all"] * n), ())


def table_of(n_vocab, d, seed=0):
    """Embeddings with a spectrum that falls off, and a mean that is not 0."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n_vocab, d)) * 0.97 ** np.arange(d) @ np.linalg.qr(rng.standard_normal((d, d)))[0]
            + 3).astype(np.float32)  # fmt: skip


def test_rows_are_the_mean_of_what_was_seen_and_the_last_token():
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 500, size) for size in rng.integers(3, 9, 20)]
    positions = [rng.permutation(len(t))[:2] for t in tokens]
    table = table_of(500, 12)
    block = surface_features(task_of(tokens, positions), 500, lambda ids: table[ids])["embedding"]
    assert block.shape == (40, 24) and block.dtype == np.float32
    flat = table[np.concatenate(tokens)]
    centred = table - flat.mean(0)
    scale = np.sqrt(((flat - flat.mean(0)) ** 2).sum(1).mean())
    expected = [np.concatenate([centred[t[: p + 1]].mean(0), centred[t[p]]]) / scale
                for t, places in zip(tokens, positions, strict=True) for p in places]  # fmt: skip
    assert np.allclose(block, expected, atol=1e-4)


def test_wide_embeddings_keep_their_principal_directions():
    rng = np.random.default_rng(1)
    tokens = [rng.integers(0, 2_000, 40) for _ in range(300)]
    table = table_of(2_000, 300)
    most = []

    def embed(ids):
        most.append(len(ids))
        return table[ids]

    every = [np.arange(len(t)) for t in tokens]
    block = surface_features(task_of(tokens, every), 2_000, embed)["embedding"][:, 128:]
    flat = table[np.concatenate(tokens)]
    variance = np.linalg.svd(flat - flat.mean(0), compute_uv=False) ** 2
    kept = (block**2).sum() / len(flat)  # in units of all variance
    assert kept == pytest.approx(1, abs=1e-3)  # the scale is of what is kept
    spectrum = np.linalg.svd(block, compute_uv=False) ** 2
    assert np.allclose(spectrum / spectrum.sum(), variance[:128] / variance[:128].sum(), atol=2e-4)
    assert max(most) <= 4_096


def test_small_vocabularies_and_models_without_embeddings_have_no_block():
    task = task_of([np.array([1, 2, 3])] * 4)
    assert "embedding" not in surface_features(task, 60, lambda ids: np.ones((len(ids), 4), np.float32))
    assert "embedding" not in surface_features(task, 600)


def test_columns_can_be_those_of_another_task():
    rng = np.random.default_rng(2)
    tokens = [rng.integers(0, 700, 12) for _ in range(60)]
    table = table_of(700, 20)
    task = task_of(tokens)
    shorter = task_of([t[3:] for t in tokens])
    own = surface_features(task, 700, lambda ids: table[ids])
    again = surface_features(task, 700, lambda ids: table[ids], like=dataclasses.replace(task))
    moved = surface_features(shorter, 700, lambda ids: table[ids], like=task)
    for name, block in own.items():
        assert np.allclose(again[name], block)
        assert moved[name].shape == block.shape
    assert np.array_equal(moved["last_tokens"], own["last_tokens"])  # the same three tokens
    assert np.allclose(moved["embedding"][:, 20:], own["embedding"][:, 20:], atol=1e-6)
    assert (moved["position"].argmax(1) == 8).all()
    assert (own["bag"].sum(1) - moved["bag"].sum(1) >= 0).all()


def test_memory_is_that_of_the_block():
    rng = np.random.default_rng(3)
    tokens = [rng.integers(0, 20_000, 30) for _ in range(2_000)]
    table = table_of(20_000, 256)
    task = task_of(tokens)
    tracemalloc.start()
    block = surface_features(task, 20_000, lambda ids: table[ids])["embedding"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # one table of 128 columns, a few thousand embeddings, and the other blocks (last tokens and bag, 10 MB)
    assert peak < block.nbytes + 20_000 * 128 * 4 * 2 + 4_096 * 256 * 8 * 4 + 40e6


@pytest.fixture(scope="module")
def synonyms():
    """The label is a direction of the last word's embedding, and no word of the test rows was seen in fitting."""
    rng = np.random.default_rng(4)
    n, n_vocab, d = 1_500, 40_000, 16
    table = rng.standard_normal((n_vocab, d)).astype(np.float32)
    last = rng.permutation(n_vocab)[:n]
    tokens = [np.array([rng.integers(n_vocab), rng.integers(n_vocab), w]) for w in last]
    return task_of(tokens), table, (table[last, 0] > 0).astype(np.int64), last


def test_without_it_a_probe_of_the_embedding_layer_seems_to_find_something(synonyms):
    task, table, label, last = synonyms
    found = {}
    for name, embed in (("hashed", None), ("embedded", lambda ids: table[ids])):
        records = pk.measure(
            {"embed": table[last] @ np.linalg.qr(np.random.default_rng(5).standard_normal((16, 16)))[0]},
            behaviour={"b": label}, floor=surface_features(task, 40_000, embed), groups=np.arange(len(label)),
            levels=("linear",), controls=(), decomposition=False, extrapolate=False, floors=("strong",),
            n_permutations=0, n_bootstrap=200,
        )  # fmt: skip
        found[name] = records.query("metric == 'read' and level == 'linear'").iloc[0]
    assert found["hashed"]["floor_bits"] > 0.9  # as if the input did not say it
    assert found["hashed"]["value"] < 0.3
    assert found["embedded"]["floor_bits"] < 0.3  # the truth: it is in the input


def test_where_it_says_nothing_it_costs_little():
    rng = np.random.default_rng(6)
    tokens = [rng.integers(0, 300, 8) for _ in range(1_200)]
    label = np.array([t[-1] < 150 for t in tokens], dtype=np.int64)  # of the number alone: embeddings are noise
    table = table_of(300, 32)
    law = torch.from_numpy(np.eye(2, dtype=np.float32)[label].T[:, None].copy())
    split = split_by_group(np.arange(1_200), 0)
    bits = {}
    for name, embed in (("without", None), ("with", lambda ids: table[ids])):
        blocks = surface_features(task_of(tokens), 300, embed)
        _, logits = fit_floor("strong", blocks, law, np.arange(1_200), split, 0)
        p = torch.softmax(logits[:, 0, torch.from_numpy(split.test)], 0).numpy()
        bits[name] = float(-np.log2(p[label[split.test], np.arange(len(split.test))]).mean())
    assert bits["with"] < bits["without"] + 0.03


def test_words_stand_for_tokens_and_the_text_is_whole():
    texts = ["  Paris is big. ", "x=1\n\n  return x", "é"]
    blocks = word_features(texts)
    assert blocks["text"].tolist() == texts
    assert blocks["last_tokens"].sum(1).tolist() == [3, 3, 1]
    assert blocks["bag"].sum(1).tolist() == [5, 5, 1]  # blanks that nothing follows are a word too
    long = " ".join(["word"] * 1_000)
    assert word_features([long, "a"])["text"][0] == " word" * 400
    with pytest.raises(BadInput, match="text 1 is empty"):
        word_features(["a", ""])
