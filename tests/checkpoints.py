"""Tiny random checkpoints in Hugging Face format, with tokenizers, for tests that must not touch the network."""

import json
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertLMHeadModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
)

SENTENCES = (
    "the capital of france is paris and the capital of spain is madrid",
    "she sold the red car because it was old and he bought a blue bicycle",
    "one two three four five six seven eight nine ten",
    "a true sentence and a false sentence are not the same",
)
ARCHITECTURES = ("gpt2", "llama", "neox", "gemma2")
N_LAYERS, D_MODEL, N_CTX = 3, 32, 48


def words(sentences: Iterable[str] = SENTENCES) -> PreTrainedTokenizerFast:
    """A word-level tokenizer over sentences with distinct BOS, EOS, unknown and padding tokens."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    special = ["<unk>", "<bos>", "<eos>", "<pad>"]
    tokenizer.train_from_iterator(sentences, trainers.WordLevelTrainer(special_tokens=special))  # pyright: ignore
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


# Content trimmed, BOS in the text, and the assistant's tokens told apart for the library's own mask of them.
CHAT = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content | trim }}{% endgeneration %}{% else %}{{ m.content | trim }}{% endif %}"
    "{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def pieces(n_vocab: int = 400) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer over SENTENCES that puts a BOS in front of every text, with a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    special = ["<unk>", "<bos>", "<eos>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=n_vocab, special_tokens=special, initial_alphabet=alphabet)  # pyright: ignore
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.Sequence([  # pyright: ignore[reportAttributeAccessIssue]
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)]),
    ])  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", chat_template=CHAT
    )


def sentences() -> PreTrainedTokenizerFast:
    """A BPE tokenizer in the manner of SentencePiece: a blank is part of a word, and one is put in front of a text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")  # pyright: ignore
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")  # pyright: ignore[reportAttributeAccessIssue]
    special = ["<unk>", "<bos>", "<eos>", "<pad>"]
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=special)  # pyright: ignore[reportCallIssue]
    tokenizer.train_from_iterator([*SENTENCES, "Answer: A or B? Answer:A Answer:B", "A B A B A B A B"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"
    )


def build(architecture: str, n_vocab: int, *, n_layers: int = N_LAYERS, d_model: int = D_MODEL, n_ctx: int = N_CTX,
          seed: int = 0) -> torch.nn.Module:  # fmt: skip
    """A randomly initialised causal language model. Weights are scaled up so that every layer matters."""
    common = {"vocab_size": n_vocab, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    modern = common | {
        "hidden_size": d_model, "intermediate_size": 3 * d_model, "num_hidden_layers": n_layers,
        "num_attention_heads": 4, "max_position_embeddings": n_ctx,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if architecture == "gpt2":
            model = GPT2LMHeadModel(GPT2Config(n_embd=d_model, n_layer=n_layers, n_head=4, n_positions=n_ctx, **common))
        elif architecture == "llama":
            model = LlamaForCausalLM(LlamaConfig(num_key_value_heads=2, **modern))
        elif architecture == "neox":
            model = GPTNeoXForCausalLM(GPTNeoXConfig(use_parallel_residual=True, **modern))
        elif architecture == "gemma2":
            # a window shorter than the context, so that the sliding layers really slide
            model = Gemma2ForCausalLM(
                Gemma2Config(num_key_value_heads=2, head_dim=d_model // 4, sliding_window=8, **modern)
            )
        elif architecture == "mamba":
            model = MambaForCausalLM(
                MambaConfig(hidden_size=d_model, num_hidden_layers=n_layers, state_size=8, **common)
            )
        elif architecture == "bert":  # an encoder: every token sees every other
            model = BertLMHeadModel(BertConfig(**modern))
        else:
            raise ValueError(architecture)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "emb" not in name and "wte" not in name:
                parameter.data *= 4
    return model.eval()


def write(
    folder: Path, architecture: str, *, with_tokenizer: bool = True, tokenizer: PreTrainedTokenizerFast | None = None,
    **kwargs,
) -> Path:  # fmt: skip
    """Write `build(architecture)` and its tokenizer, `words()` unless another is given, as a checkpoint folder."""
    tokenizer = tokenizer or words()
    model = build(architecture, len(tokenizer), **kwargs)
    model.save_pretrained(folder)  # pyright: ignore[reportCallIssue]
    if with_tokenizer:
        tokenizer.save_pretrained(folder)
    return folder


def rewrite_config(folder: Path, **changes: object) -> None:
    """Change fields of a checkpoint's config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def sharpen(folder, to, factor=12.0):
    """The checkpoint with a larger final norm: a random model is hardly ever sure of anything."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    hf = AutoModelForCausalLM.from_pretrained(folder)
    norm = hf.model.norm if hasattr(hf, "model") else hf.transformer.ln_f
    norm.weight.data.mul_(factor)
    hf.save_pretrained(to)
    AutoTokenizer.from_pretrained(folder).save_pretrained(to)
    return to
