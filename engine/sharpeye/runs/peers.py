"""Cleaned labels in the formats of other tools."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from sharpeye.config import EXPORT_FORMATS

# In Label Studio's labeling configuration.
CHOICES, IMAGE = "label", "image"


@dataclass(frozen=True)
class LabeledTable:
    """What is exported.

    Attributes:
        run: id of the run.
        classes: their names, in order.
        labels: see `sharpeye.runs.export.cleaned_labels`.
        folder: name of the folder or file that the images are from.
        sizes: width and height of each image, (N, 2).
    """

    run: str
    classes: tuple[str, ...]
    labels: pd.DataFrame
    folder: str
    sizes: np.ndarray


def label_studio(table: LabeledTable) -> bytes:
    """Tasks of Label Studio: suggestions as predictions, decided labels as annotations.

    Images are found by local storage whose document root is the folder above the images. The labeling
    configuration has `<Image name="image" value="$image"/>` and `<Choices name="label" toName="image">`.
    """
    tasks = []
    for number, row in enumerate(table.labels.to_dict("records"), 1):
        place = quote(str(PurePosixPath(table.folder) / row["id"]))
        task: dict[str, object] = {
            "id": number,
            "data": {
                IMAGE: f"/data/local-files/?d={place}",
                "id": row["id"],
                "given_label": row["given_label"],
                "wrong_probability": _number(row["wrong_probability"]),
            },
        }
        if isinstance(row["suggested_label"], str):
            score = _number(row["confidence"])
            task["predictions"] = [
                {"model_version": f"sharpeye {table.run}", "score": score, **_choice(row["suggested_label"])}
            ]
        if row["decision"] not in ("", "skip"):
            task["annotations"] = [_choice(row["final_label"])]
        tasks.append(task)
    return json.dumps(tasks, ensure_ascii=False, indent=1).encode()


def _choice(label: str) -> dict[str, object]:
    result = {"from_name": CHOICES, "to_name": IMAGE, "type": "choices", "value": {"choices": [label]}}
    return {"result": [result]}


def _number(value: float) -> float | None:
    return None if pd.isna(value) else round(float(value), 6)


def cvat(table: LabeledTable) -> bytes:
    """CVAT's "CVAT for images 1.1": a tag with the final label on each image."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task")
    labels = ElementTree.SubElement(task, "labels")
    for name in table.classes:
        ElementTree.SubElement(ElementTree.SubElement(labels, "label"), "name").text = name
    for number, (row, (width, height)) in enumerate(
        zip(table.labels.to_dict("records"), table.sizes.tolist(), strict=True)
    ):
        image = ElementTree.SubElement(
            root, "image", id=str(number), name=row["id"], width=str(width), height=str(height)
        )
        source = "manual" if row["decision"] else "file"
        ElementTree.SubElement(image, "tag", label=row["final_label"], source=source)
    ElementTree.indent(root)
    content: bytes = ElementTree.tostring(root, "utf-8", xml_declaration=True)
    return content


def coco(table: LabeledTable) -> bytes:
    """COCO: one annotation an image, over the whole of it, of the category of the final label."""
    numbers = {name: number for number, name in enumerate(table.classes, 1)}
    images, annotations = [], []
    for number, (row, (width, height)) in enumerate(
        zip(table.labels.to_dict("records"), table.sizes.tolist(), strict=True), 1
    ):
        images.append({"id": number, "file_name": row["id"], "width": width, "height": height})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": numbers[row["final_label"]],
                "bbox": [0, 0, width, height],
                "area": width * height,
                "iscrowd": 0,
            }
        )
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return json.dumps(content, ensure_ascii=False).encode()


def cleanlab(table: LabeledTable) -> bytes:
    """What cleanlab's `Datalab.get_issues("label")` holds, by image id."""
    labels = table.labels
    issues = pd.DataFrame(
        {
            "id": labels["id"],
            "is_label_issue": labels["wrong_probability"] > 0.5,
            "label_score": 1 - labels["wrong_probability"],
            "given_label": labels["given_label"],
            "predicted_label": labels["suggested_label"],
        }
    )
    return issues.to_csv(index=False).encode()


@dataclass(frozen=True)
class Peer:
    """A format of another tool: the name of its file, and what it holds."""

    title: str
    file: str
    content: Callable[[LabeledTable], bytes]


PEERS = dict(
    zip(
        EXPORT_FORMATS,
        (
            Peer("Label Studio", "label_studio.json", label_studio),
            Peer("CVAT", "cvat.xml", cvat),
            Peer("COCO", "coco.json", coco),
            Peer("cleanlab", "cleanlab.csv", cleanlab),
        ),
        strict=True,
    )
)
