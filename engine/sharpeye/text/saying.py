"""What a model says: its own completions of prompts, for people to read."""

import torch

from sharpeye.text.language_models import (
    EncodedExample,
    LanguageModel,
    batches_by_length,
    token_batch,
)
from sharpeye.training.devices import autocast

# Beyond the longest completion that is expected, and at most.
MORE, MOST = 8, 96


@torch.inference_mode()
def say(model: LanguageModel, encoded: list[EncodedExample], longest: int, trained: bool) -> list[str]:
    """The most probable completion of each example's prompt, token by token.

    Args:
        model: that speaks.
        encoded: whose prompts are completed.
        longest: tokens that a completion is expected to have.
        trained: whether with the LoRA parameters.
    """
    prompts = [EncodedExample(one.tokens[: -one.completion], 1) for one in encoded]
    length = min(longest + MORE, MOST)
    answers = [""] * len(encoded)
    causal = model.network.causal
    if not trained:
        with causal.disable_adapter():
            return _say(model, prompts, length, answers)
    return _say(model, prompts, length, answers)


def _say(model: LanguageModel, prompts: list[EncodedExample], length: int, answers: list[str]) -> list[str]:
    tokenizer = model.tokenizer
    for rows in batches_by_length(prompts, model.batch):
        batch = token_batch(prompts, rows, model.device, tokenizer.pad_token_id)
        with autocast(model.device):
            said = model.network.causal.generate(
                input_ids=batch.tokens,
                attention_mask=batch.mask,
                max_new_tokens=length,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
        for at, row in enumerate(rows):
            answers[row] = tokenizer.decode(said[at, batch.tokens.shape[1] :], skip_special_tokens=True)
    return answers
