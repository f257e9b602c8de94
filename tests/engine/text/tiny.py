"""A tiny causal model with random weights, its tokenizer, and examples for it: nothing is downloaded."""

import json
import random
from pathlib import Path

import pytest

WORDS = [
    "the",
    "cat",
    "dog",
    "bird",
    "sees",
    "likes",
    "finds",
    "red",
    "blue",
    "green",
    "apple",
    "stone",
    "river",
]


def tiny_model(folder: Path, linear_names: bool = True) -> Path:
    """A causal model of two layers and 32 features as a folder of Hugging Face.

    Args:
        folder: where to write it.
        linear_names: False makes one whose kind has no projections that LoRA knows.
    """
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    own = ["<unk>", "<pad>", "</s>", *WORDS, "up", "down", ":", "→"]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: at for at, word in enumerate(own)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", pad_token="<pad>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    if linear_names:
        config = transformers.LlamaConfig(
            vocab_size=len(own),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=64,
            pad_token_id=1,
            eos_token_id=2,
            bos_token_id=2,
        )
        model = transformers.LlamaForCausalLM(config)
    else:
        config = transformers.MambaConfig(vocab_size=len(own), hidden_size=16, num_hidden_layers=1)
        model = transformers.MambaForCausalLM(config)
    model.save_pretrained(folder)
    return folder


def write_examples(path: Path, count: int, seed: int = 0) -> Path:
    """Examples of two kinds: `up` repeats the words of the prompt, `down` turns them round."""
    rng = random.Random(seed)
    with path.open("w") as file:
        for number in range(count):
            words = rng.sample(WORDS, 4)
            kind = ("up", "down")[number % 2]
            said = words if kind == "up" else words[::-1]
            row = {
                "id": f"{path.stem}-{number}",
                "prompt": f"{kind} : {' '.join(words)} → ",
                "completion": " ".join(said),
                "class": kind,
            }
            file.write(json.dumps(row) + "\n")
    return path
