"""Cleaned labels in the formats of other tools."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sharpeye.config import EXPORT_FORMATS
from sharpeye.data.annotations import CLASSIFICATION
from sharpeye.runs.spreadsheets import spreadsheet_safe

# In Label Studio's labeling configuration.
CHOICES, IMAGE = "label", "image"
# Images that are in memory at once; a reader may hold as many.
ROW_GROUP = 100


@dataclass(frozen=True)
class LabeledTable:
    """What is exported.

    Attributes:
        run: id of the run.
        classes: their names, in order.
        labels: see `sharpeye.runs.export.cleaned_labels`.
        folder: name of the folder or file that the images are from.
        sizes: width and height of each image, (N, 2).
        images: reads the images themselves, in the order of the labels, as PNG or as they are.
        files: their files, in that order; raises InputError where the source keeps images otherwise.
    """

    run: str
    classes: tuple[str, ...]
    labels: pd.DataFrame
    folder: str
    sizes: np.ndarray
    images: Callable[[], Iterator[bytes]]
    files: Callable[[], Iterator[Path]]


def label_studio(table: LabeledTable, path: Path) -> None:
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
    path.write_text(json.dumps(tasks, ensure_ascii=False, indent=1), encoding="utf-8")


def _choice(label: str) -> dict[str, object]:
    result = {"from_name": CHOICES, "to_name": IMAGE, "type": "choices", "value": {"choices": [label]}}
    return {"result": [result]}


def _number(value: float) -> float | None:
    return None if pd.isna(value) else round(float(value), 6)


def fiftyone(table: LabeledTable, path: Path) -> None:
    """Samples of FiftyOne's `LegacyFiftyOneDataset`, whose folder this file makes: given, suggested and final
    labels, P(wrong) and the decision as fields; the tag "mistake" where the label changes, or is more likely
    wrong than right and open."""
    samples = []
    for row, file in zip(table.labels.to_dict("records"), table.files(), strict=True):
        changed = row["final_label"] != row["given_label"]
        likely = row["decision"] in ("", "skip") and row["wrong_probability"] > 0.5
        suggested = row["suggested_label"] if isinstance(row["suggested_label"], str) else None
        samples.append(
            {
                "filepath": str(file),
                "tags": ["mistake"] if changed or likely else [],
                "metadata": None,
                "ground_truth": _classification(row["final_label"]),
                "given_label": _classification(row["given_label"]),
                "suggested_label": suggested and _classification(suggested, _number(row["confidence"])),
                "wrong_probability": _number(row["wrong_probability"]),
                "decision": row["decision"] or None,
            }
        )
    path.write_text(json.dumps({"samples": samples}, ensure_ascii=False), encoding="utf-8")


def _classification(label: str, confidence: float | None = None) -> dict[str, object]:
    return {"_cls": CLASSIFICATION, "tags": [], "label": label, "confidence": confidence}


def cvat(table: LabeledTable, path: Path) -> None:
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
    ElementTree.ElementTree(root).write(path, "utf-8", xml_declaration=True)


def coco(table: LabeledTable, path: Path) -> None:
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
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def cleanlab(table: LabeledTable, path: Path) -> None:
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
    spreadsheet_safe(issues).to_csv(path, index=False)


def hugging_face(table: LabeledTable, path: Path) -> None:
    """Parquet in Hugging Face's layout, as `datasets` reads it: columns image, label (ClassLabel) and id."""
    numbers = {name: number for number, name in enumerate(table.classes)}
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(table.classes), "_type": "ClassLabel"},
        "id": {"dtype": "string", "_type": "Value"},
    }
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", picture), ("label", pa.int64()), ("id", pa.string())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows = zip(table.images(), table.labels["final_label"], table.labels["id"], strict=True)
    with pq.ParquetWriter(path, schema) as writer:
        while some := list(islice(rows, ROW_GROUP)):
            images = [{"bytes": content, "path": PurePosixPath(name).name} for content, _, name in some]
            labels, ids = [numbers[label] for _, label, _ in some], [name for _, _, name in some]
            columns = [pa.array(images, picture), pa.array(labels, pa.int64()), pa.array(ids, pa.string())]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))


@dataclass(frozen=True)
class Peer:
    """A format of another tool: the name of its file, and what writes it to a path."""

    title: str
    file: str
    write: Callable[[LabeledTable, Path], None]


PEERS = dict(
    zip(
        EXPORT_FORMATS,
        (
            Peer("Label Studio", "label_studio.json", label_studio),
            Peer("FiftyOne", "fiftyone/samples.json", fiftyone),
            Peer("CVAT", "cvat.xml", cvat),
            Peer("COCO", "coco.json", coco),
            Peer("cleanlab", "cleanlab.csv", cleanlab),
            Peer("Hugging Face", "train.parquet", hugging_face),
        ),
        strict=True,
    )
)
