"""The plane of the Learn page: influence foretells what training again does."""

from sharpeye.runs.pair_lesson import pair_lesson


def test_influence_foretells_what_training_again_does() -> None:
    shown = pair_lesson()
    assert shown.influence.shape == shown.retrained.shape == (len(shown.training), len(shown.trusted))
    assert shown.rank_correlation > 0.98
    assert shown.wrong_among_harmful >= 3
    # Each point's effect on all trusted points together: wrong labels do harm, nearly all right ones do not.
    total = shown.retrained.sum(1)
    assert total[shown.wrong].max() < 0
    assert total[shown.wrong].mean() < 3 * total[~shown.wrong].mean()
