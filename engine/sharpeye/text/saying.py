"""What a model says: its own completions of prompts, for people to read."""

import torch

from sharpeye.text.examples import TextExamples
from sharpeye.text.language_models import EncodedExample, LanguageModel, batches_by_length
from sharpeye.training.devices import matrix_autocast

BATCH = 16
# Beyond the longest completion that is expected, and at most.
MORE, MOST = 8, 96


@torch.inference_mode()
def say(
    model: LanguageModel, examples: TextExamples, encoded: list[EncodedExample], trained: bool
) -> list[str]:
    """The most probable completion of each prompt, token by token; `trained` with the LoRA parameters."""
    prompts = [EncodedExample(one.tokens[: -one.completion], 1) for one in encoded]
    length = min(max(one.completion for one in encoded) + MORE, MOST)
    answers = [""] * len(examples)
    causal = model.network.causal
    if not trained:
        with causal.disable_adapter():
            return _say(model, prompts, length, answers)
    return _say(model, prompts, length, answers)


def _say(model: LanguageModel, prompts: list[EncodedExample], length: int, answers: list[str]) -> list[str]:
    tokenizer = model.tokenizer
    for rows in batches_by_length(prompts, BATCH):
        width = max(len(prompts[row].tokens) for row in rows)
        tokens = torch.full((len(rows), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(tokens)
        for at, row in enumerate(rows):
            own = prompts[row].tokens
            tokens[at, width - len(own) :], mask[at, width - len(own) :] = torch.tensor(own), 1
        with matrix_autocast(model.device):
            said = model.network.causal.generate(
                input_ids=tokens.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=length,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
            )
        for at, row in enumerate(rows):
            answers[row] = tokenizer.decode(said[at, width:], skip_special_tokens=True)
    return answers
