"""Files of rows in every format, and the face of a tokenizer: one token per word."""

import gzip
import io
import json
import re
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, parquet

from probekit.inputs import columns
from probekit.inputs.text import Encoder

FORMATS = ["csv", "tsv", "json", "jsonl", "parquet", "csv.gz", "tsv.zst", "json.zst", "jsonl.gz"]
VOCABULARY = {"yes": [7], "no": [8], "maybe": [7, 8], "": []}


class Words:
    """The face of a tokenizer: one token per word, its number the sum of its characters or the vocabulary's."""

    is_fast, chat_template, bos_token_id, unk_token_id = True, None, None, None

    def __init__(self, before: tuple[int, ...] = (), after: tuple[int, ...] = ()):
        self.before, self.after = list(before), list(after)
        self.all_special_ids, self.added_tokens_decoder = [*before, *after], {}

    def convert_ids_to_tokens(self, ids):
        return f"<{ids}>" if isinstance(ids, int) else [f"<{i}>" for i in ids]

    def __call__(self, text, add_special_tokens=True, verbose=True, return_offsets_mapping=False):
        if isinstance(text, str):
            return {key: rows[0] for key, rows in self([text], add_special_tokens).items()}
        before, after = (self.before, self.after) if add_special_tokens else ([], [])
        found = {"input_ids": [], "offset_mapping": []}
        for one in text:
            words = [(word, token) for word in re.finditer(r"\S+", one)
                     for token in VOCABULARY.get(word[0], [sum(map(ord, word[0]))])]  # fmt: skip
            found["input_ids"].append(before + [token for _, token in words] + after)
            places = [word.span() for word, _ in words]
            found["offset_mapping"].append([(0, 0)] * len(before) + places + [(0, 0)] * len(after))
        return found


tokeniser, with_bos = Encoder(Words()), Encoder(Words((99,)))
cut_off = Encoder(Words((99,), (100,)), eos="none")  # what the model does behind an end of the text is not measured


def write(path: Path, rows: list[dict]) -> Path:
    """Rows in the format that the name says, packed where it says so."""
    if path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
        return path
    kind = columns.kind_of(path)
    if kind == ".jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    elif kind == ".json":
        text = json.dumps(rows, indent=1).encode()
    else:
        flat = [{k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
        out = io.BytesIO()
        csv.write_csv(pa.Table.from_pylist(flat), out, csv.WriteOptions(delimiter=columns.SEPARATORS[kind]))
        text = out.getvalue()
    packers = {".gz": gzip.compress, ".zst": lambda raw: pa.compress(raw, codec="zstd", asbytes=True)}
    path.write_bytes(packers.get(path.suffix, bytes)(text))
    return path
