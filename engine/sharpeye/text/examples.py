"""Prompts and completions, read from tables."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sharpeye.data.tables import read_table
from sharpeye.errors import InputError

PROMPT_COLUMNS = ("prompt", "instruction", "question", "input")
COMPLETION_COLUMNS = ("completion", "response", "answer", "output")
CLASS_COLUMNS = ("class", "variation", "category", "task")
ID_COLUMN = "id"
# Marks of the end that files carry, and that the tokenizer adds by itself.
END_MARKS = ("</s>", "<|endoftext|>", "<|im_end|>", "<eos>")
ROLES = {"user": "User", "system": "System", "assistant": "Assistant"}


@dataclass(frozen=True)
class TextExamples:
    """Examples of what a model should say.

    Attributes:
        ids: names of the examples, unique, (N,).
        prompts: what comes before, (N,).
        completions: what the model should say, (N,).
        classes: kind of each example where that is known; only shown and measured by, never used, (N,).
        notes: what the user should know of how they were read.
    """

    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def key(self) -> str:
        """What identifies the examples: a digest of all that they say, in order."""
        digest = hashlib.blake2b(digest_size=12)
        for parts in zip(self.ids, self.prompts, self.completions, strict=True):
            for part in parts:
                digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
        return digest.hexdigest()

    def take(self, rows: np.ndarray) -> "TextExamples":
        """Some of the examples, in the order of `rows`."""

        def of(values: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(values[row] for row in rows)

        classes = None if self.classes is None else of(self.classes)
        return TextExamples(of(self.ids), of(self.prompts), of(self.completions), classes)


def read_examples(path: Path) -> TextExamples:
    """Examples of a JSONL, CSV, TSV or Parquet table.

    Its columns are a prompt and a completion (by their usual names); or `prompt` and `text`, which begins
    with the prompt; or `messages`, a chat whose last message is the completion. An `id` and a class may
    be there, too.

    Raises:
        InputError: names the file, and the row or column that cannot be used.
    """
    table, notes = read_table(path)
    if table.empty:
        raise InputError(f"{path}: holds no examples")
    names = {str(name).strip().lower(): name for name in table.columns}
    pairs = _reader(path, names)
    prompts, completions = [], []
    for number, row in enumerate(table.to_dict("records"), 1):
        prompt, completion = pairs(row, number)
        if not completion.strip():
            raise InputError(
                f"{path}, row {number}: the completion is empty; fill it in, or leave the row out"
            )
        prompts.append(prompt)
        completions.append(completion)
    kind = next((names[name] for name in CLASS_COLUMNS if name in names), None)
    classes = None if kind is None else tuple(map(str, table[kind]))
    if ID_COLUMN in names:
        ids = tuple(map(str, table[names[ID_COLUMN]]))
        doubled = pd.Index(ids)[pd.Index(ids).duplicated()]
        if len(doubled):
            raise InputError(f"{path}: the id {doubled[0]!r} is there twice; every example needs its own")
    else:
        ids = tuple(f"{path.stem}-{number:0{len(str(len(table)))}d}" for number in range(1, len(table) + 1))
    return TextExamples(ids, tuple(prompts), tuple(completions), classes, notes)


Pairs = Callable[[dict[Any, Any], int], tuple[str, str]]


def _reader(path: Path, names: dict[str, Any]) -> Pairs:
    """What takes prompt and completion out of a row, by the columns that there are."""
    prompt = next((names[name] for name in PROMPT_COLUMNS if name in names), None)
    completion = next((names[name] for name in COMPLETION_COLUMNS if name in names), None)

    def text_of(row: dict[Any, Any], name: Any, number: int) -> str:
        value = row[name]
        if value is None or (isinstance(value, float) and np.isnan(value)):
            raise InputError(f"{path}, row {number}: {name!r} is empty; fill it in, or leave the row out")
        return str(value)

    def of_messages(row: dict[Any, Any], number: int) -> tuple[str, str]:
        return _chat(row[names["messages"]], f"{path}, row {number}")

    def of_text(row: dict[Any, Any], number: int) -> tuple[str, str]:
        start, whole = text_of(row, prompt, number), text_of(row, names["text"], number)
        if not whole.startswith(start):
            raise InputError(f"{path}, row {number}: 'text' does not begin with the prompt")
        return start, _without_end(whole[len(start) :])

    def of_pair(row: dict[Any, Any], number: int) -> tuple[str, str]:
        return text_of(row, prompt, number), _without_end(text_of(row, completion, number))

    if "messages" in names:
        return of_messages
    if prompt is not None and "text" in names:
        return of_text
    if prompt is not None and completion is not None:
        return of_pair
    wanted = "a prompt and a completion, `prompt` and `text`, or `messages`"
    raise InputError(f"{path}: no columns of {wanted}; there are {', '.join(map(str, names.values()))}")


def _chat(messages: Any, place: str) -> tuple[str, str]:
    """All but the last message of a chat as the prompt, the last one as the completion."""
    known = list(messages) if isinstance(messages, list | tuple | np.ndarray) else []
    fits = len(known) > 1 and all(
        isinstance(one, dict) and {"role", "content"} <= one.keys() for one in known
    )
    if not fits or known[-1]["role"] != "assistant":
        raise InputError(f"{place}: messages are a list of role and content, the last one of the assistant")
    lines = [f"{ROLES.get(one['role'], one['role'])}: {one['content']}" for one in known[:-1]]
    return "\n".join([*lines, "Assistant: "]), str(known[-1]["content"])


def _without_end(text: str) -> str:
    mark = next((mark for mark in END_MARKS if text.rstrip().endswith(mark)), None)
    return text if mark is None else text.rstrip()[: -len(mark)]
