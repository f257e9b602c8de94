"""Images as their source has them, for people who look closely."""

from functools import lru_cache

import numpy as np

from sharpeye.data.dataset import open_dataset, source_rows
from sharpeye.data.images import BadImage, encoded, opened_upright
from sharpeye.data.load import open_training
from sharpeye.data.records import Source
from sharpeye.errors import InputError
from sharpeye.runs.result import read_result
from sharpeye.runs.store import get_run, store
from sharpeye.runs.workspace import Workspace

# First bytes of the formats that browsers show.
SHOWN = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"GIF8": "image/gif", b"RIFF": "image/webp"}


def original(workspace: Workspace, run: str, image_row: int) -> tuple[bytes, str]:
    """The file of an image of a run, and its media type; PNG where browsers do not show it.

    Args:
        workspace: of the run.
        run: its id.
        image_row: row of the decoded data set.

    Raises:
        InputError: the image is not there any more, or was another one when the run read it.
    """
    source, ids, rows = _opened(workspace, run, read_result(workspace.run(run)).images.training)
    row = int(rows[image_row])
    record = next(source.read(np.array([row])), None) if row < source.count else None
    if record is None or record.id != ids[image_row]:
        raise InputError(f"{source.name}: its images changed since the run")
    try:
        content = encoded(record.id, record.image)
        kind = next((kind for start, kind in SHOWN.items() if content.startswith(start)), None)
        return (content, kind) if kind else (opened_upright(record.image), "image/png")
    except BadImage as error:
        raise InputError(f"{record.id}: {error}") from error


@lru_cache(maxsize=2)
def _opened(workspace: Workspace, run: str, decoded: str) -> tuple[Source, np.ndarray, np.ndarray]:
    """The training source of a run, ids of its decoded images, and the row of the source of each."""
    with store(workspace) as connection:
        config = get_run(connection, run).run_config()
    images = open_dataset(workspace.decoded / decoded)
    return open_training(config.data), images.ids, source_rows(images)
