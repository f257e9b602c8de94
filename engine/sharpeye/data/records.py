"""What every source of images is read as: a countable, re-readable stream of records."""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sharpeye.data.images import Encoded
from sharpeye.data.layout import split_name

# A whole number that went through floats.
WHOLE = re.compile(r"([+-]?\d+)\.0*")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source before decoding; labels as the source writes them."""

    id: str
    image: Encoded
    label: object
    true_label: object = None


@dataclass(frozen=True)
class Source:
    """A countable, re-readable stream of records.

    Attributes:
        name: how messages call it.
        count: number of rows.
        class_names: declared class names, or None where the labels themselves name the classes.
        read: row numbers, ascending -> the records of those rows, in that order.
        stamp: JSON-able state of the files behind it; changes when they change.
        splits: how the source itself marks its rows, such as `train` or `val`, (N,); None where it does not.
        numbered: whether a number as a label is a position among the declared class names.
        skipped: what is there and cannot be read, and why.
        notes: what people should know of how it was read.
    """

    name: str
    count: int
    class_names: tuple[str, ...] | None
    read: Callable[[np.ndarray], Iterator[Record]]
    stamp: object
    splits: np.ndarray | None = None
    numbered: bool = False
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def split_names(source: Source) -> np.ndarray:
    """The split of each row of a source, as `split_name` has it, (N,); empty where it is marked as none."""
    if source.splits is None:
        return np.full(source.count, "", dtype=object)
    marks, codes = np.unique(source.splits.astype(str), return_inverse=True)
    return np.array([*(split_name(mark) or "" for mark in marks), ""], dtype=object)[codes]


def ordered_names(names: Iterable[str]) -> list[str]:
    """Names of classes, each once, in order: as numbers where all of them are numbers."""
    known = set(names)
    return sorted(known, key=int) if all(map(str.isdecimal, known)) else sorted(known)


def is_missing(label: object) -> bool:
    """Whether a field of a table holds nothing."""
    return (
        label is None
        or label is pd.NA
        or (isinstance(label, (float, np.floating)) and np.isnan(label))
        or (not isinstance(label, list | tuple | dict | np.ndarray) and str(label).strip() == "")
    )


def label_text(label: object) -> str:
    """The name of the class that a label means: 2, 2.0, "2" and "2.0" are one."""
    if isinstance(label, (float, np.floating)) and float(label).is_integer():
        return str(int(label))
    text = str(label).strip()
    whole = WHOLE.fullmatch(text)
    return str(int(whole[1])) if whole else text


def label_problem(label: object) -> str:
    """Why a label of a table names no class; empty where it does."""
    if is_missing(label):
        return "label is empty"
    text = label_text(label)
    if isinstance(label, list | tuple | dict | np.ndarray) or (text[0] + text[-1]) in ("[]", "{}", "()"):
        return f"label {text[:40]} is a list: one label an image is needed"
    if NUMBER.fullmatch(text):
        if text.startswith("-"):
            return f"label {text} is negative, which no class number is; it often stands for 'unknown'"
        if "." in text or "e" in text.lower():
            return f"label {text} is a fraction, not a class"
    return ""
