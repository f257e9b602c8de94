"""What can be told of prompts and completions before anything is computed on them."""

from dataclasses import dataclass

import pandas as pd

from sharpeye.text.examples import TextExamples


@dataclass(frozen=True)
class TextInspection:
    """What tables of examples hold.

    Attributes:
        classes: training and trusted examples of each class, columns `training` and `trusted`; empty without
            classes.
        repeated: training examples whose prompt and completion stand there before.
        disagreeing: training examples whose prompt also has another completion.
        shared: trusted examples whose prompt is one of training, too.
    """

    classes: pd.DataFrame
    repeated: int
    disagreeing: int
    shared: int


def inspect_examples(training: TextExamples, trusted: TextExamples | None) -> TextInspection:
    """Inspect training examples, and trusted ones where there are any."""
    table = pd.DataFrame({"prompt": training.prompts, "completion": training.completions})
    completions = table.groupby("prompt")["completion"].transform("nunique")
    counts = {
        title: pd.Series(examples.classes or (), dtype=str).value_counts()
        for title, examples in (("training", training), ("trusted", trusted))
        if examples is not None
    }
    shared = 0 if trusted is None else int(pd.Series(trusted.prompts).isin(table["prompt"]).sum())
    return TextInspection(
        pd.DataFrame(counts).fillna(0).astype(int),
        int(table.duplicated().sum()),
        int((completions > 1).sum()),
        shared,
    )
