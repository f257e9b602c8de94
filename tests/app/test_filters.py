from dataclasses import replace

import numpy as np
import pytest

from sharpeye.data.findings import CONFLICT, DARK, DUPLICATE
from sharpeye.runs.review import STATES, Review
from sharpeye_app.filters import STATUSES, Filters, acceptable, matching


def test_without_filters_every_image_comes_once_by_rank(review: Review) -> None:
    rows = matching(review, Filters())
    assert review.rank[rows].tolist() == list(range(1, len(review) + 1))


@pytest.mark.parametrize("given", [None, 3])
@pytest.mark.parametrize("suggested", [None, 2])
@pytest.mark.parametrize("suspicion", [(0.0, 100.0), (80.0, 100.0)])
@pytest.mark.parametrize("differing", [False, True])
def test_filters_keep_exactly_what_they_say(
    review: Review, given: int | None, suggested: int | None, suspicion: tuple[float, float], differing: bool
) -> None:
    shown = set(matching(review, Filters(given, suggested, "all", suspicion, differing)).tolist())
    for row in range(len(review)):
        share_below = 100 * (1 - review.rank[row] / len(review))
        wanted = (
            (given is None or review.given[row] == given)
            and (suggested is None or review.suggested[row] == suggested)
            and suspicion[0] <= share_below <= suspicion[1]
            and (not differing or review.suggested[row] != review.given[row])
        )
        assert (row in shown) == wanted


def test_statuses_part_the_images(review: Review) -> None:
    review.verdict[:] = np.arange(len(review)) % len(STATES)
    parts = {status: set(matching(review, Filters(status=status)).tolist()) for status in STATUSES}
    assert parts["decided"] | parts["open"] == parts["all"]
    assert not parts["decided"] & parts["open"]
    assert set.union(*(parts[status] for status in STATES[1:])) == parts["decided"]


@pytest.mark.parametrize(
    ("sort", "values"),
    [
        ("val_loss", lambda r: r.influence("val_loss")),
        ("wrong", lambda r: r.wrong),
        ("confidence", lambda r: r.confidence),
    ],
)
def test_other_orders(review: Review, sort: str, values) -> None:  # type: ignore[no-untyped-def]
    rows = matching(review, Filters(sort=sort))
    assert (np.diff(values(review)[rows]) <= 0).all()


def test_rows_chosen_on_the_map_and_rows_that_do_not_exist(review: Review) -> None:
    rows = matching(review, replace(Filters(), chosen=(5, 7, len(review), -1)))
    assert set(rows.tolist()) == {5, 7}


def test_only_open_sure_changes_can_be_accepted_at_once(review: Review) -> None:
    rows = matching(review, Filters())
    review.verdict[rows[0]] = STATES.index("skip")
    rows_to_accept = acceptable(review, rows, 0.9)
    assert rows[0] not in rows_to_accept
    assert (review.suggested[rows_to_accept] != review.given[rows_to_accept]).all()
    assert (review.confidence[rows_to_accept] >= 0.9).all()


def test_pictures_that_show_the_same_stand_side_by_side_those_in_conflict_first(review: Review) -> None:
    rows = matching(review, Filters(finding=DUPLICATE))
    conflict, groups = review.findings[CONFLICT][rows], review.duplicate_group[rows]
    assert 0 < conflict.sum() < len(rows) == review.findings[DUPLICATE].sum()
    assert not (np.diff(conflict.astype(int)) > 0).any()
    assert (groups[::2] == groups[1::2]).all()
    first = np.minimum(review.rank[rows[::2]], review.rank[rows[1::2]])
    assert all((np.diff(first[conflict[::2] == kind]) > 0).all() for kind in (True, False))
    assert matching(review, Filters(finding=DARK)).tolist() == [10]
