"""Masks written as labels that annotation tools import, to be corrected there.

| function | writes | read by |
|---|---|---|
| `write_coco` | one JSON file: run lengths of each class of a picture | CVAT and others |
| `write_labelme` | a JSON file a picture: a shape "mask" for each class and for void | LabelMe |
| `write_cvat` | one XML file: a mask for each class of a picture | CVAT, as "CVAT 1.1" |

COCO and CVAT have no void: its pixels are in no shape. The readers of this package give the same
masks again, with `background=None`.
"""

import base64
import io
import json
import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from keras_sanet._files import replacing
from keras_sanet.datasets.annotations import check_names
from keras_sanet.datasets.drawn import coco_string, cut_out, label_ids, mask_to_runs
from keras_sanet.datasets.files import VOID, image_size, read_text
from keras_sanet.datasets.info import distinct_color
from keras_sanet.datasets.labelme import IGNORE


def write(tool, folder, pictures, class_names, palette):
    """Writes labels for a tool into a folder, which is made where it is missing.

    Args:
        tool: one of `WRITERS`: "coco", "labelme" or "cvat".
        folder: for LabelMe best the one of the pictures, where it looks for its files.
        pictures: iterable of pairs of the path of an image and its mask, uint8 (height, width) of
            class ids, 255 void.
        class_names: names by class id.
        palette: (red, green, blue) by class id, which CVAT alone gets; None for distinct ones.

    Returns:
        List of the paths written.

    Raises:
        ValueError: for a mask that is none of its image, an id that is no class, two images of one
            name, and names of classes that would not be read again.
        FileExistsError: for a file of LabelMe's that is there, which may be made by hand.
    """
    writer, name = WRITERS[tool]
    return writer(Path(folder) / name, pictures, class_names, palette)


def write_coco(path, pictures, class_names, palette):
    """Writes one file of COCO JSON, replaced if it is there, with `iscrowd` 1 as of CVAT's brush.

    Args:
        path: of the file. Images are named by their path below its folder, others by their name.
        pictures, class_names, palette: as for `write`, with what it returns and raises.
    """
    path = _prepared(path, class_names)
    images, annotations = [], []
    with replacing(path) as new:
        checked = _checked(pictures, class_names, path.parent)
        for number, (name, _, (height, width), shapes) in enumerate(checked, 1):
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            for class_id, pixels in shapes:
                left, top, part = cut_out(pixels)
                counts = coco_string(mask_to_runs(pixels))
                annotations.append({
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": class_id + 1,
                    "segmentation": {"size": [height, width], "counts": counts},
                    "area": int(np.count_nonzero(part)),
                    "bbox": [left, top, *part.shape[::-1]],
                    "iscrowd": 1,
                })  # fmt: skip
        categories = [
            {"id": class_id, "name": name, "supercategory": ""}
            for class_id, name in enumerate(class_names, 1)
        ]
        document = {"images": images, "categories": categories, "annotations": annotations}
        new.write_text(json.dumps(document), "utf-8")
    return [path]


def write_labelme(folder, pictures, class_names, palette):
    """Writes a JSON file for each picture, called as it and leading to it, and `labels.txt`.

    Args:
        folder, pictures, class_names, palette: as for `write`, with what it returns and raises.
    """
    labels = _prepared(Path(folder) / "labels.txt", class_names)
    text = "".join(f"{name}\n" for name in (IGNORE, *class_names))
    if labels.exists() and read_text(labels) != text:
        raise FileExistsError(f"{labels} has other classes. Write into another folder.")
    with replacing(labels) as new:
        new.write_text(text, "utf-8")
    written = [labels]
    for _, image, (height, width), shapes in _checked(pictures, class_names, void=True):
        path = labels.with_name(f"{image.stem}.json")
        if path.exists():
            raise FileExistsError(f"{path} is there already. Remove it, or write elsewhere.")
        try:
            relative = Path(os.path.relpath(image, folder))
        except ValueError:  # another drive of Windows
            relative = image.resolve()
        annotation = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [_labelme_shape(class_names, *shape) for shape in shapes],
            "imagePath": relative.as_posix(),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        with replacing(path) as new:
            new.write_text(json.dumps(annotation, ensure_ascii=False, indent=2), "utf-8")
        written.append(path)
    return written


def write_cvat(path, pictures, class_names, palette):
    """Writes what CVAT imports into a task of these pictures and labels.

    Args:
        path: of the XML file, replaced if it is there. CVAT knows an image by its path below
            `images` beside the file, or by its name.
        pictures, class_names, palette: as for `write`, with what it returns and raises.
    """
    path = _prepared(path, class_names)
    checked = _checked(pictures, class_names, path.parent / "images", path.parent)
    with replacing(path) as new, open(new, "w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
        file.write("<version>1.1</version>\n")
        file.write(_text(_cvat_labels(class_names, palette)))
        for number, (name, _, (height, width), shapes) in enumerate(checked):
            size = {"width": str(width), "height": str(height)}
            element = ElementTree.Element("image", {"id": str(number), "name": name, **size})
            for class_id, pixels in shapes:
                left, top, part = cut_out(pixels)
                ElementTree.SubElement(element, "mask", {
                    "label": class_names[class_id], "source": "manual", "occluded": "0",
                    "rle": ", ".join(map(str, mask_to_runs(part, order="C"))), "left": str(left),
                    "top": str(top), "width": str(part.shape[1]), "height": str(part.shape[0]),
                    "z_order": "0",
                })  # fmt: skip
            file.write(_text(element))
        file.write("</annotations>\n")
    return [path]


# The function of each tool, and what it writes in a folder.
WRITERS = {
    "coco": (write_coco, "coco.json"),
    "labelme": (write_labelme, ""),
    "cvat": (write_cvat, "annotations.xml"),
}


def _prepared(path, class_names):
    """A path whose folder is there, once the names are checked."""
    if label_ids(check_names(class_names), None)[0] != [*class_names]:
        raise ValueError(f"`class_names` must have no void. Received: {class_names}.")
    if strange := [n for n in class_names if n != " ".join(n.split()) or n == "_background_"]:
        raise ValueError(
            "`class_names` must have single blanks between words alone, and no `_background_`, or "
            f"tools give other names back. Received: {strange}."
        )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return Path(path)


def _checked(pictures, class_names, *folders, void=False):
    """Checks masks.

    Yields:
        Name of an image, which is its path below the first of the folders that it lies in, or the
        name of its file; its path; (height, width); and for each class that occurs, with void if
        asked for, its id and its pixels, a bool array.
    """
    names = set()
    for image, mask in pictures:
        image, mask = Path(image), np.asarray(mask)
        size = image_size(image)[::-1]
        if mask.dtype != "uint8" or mask.shape != size:
            raise ValueError(
                f"The mask of {image} must be uint8 of (height, width) {size}. It is {mask.dtype} "
                f"of {mask.shape}."
            )
        ids = [i for i in np.unique(mask).tolist() if void or i != VOID]
        if strange := [i for i in ids if i >= len(class_names) and i != VOID]:
            raise ValueError(
                f"The mask of {image} holds {strange[0]}; the ids are below {len(class_names)}."
            )
        path = image.parent.resolve() / image.name
        above = next((f.resolve() for f in folders if path.is_relative_to(f.resolve())), None)
        name = path.relative_to(above).as_posix() if above else image.name
        if name in names:
            raise ValueError(f"There are two images {name}, such as {image}. Rename one.")
        names.add(name)
        yield name, image, size, ((class_id, mask == class_id) for class_id in ids)


def _labelme_shape(class_names, class_id, pixels):
    left, top, part = cut_out(pixels)
    right, bottom = left + part.shape[1] - 1, top + part.shape[0] - 1
    file = io.BytesIO()
    Image.fromarray(part.astype("uint8")).save(file, "PNG")
    return {
        "label": IGNORE if class_id == VOID else class_names[class_id],
        "points": [[float(left), float(top)], [float(right), float(bottom)]],
        "group_id": None,
        "description": "",
        "shape_type": "mask",
        "flags": {},
        "mask": base64.b64encode(file.getvalue()).decode(),
    }


def _cvat_labels(class_names, palette):
    meta = ElementTree.Element("meta")
    task = ElementTree.SubElement(meta, "task")
    ElementTree.SubElement(task, "mode").text = "annotation"
    labels = ElementTree.SubElement(task, "labels")
    for index, name in enumerate(class_names):
        color = distinct_color(index) if palette is None else palette[index]
        color = "#{:02x}{:02x}{:02x}".format(*color)
        label = ElementTree.SubElement(labels, "label")
        for kind, text in (("name", name), ("color", color), ("type", "any"), ("attributes", None)):
            ElementTree.SubElement(label, kind).text = text
    return meta


def _text(element):
    ElementTree.indent(element)
    return ElementTree.tostring(element, encoding="unicode") + "\n"
