import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from sharpeye.data.dataset import LabeledImages, ingest, measures_of
from sharpeye.data.findings import (
    BLURRED,
    CONFLICT,
    DARK,
    DUPLICATE,
    FINDINGS,
    TINY,
    duplicate_findings,
    masks_of,
    names_of,
    picture_findings,
)
from sharpeye.data.near_duplicates import close_hashes, groups_of, near_duplicate_pairs
from sharpeye.data.records import Record, Source
from tests.engine.data.scenes import scene


def encoded(image: Image.Image, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG" if options else "PNG", **options)
    return buffer.getvalue()


def decoded(folder: Path, pictures: list[bytes], size: int | None = None) -> LabeledImages:
    def read(rows: np.ndarray) -> Iterator[Record]:
        for row in rows:
            yield Record(str(row), pictures[row], 0)

    return ingest(Source("pictures", len(pictures), ("only",), read, "stamp", numbered=True), folder, size)


def groups(images: LabeledImages) -> list[int]:
    return groups_of(near_duplicate_pairs(images), len(images)).tolist()


@pytest.mark.parametrize("size", [32, None])
def test_the_same_picture_is_found_scaled_encoded_again_and_lighter(tmp_path: Path, size: int | None) -> None:
    picture = scene(0)
    again = [
        encoded(picture),
        encoded(picture),
        encoded(picture, quality=40),
        encoded(picture.resize((120, 120), Image.Resampling.LANCZOS)),
        encoded(ImageEnhance.Brightness(picture).enhance(0.8)),
    ]
    others = [encoded(scene(seed)) for seed in range(1, 40)]
    assert groups(decoded(tmp_path, again + others, size)) == [0] * 5 + [-1] * 39


def test_plain_pictures_are_the_same_where_they_are_equally_light(tmp_path: Path) -> None:
    pictures = [encoded(Image.new("L", (64, 64), shade)) for shade in (0, 1, 255, 254, 128)]
    black, almost_black, white, almost_white, grey = groups(decoded(tmp_path, pictures))
    assert black == almost_black != white == almost_white
    assert grey == -1 < min(black, white)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=12), st.data())
def test_close_hashes_are_all_found(hashes: list[int], data: st.DataObject) -> None:
    bits = st.integers(0, 63).map(lambda bit: 1 << bit)
    near = [value ^ data.draw(bits) ^ data.draw(bits) for value in hashes]
    every = hashes + near
    expected = {(i, j) for j in range(len(every)) for i in range(j) if (every[i] ^ every[j]).bit_count() < 4}
    assert {(i, j) for i, j in close_hashes(np.array(every, dtype=np.uint64)).tolist()} == expected


def test_a_group_with_two_labels_is_a_conflict() -> None:
    grouped = groups_of(np.array([[0, 1], [1, 2], [4, 5]]), 7)
    assert grouped.tolist() == [0, 0, 0, -1, 1, 1, -1]
    found = duplicate_findings(grouped, np.array([0, 0, 1, 0, 1, 1, 2]))
    assert found[CONFLICT].tolist() == [True] * 3 + [False] * 4
    assert found[DUPLICATE].tolist() == [True, True, True, False, True, True, False]
    nothing = duplicate_findings(groups_of(np.empty((0, 2), int), 3), np.zeros(3, int))
    assert not any(images.any() for images in nothing.values())


def test_blurred_dark_and_tiny_pictures_stand_out(tmp_path: Path) -> None:
    pictures = [encoded(scene(seed)) for seed in range(30)]
    blurred = scene(30).resize((12, 12)).resize((200, 200), Image.Resampling.BICUBIC)
    dark, tiny = scene(31).point(lambda value: value // 4), scene(32).resize((40, 40))
    images = decoded(tmp_path, [*pictures, encoded(blurred), encoded(dark), encoded(tiny)])
    found = picture_findings(measures_of(images))
    assert {name: np.flatnonzero(some).tolist() for name, some in found.items()} == {
        BLURRED: [30],
        DARK: [31],
        TINY: [32],
    }


@given(st.lists(st.sets(st.sampled_from(list(FINDINGS))), min_size=1))
def test_names_and_masks_of_findings_are_one(sets: list[set[str]]) -> None:
    found = {name: np.array([name in some for some in sets]) for name in FINDINGS}
    back = masks_of(pd.Series(names_of(found)))
    assert {name: images.tolist() for name, images in back.items()} == {
        name: images.tolist() for name, images in found.items()
    }
