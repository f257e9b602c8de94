from pathlib import Path

import pytest

from sharpeye.config import RunConfig
from sharpeye.errors import InputError
from sharpeye.runs.workspace import Workspace
from sharpeye_app.roots import ROOTS_VARIABLE, check_config, check_place


@pytest.fixture
def kept(tmp_path: Path, empty: Workspace, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An app that is kept to a folder, with a link out of it, and to an address."""
    root = tmp_path / "allowed"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    monkeypatch.setenv(ROOTS_VARIABLE, f"{root}\ns3://bucket/photos")
    return root


def test_any_place_where_there_is_no_root(empty: Workspace) -> None:
    check_place("/etc")
    check_place("https://example.org/photos")


@pytest.mark.parametrize(
    "place",
    [
        "/etc",
        "~",
        "{root}/../other",
        "{root}/out/secret",
        "{root}extended",
        "relative",
        "\0",
        "https://example.org/photos",
        "s3://bucket/photos-of-others",
        "s3://bucket/photos/../others",
    ],
)
def test_places_outside_the_roots(kept: Path, place: str) -> None:
    with pytest.raises(InputError, match="this app is kept to"):
        check_place(place.format(root=kept))


def test_places_inside_the_roots(kept: Path, empty: Workspace) -> None:
    for place in (
        kept,
        kept / "photos",
        "s3://bucket/photos",
        "s3://bucket/photos/cats",
        empty.uploads / "1",
    ):
        check_place(str(place))


@pytest.mark.parametrize(
    "options",
    [
        {"validation": "/etc"},
        {"cluster": "elsewhere.example.org:6379"},
        {"validation": "ids:/etc/passwd"},
        {"image_root": "/etc"},
        {"weights": "/etc/passwd"},
        {"torchvision_root": "/etc"},
        {"human_labels": "/etc/passwd"},
        {"follow_links": True},
    ],
)
def test_every_place_of_a_configuration_is_asked(kept: Path, options: dict[str, object]) -> None:
    (kept / "photos").mkdir()
    check_config(RunConfig.of(str(kept / "photos"), validation="share:0.1", weights="random"))
    check_config(RunConfig.of("demo"))
    with pytest.raises(InputError, match="this app is kept to"):
        check_config(RunConfig.of(str(kept / "photos"), **options))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="this app is kept to"):
        check_config(RunConfig.of("/etc"))
