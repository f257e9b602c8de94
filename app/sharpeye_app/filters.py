"""Which images a review shows, and in which order: plain arithmetic on a Review."""

from dataclasses import dataclass

import numpy as np

from sharpeye.data.findings import CONFLICT, DUPLICATE
from sharpeye.runs.review import STATES, Review

STATUSES = ("all", "open", "decided", *STATES[1:])


@dataclass(frozen=True)
class Filters:
    """What a user asked to see.

    Attributes:
        given: class number of the given label, or None.
        suggested: class number of the suggestion, or None.
        status: one of STATUSES.
        suspicion: lowest and highest percentile of suspicion.
        differing: only images whose suggestion is not the given label.
        finding: one of FINDINGS, or None.
        sort: a method, `wrong` (by P(wrong)) or `confidence`.
        find: part of the id, or path.
        grouped: pictures that show the same, with the same label, on one card.
        chosen: row numbers chosen on the map, or of a queue, or None.
    """

    given: int | None = None
    suggested: int | None = None
    status: str = "all"
    suspicion: tuple[float, float] = (0.0, 100.0)
    differing: bool = False
    finding: str | None = None
    sort: str = ""
    find: str = ""
    grouped: bool = False
    chosen: tuple[int, ...] | None = None


def matching(review: Review, filters: Filters) -> np.ndarray:
    """Rows that the filters let through, in the order asked for.

    Ties keep the order of the run's own ranking. Pictures that show the same stand side by side, those with
    different labels first.
    """
    keep = np.ones(len(review), dtype=bool)
    if filters.chosen is not None:
        keep[:] = False
        keep[[row for row in filters.chosen if 0 <= row < len(review)]] = True
    if filters.given is not None:
        keep &= review.given == filters.given
    if filters.suggested is not None:
        keep &= review.suggested == filters.suggested
    if filters.status in STATES:
        keep &= review.verdict == STATES.index(filters.status)
    elif filters.status == "decided":
        keep &= review.verdict > 0
    if filters.finding is not None:
        keep &= review.findings[filters.finding]
    if filters.differing:
        keep &= review.suggested != review.given
    low, high = filters.suspicion
    if (low, high) != (0.0, 100.0):
        percentile = review.percentile()
        keep &= (percentile >= low) & (percentile <= high)
    if filters.find:
        keep &= review.ids.str.contains(filters.find, case=False, regex=False)
    rows = _ordered(review, filters, np.flatnonzero(keep))
    if not filters.grouped:
        return rows
    groups = np.where(review.duplicate_group < 0, -1 - np.arange(len(review)), review.duplicate_group)
    _, first = np.unique(np.column_stack([groups[rows], review.given[rows]]), axis=0, return_index=True)
    return rows[np.sort(first)]


def same_picture(review: Review, row: int) -> np.ndarray:
    """The other rows that show the same picture under the same given label."""
    group = review.duplicate_group[row]
    if group < 0:
        return np.empty(0, dtype=np.int64)
    rows = np.flatnonzero((review.duplicate_group == group) & (review.given == review.given[row]))
    return rows[rows != row]


def _ordered(review: Review, filters: Filters, rows: np.ndarray) -> np.ndarray:
    if filters.sort in review.methods and filters.sort != review.result.ranked_by:
        return rows[np.lexsort((review.rank[rows], -review.influence(filters.sort)[rows]))]
    if filters.sort in ("wrong", "confidence"):
        keys = {"wrong": review.wrong, "confidence": review.confidence}
        return rows[np.lexsort((review.rank[rows], -keys[filters.sort][rows]))]
    if filters.finding in (CONFLICT, DUPLICATE):
        groups = review.duplicate_group[rows]
        first = np.full(groups.max(initial=0) + 1, len(review) + 1)
        np.minimum.at(first, groups, review.rank[rows])
        return rows[np.lexsort((review.rank[rows], first[groups], ~review.findings[CONFLICT][rows]))]
    return rows[np.argsort(review.rank[rows], kind="stable")]


def acceptable(review: Review, rows: np.ndarray, confidence: float = 0.0) -> np.ndarray:
    """Of some rows, the open ones whose suggestion changes the label and is at least that sure."""
    changes = (review.verdict[rows] == 0) & (review.suggested[rows] != review.given[rows])
    return rows[changes & (review.confidence[rows] >= confidence)]
