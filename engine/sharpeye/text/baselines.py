"""Plain baselines that take no gradient: overlap of words, and likeness of embeddings."""

import numpy as np
import torch

from sharpeye.errors import InputError
from sharpeye.text.examples import TextExamples
from sharpeye.text.language_models import (
    MISSING,
    EncodedExample,
    LanguageModel,
    batches_by_length,
    token_batch,
)


def bm25(training: TextExamples, validation: TextExamples) -> np.ndarray:
    """BM25 of each validation example, prompt and completion, as a query to the training ones, (N, V)."""
    try:
        import bm25s
    except ImportError as error:
        raise InputError(MISSING.format(error)) from error
    documents, queries = (_texts(examples) for examples in (training, validation))
    index = bm25s.BM25()
    index.index(bm25s.tokenize(documents, stopwords=None, show_progress=False), show_progress=False)
    words = bm25s.tokenize(queries, stopwords=None, return_ids=False, show_progress=False)
    columns = [index.get_scores(list(query)) if query else np.zeros(len(training)) for query in words]
    return np.stack(columns, 1).astype(np.float32)


def _texts(examples: TextExamples) -> list[str]:
    return [f"{prompt} {said}" for prompt, said in zip(examples.prompts, examples.completions, strict=True)]


def embedding_similarity(
    model: LanguageModel, training: list[EncodedExample], validation: list[EncodedExample]
) -> np.ndarray:
    """Cosine of the mean last hidden states, of the model before training, (N, V)."""
    first, second = (embeddings(model, encoded) for encoded in (training, validation))
    return first @ second.T


@torch.inference_mode()
def embeddings(model: LanguageModel, encoded: list[EncodedExample]) -> np.ndarray:
    """Mean of the last hidden states over all tokens, of length 1, (N, d); without the LoRA parameters."""
    result: np.ndarray | None = None
    causal = model.network.causal
    with causal.disable_adapter():
        for rows in batches_by_length(encoded, model.batch):
            batch = token_batch(encoded, rows, model.device)
            output = causal(**batch.inputs(), output_hidden_states=True, logits_to_keep=1, use_cache=False)
            weights = batch.mask[:, :, None].float()
            mean = (output.hidden_states[-1].float() * weights).sum(1) / weights.sum(1)
            unit = torch.nn.functional.normalize(mean, dim=1).cpu().numpy()
            if result is None:
                result = np.empty((len(encoded), unit.shape[1]), np.float32)
            result[rows] = unit
    assert result is not None
    return result
