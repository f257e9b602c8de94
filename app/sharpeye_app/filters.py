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
        chosen: row numbers chosen on the map, or None.
    """

    given: int | None = None
    suggested: int | None = None
    status: str = "all"
    suspicion: tuple[float, float] = (0.0, 100.0)
    differing: bool = False
    finding: str | None = None
    sort: str = ""
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
    rows = np.flatnonzero(keep)
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
