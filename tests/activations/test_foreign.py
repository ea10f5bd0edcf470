"""Captures that others made: planted faults are named, every one, and none is seen in right files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import checkpoints
import probekit as pk
from probekit.activations import foreign
from probekit.cli.main import main

ROOT, N_REQUESTS = Path(__file__).parents[2], 8


def engine_of(folder, architecture):
    checkpoints.write(folder, architecture, d_model=32, n_layers=3)
    model = pk.load_model(str(folder))
    draw = np.random.default_rng(0)
    tokens = [draw.integers(4, model.d_vocab, draw.integers(8, 20)) for _ in range(N_REQUESTS)]
    return model, folder, tokens, [states_of(model, ids) for ids in tokens]


def states_of(model, ids):
    """Of the library's own forward, without a mask: [tokens, layers, d]; the last one, behind the final norm, apart."""
    with torch.no_grad():
        found = model.plain.hf(torch.tensor(ids)[None], output_hidden_states=True).hidden_states
    return torch.stack([state[0] for state in found], 1)[:, :-1]


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """(model, its folder, token ids of requests, hidden states of the library's own forward: [tokens, layers, d])."""
    return engine_of(tmp_path_factory.mktemp("model") / "llama", "llama")


def write(folder, tokens, states, swap=False):
    folder.mkdir(parents=True)
    for i, (ids, rows) in enumerate(zip(tokens, states, strict=True)):
        rows = (rows.swapaxes(0, 1) if swap else rows).contiguous()
        save_file({"token_ids": torch.tensor(ids), "hidden_states": rows}, folder / f"req-{i:03d}.safetensors")
    return pk.read_requests(folder)


def neighbours(states, i, other):
    """Request i with the rows of another one, as far as both go."""
    n = min(len(states[i]), len(states[other]))
    return torch.cat([states[other][:n], states[i][n:]])


def padded(rows, step, seed):
    noise = torch.randn(step, *rows.shape[1:], generator=torch.Generator().manual_seed(seed))
    return torch.cat([noise, rows[:-step]])


def behind_pads(model, ids, k, stays):
    """Rows of k pads and the tokens, all of them attended to; the pads' rows stay in front or are taken away again."""
    found = states_of(model, np.concatenate([np.full(k, model.pad_token), ids]))
    return found[: len(ids)] if stays else found[k:]


def normed(model, rows):
    """What the final norm makes of them."""
    with torch.no_grad():
        return (model.plain.hf.model.norm if hasattr(model.plain.hf, "model") else model.plain.hf.transformer.ln_f)(
            rows
        )


# what is done to the rows of one request, and what is to be said of most rows that it changes
PADS_ROWS, PADS_SEEN, PADS_LEFT = "rows of pads", "pads attended to", "pads attended to, their rows left in front"
FAULTS = {
    foreign.OTHER: lambda model, tokens, states, i, k: neighbours(states, i, (i + k) % len(states)),
    foreign.LAYER: lambda model, tokens, states, i, k: torch.roll(states[i], 1 if k % 2 else -1, 1)[:, 1:-1],
    foreign.TOKEN: lambda model, tokens, states, i, k: torch.roll(states[i], k, 0),
    foreign.NORM: lambda model, tokens, states, i, k: normed(model, states[i]),
    foreign.ROUNDED: lambda model, tokens, states, i, k: states[i].bfloat16().float(),
    PADS_ROWS: lambda model, tokens, states, i, k: padded(states[i], k, i),
    PADS_SEEN: lambda model, tokens, states, i, k: behind_pads(model, tokens[i], k, False),
    PADS_LEFT: lambda model, tokens, states, i, k: behind_pads(model, tokens[i], k, True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_named(engine, tmp_path, fault):
    named_in(engine, tmp_path, fault, [0])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_named_in_two_hundred_draws(tmp_path, fault, architecture):
    """29 folders of seven requests with the fault and one without, for two ways to tell a model places."""
    named_in(engine_of(tmp_path / "model", architecture), tmp_path, fault, range(29))


def named_in(engine, tmp_path, fault, seeds):
    """In every draw whose rows, and how far; and nothing of the request that is as it should be."""
    model, _, tokens, states = engine
    # rolled layers have no neighbour at the ends, so that one layer in the middle is written
    layers = [1] if fault == foreign.LAYER else [0, 1, 2]
    if fault == foreign.NORM:  # of what the last block gives
        layers, hook = [3], "blocks.2.hook_resid_post"
        states = [model.read([ids], [hook], [np.arange(len(ids))])[hook][:, None] for ids in tokens]
    plain = states if fault == foreign.NORM else [rows[:, layers] for rows in states]
    for seed in seeds:
        ks = np.random.default_rng(seed).integers(1, 4, N_REQUESTS)
        ks[seed % N_REQUESTS] = 0
        made = [FAULTS[fault](model, tokens, states, i, k) if k else plain[i] for i, k in enumerate(ks.tolist())]
        found = pk.audit_requests(write(tmp_path / str(seed), tokens, made), model, layers)
        for i, k in enumerate(ks.tolist()):
            rows = found.rows[found.rows["request"] == f"req-{i:03d}"]
            wrong = rows[rows["verdict"] != foreign.RIGHT]
            if not k:
                assert not len(wrong), (seed, i)
                continue
            moved = (made[i] - plain[i]).abs().amax(2) > (0 if fault == foreign.ROUNDED else 0.05)
            assert len(wrong) >= moved.sum().item(), (seed, i, k)
            named(wrong, fault, i, k)


def named(wrong, fault, i, k):
    """Most rows are said to be what was done to them, the deepest ones say where they are from, and none is unknown."""
    kinds = wrong["verdict"].value_counts()
    expected = {PADS_ROWS: foreign.TOKEN, PADS_SEEN: foreign.PADDING, PADS_LEFT: foreign.PADDING}.get(fault, fault)
    assert kinds.idxmax() == expected and foreign.UNKNOWN not in kinds, kinds
    deep = wrong[(wrong["layer"] == wrong["layer"].iloc[-1]) & (wrong["verdict"] == expected)]
    said = deep["holds"].mode()[0]
    if fault == foreign.OTHER:
        assert said.startswith(f"req-{(i + k) % N_REQUESTS:03d} row ")
    elif fault == foreign.ROUNDED:
        assert set(wrong["holds"]) == {"numbers are bf16"}
    elif fault == foreign.LAYER:
        assert said == ("L0 resid_pre" if k % 2 else "L1 resid_post")
    elif fault == foreign.TOKEN:
        assert said == f"{k} earlier"
    elif fault == PADS_ROWS:
        assert said == f"{k} earlier" and (wrong["verdict"] == foreign.PADDING).sum() == 3 * k
    elif expected == foreign.PADDING:
        assert said == f"{k} pad{'s' * (k > 1)} attended to, token 3"


def test_right_rows_are_right_whatever_the_order_and_the_batch(engine, tmp_path):
    """Of files in either order; and the naive test, equality of numbers, would call all of them wrong."""
    model, _, tokens, states = engine
    for name, swap in (("tokens", False), ("layers", True)):
        requests = write(tmp_path / name, tokens, states, swap)
        assert requests.order == name and requests.n_layers == 3 and requests.d == 32
        found = pk.audit_requests(requests, model, [0, 1, 2])
        assert found.right and found.requests == (N_REQUESTS, N_REQUESTS)
        assert found.rows["apart"].max() < 1e-4 < foreign.EXACT
        assert found.summary.to_dict("records") == [
            {"verdict": "right", "rows": 3 * sum(map(len, tokens)), "share": 1.0, "requests": N_REQUESTS, "example": ""}
        ]
    one = pk.read_requests(tmp_path / "tokens")[0]
    ours = model.read([one.tokens], ["blocks.1.hook_resid_post"], [np.arange(len(one.tokens))])
    assert not np.array_equal(one.states[:, 2], ours["blocks.1.hook_resid_post"].numpy())


def test_the_library_s_last_state_is_behind_the_final_norm(engine, tmp_path):
    model, _, tokens, states = engine
    made = []
    for ids, rows in zip(tokens, states, strict=True):
        with torch.no_grad():
            last = model.plain.hf(torch.tensor(ids)[None], output_hidden_states=True).hidden_states[-1][0]
        made.append(torch.cat([rows, last[:, None]], 1))
    found = pk.audit_requests(write(tmp_path / "hf", tokens, made), model)
    last = found.rows["layer"] == "L2 resid_post"
    assert (found.rows.loc[last, "verdict"] == foreign.NORM).all()
    assert (found.rows.loc[~last, "verdict"] == foreign.RIGHT).all() and found.layers[-1] == "blocks.2.hook_resid_post"


def test_a_share_of_the_requests_has_its_neighbours_with_it(engine, tmp_path):
    model, _, tokens, states = engine
    requests = write(tmp_path / "many", tokens * 3, states * 3)
    found = pk.audit_requests(requests, model, [0, 1, 2], n_requests=8)
    names = sorted(set(found.rows["request"]))
    numbers = np.array([int(name[-3:]) for name in names])
    assert found.requests == (8, 24) and all(n // 4 in numbers // 4 for n in numbers)
    assert (np.bincount(numbers // 4, minlength=6)[np.unique(numbers // 4)] == 4).all()


def test_the_last_token_may_have_no_row(engine, tmp_path):
    """What was written last was never read by the model."""
    model, _, tokens, states = engine
    found = pk.audit_requests(write(tmp_path / "short", tokens, [rows[:-1] for rows in states]), model, [0, 1, 2])
    assert found.right and len(found.rows) == 3 * (sum(map(len, tokens)) - N_REQUESTS)


def test_the_command_counts_and_exits(engine, tmp_path, capsys, monkeypatch):
    _, folder, tokens, states = engine
    write(tmp_path / "good", tokens, states)
    write(tmp_path / "bad", tokens, [neighbours(states, i, (i + 1) % N_REQUESTS) for i in range(N_REQUESTS)])
    monkeypatch.setenv("COLUMNS", "80")

    def said(name, *more):
        monkeypatch.setattr("sys.argv", ["probekit", "audit", str(tmp_path / name), "--model", str(folder), *more])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code, capsys.readouterr()

    code, told = said("good", "--layers", "0,1,2")
    assert code in (0, None) and "100.0%" in told.out and "8 of 8 requests" in told.out
    code, told = said("bad", "--layers", "0,1,2")
    assert code == 1 and "another request's" in told.out and max(map(len, told.out.splitlines())) <= 80
    code, told = said("bad", "--layers", "0,1,2", "--json")
    found = json.loads(told.out)
    assert code == 1 and not found["ok"] and {row["verdict"] for row in found["rows"]} >= {foreign.OTHER}
    code, told = said("good")  # three layers of a model of three are taken for what its blocks give
    assert code == 1 and "another layer's" in told.out and "--layers 0,1,2" in " ".join(told.out.split())
    code, told = said("bad", "--layers", "1,2,3")  # who says which layers these are is not told to
    assert code == 1 and "were taken for" not in told.out
    code, told = said("bad", "--layers", "0,1")
    assert code == 2 and "files of 3 layers" in told.err and "Traceback" not in told.err
    code, told = said("bad", "--layers", "0,x,2")
    assert code == 2 and "whole numbers" in told.err
    code, told = said("nowhere")
    assert code == 2 and "no folder" in told.err


def test_another_model_s_files_are_refused(engine, tmp_path):
    model, _, tokens, states = engine
    wide = write(tmp_path / "wide", tokens, [torch.cat([rows, rows], 2) for rows in states])
    with pytest.raises(pk.BadInput, match="64 coordinates .* has 32"):
        pk.audit_requests(wide, model, [0, 1, 2])
    strange = write(tmp_path / "ids", [ids + model.d_vocab for ids in tokens], states)
    with pytest.raises(pk.BadInput, match="request req-000: token id"):
        pk.audit_requests(strange, model, [0, 1, 2])
    with pytest.raises(pk.BadInput, match="the files hold 2 layers and .* has 3"):
        pk.audit_requests(write(tmp_path / "two", tokens, [rows[:, :2] for rows in states]), model)


def test_the_page_shows_what_is_printed(engine, tmp_path, capsys, monkeypatch):
    """docs/activations.md: every request has the rows of the next one."""
    _, folder, tokens, states = engine
    write(tmp_path / "captures", tokens, [neighbours(states, i, (i + 1) % N_REQUESTS) for i in range(N_REQUESTS)])
    monkeypatch.setenv("COLUMNS", "80")
    given = ["probekit", "audit", str(tmp_path / "captures"), "--model", str(folder), "--layers", "0,1,2"]
    monkeypatch.setattr("sys.argv", given)
    with pytest.raises(SystemExit):
        main()
    printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.strip().splitlines())
    assert f"```\n{printed}\n```" in (ROOT / "docs" / "activations.md").read_text(), printed
