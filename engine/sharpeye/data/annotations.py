"""Labels in the files of annotation tools: JSON of Label Studio, FiftyOne and COCO, CVAT's XML."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pandas as pd

from sharpeye.data.folders import relative
from sharpeye.errors import InputError

# Of an image, its label, and who gave it.
COLUMNS = ["path", "label", "who"]
FILE_BYTES = 2**30
# In FiftyOne, a field that holds one label.
CLASSIFICATION = "Classification"


def read_annotations(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The labels of a file of annotations, columns path, label and who, in its order; and notes on what was
    left out.

    An image takes part where exactly one label is given to it.

    Raises:
        InputError: no file of a known tool.
    """
    try:
        if path.stat().st_size > FILE_BYTES:
            raise InputError(f"{path}: larger than {FILE_BYTES:,} bytes")
        if path.suffix.lower() == ".xml":
            rows = _cvat(ElementTree.parse(path).getroot())
        else:
            content = json.loads(path.read_text("utf-8-sig"))
            if isinstance(content, list):
                rows = _label_studio(content)
            elif "samples" in content:
                rows = _fiftyone_samples(content["samples"], path.parent)
            elif "labels" in content:
                rows = _fiftyone_labels(content, path.parent)
            else:
                rows = _coco(content)
    except (OSError, ValueError, ElementTree.ParseError, RecursionError) as error:
        raise InputError(f"{path}: not readable ({error})") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"{path}: neither JSON of Label Studio, FiftyOne or COCO nor CVAT's XML ({type(error).__name__}: "
            f"{error})"
        ) from error
    if not rows:
        raise InputError(f"{path}: no image in it has a label")
    table = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
    distinct = table.drop_duplicates(["path", "label"])
    several = distinct["path"].duplicated(keep=False)
    contradicted = distinct.loc[several, "path"].nunique()
    notes = (
        (f"{contradicted:,} images of {path.name} have more than one label, and were left out.",)
        if contradicted
        else ()
    )
    return distinct[~several].reset_index(drop=True), notes


def _label_studio(tasks: list[Any]) -> list[tuple[str, str, str]]:
    """Tasks with annotations (an export as JSON, or as JSON-MIN)."""
    rows = []
    for task in tasks:
        data = task.get("data", task)
        image = data.get("id") if isinstance(data.get("id"), str) else _place(_image_field(data))
        if "annotations" not in task and "data" not in task:
            if isinstance(label := task.get("label", task.get("choice")), str):
                rows.append((image, label, _who(task.get("annotator"))))
            continue
        for annotation in task.get("annotations", ()):
            if annotation.get("was_cancelled"):
                continue
            for result in annotation["result"]:
                for label in result.get("value", {}).get("choices", ()):
                    rows.append((image, str(label), _who(annotation.get("completed_by"))))
    return rows


def _image_field(data: dict[str, Any]) -> str:
    names = [name for name in ("image", "img", "url", "path", "file") if name in data]
    if not names:
        raise KeyError("image")
    return str(data[names[0]])


def _place(url: str) -> str:
    """The file that a task shows: of local storage below its root, of an upload its name."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    return query["d"][0] if "d" in query else (parts.path if parts.scheme else url)


def _who(person: object) -> str:
    if isinstance(person, dict):
        person = person.get("email") or person.get("username") or person.get("id")
    return "" if person is None else str(person)


def _fiftyone_samples(samples: list[Any], folder: Path) -> list[tuple[str, str, str]]:
    """Samples of a `FiftyOneDataset`: the label in `ground_truth`, or in the only field that holds one."""
    rows = []
    for sample in samples:
        known = {name: value for name, value in sample.items() if isinstance(value, dict)}
        labels = {
            name: value.get("label") for name, value in known.items() if value.get("_cls") == CLASSIFICATION
        }
        label = labels.get("ground_truth") or (next(iter(labels.values())) if len(labels) == 1 else None)
        if label is not None:
            rows.append((relative(folder, str(sample["filepath"])), str(label), ""))
    return rows


def _fiftyone_labels(content: dict[str, Any], folder: Path) -> list[tuple[str, str, str]]:
    """A `FiftyOneImageClassificationDataset`: labels by the names of files in data/, without their suffix."""
    classes = content.get("classes")
    files = {path.stem: f"data/{path.name}" for path in sorted((folder / "data").glob("*"))}
    rows = []
    for name, label in content["labels"].items():
        if isinstance(label, dict):
            label = label["label"]
        if isinstance(label, int) and classes:
            label = classes[label]
        if label is not None:
            rows.append((files.get(name, name), str(label), ""))
    return rows


def _cvat(root: ElementTree.Element) -> list[tuple[str, str, str]]:
    if root.tag != "annotations":
        raise KeyError("annotations")
    return [
        (image.attrib["name"], tag.attrib["label"], "")
        for image in root.iter("image")
        for tag in image.iter("tag")
    ]


def _coco(content: dict[str, Any]) -> list[tuple[str, str, str]]:
    names = {image["id"]: str(image["file_name"]) for image in content["images"]}
    categories = {category["id"]: str(category["name"]) for category in content["categories"]}
    return [(names[one["image_id"]], categories[one["category_id"]], "") for one in content["annotations"]]
