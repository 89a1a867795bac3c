"""Which format a folder is in, told by what lies in it."""

import mmap
import os
from pathlib import Path

from keras_sanet.datasets import class_files
from keras_sanet.datasets.listing import MASK_FOLDERS, folders_of, has_masks_beside, mask_folder

_LOOKED_AT = 50  # JSON files, and folders below one that is of no format

# Files and folders that a format has, each tuple together; patterns of `Path.glob`.
_FILES = {
    "coco": [("*/_annotations.coco.json",), ("annotations/instances_*.json",)],
    "cvat": [("annotations.xml",)],
    "supervisely": [("meta.json", "*/ann"), ("*/meta.json", "*/*/ann")],
    "hf": [(f"{up}metadata.{kind}",) for up in ("", "*/") for kind in ("csv", "jsonl", "parquet")]
    + [("*.parquet",), ("*/*.parquet",)],
    "nyuv2": [
        ("nyu_depth_v2_labeled.mat",), *((f"RGB/{i}.*", f"Label/{i}.png") for i in (0, 1)),
    ],
    "sunrgbd": [("SUNRGBD", "SUNRGBDtoolbox"), ("image", "label37"), ("image", "semseg-label37")],
    "ade20k": [
        (f"{up}images/{split}/ADE_*", f"{up}annotations/{split}/ADE_*")
        for up in ("", "ADEChallengeData2016/") for split in ("training", "validation")
    ],
    "cityscapes": [("leftImg8bit", "gtFine"), ("leftImg8bit", "gtCoarse")],
    "camvid": [
        (f"{images}/{drive}*", masks) for drive in ("0001TP_", "0006R0_", "0016E5_", "Seq05VD_")
        for images, masks in (
            ("701_StillsRaw_full", "LabeledApproved_full"), ("train", "trainannot"),
            ("train/images", "train/labels"), ("val/images", "val/labels"),
        )
    ],
    "voc": [
        (f"{up}ImageSets/Segmentation/*.txt", f"{up}JPEGImages/20[01][0-9]_*")
        for up in ("", "VOC2012/", "VOCdevkit/VOC2012/")
    ],
}  # fmt: skip
# Keys of a JSON file beside the pictures, by the format.
_KEYS = {
    "coco": (b'"images"', b'"annotations"', b'"categories"'),
    "labelme": (b'"shapes"', b'"imagePath"'),
    "label_studio": (b'"annotations"', b'"result"', b'"data"'),
}
_KEYS_OF_MIN = (b'"annotation_id"', b'labels"')  # Label Studio's JSON-MIN
_PUBLIC = ("nyuv2", "sunrgbd", "ade20k", "cityscapes", "camvid", "voc")
_LOOKED_FOR = (
    "a file of classes (classes.txt, class_dict.csv, labelmap.txt, ...) with images/ and masks/, "
    "or with masks beside the images (folder)",
    "_annotations.coco.json, annotations/instances_*.json or another JSON of COCO (coco)",
    "JSON files with shapes beside the pictures (labelme)",
    "annotations.xml (cvat)",
    "a JSON list of tasks (label_studio)",
    "meta.json with ann/ (supervisely)",
    "metadata.csv, metadata.jsonl or *.parquet (hf)",
    "the folders of a public data set (`keras-sanet datasets` lists them)",
)


def detect(root):
    """Tells the format of a folder.

    Args:
        root: the folder, or a JSON file of COCO.

    Returns:
        Name of the format, as of `datasets.load`, and what it was told by.

    Raises:
        FileNotFoundError: there is no such folder, or it holds none of the formats; the error lists
            what was looked for.
        ValueError: two formats fit.
    """
    root = Path(root)
    if root.is_file() and root.suffix.lower() == ".json":
        return "coco", f"{root.name} is a JSON file"
    if root.is_file():
        raise FileNotFoundError(
            f"{root} is a file. Unpack it if it is an archive, and give the folder."
        )
    if not root.is_dir():
        raise FileNotFoundError(f"There is no folder {root}.")
    found = _formats(root)
    if len(found) > 1:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in found.items())
        raise ValueError(
            f"{root} may be of several formats. {reasons}. Name the one to read as the data set, "
            "or keep its files alone."
        )
    if not found:
        below = [folder for folder in folders_of(root)[:_LOOKED_AT] if len(_formats(folder)) == 1]
        inside = f" {below[0]} may be the folder to give." if len(below) == 1 else ""
        raise FileNotFoundError(
            f"{root} is of no format that is known.{inside} Looked for: {'; '.join(_LOOKED_FOR)}. "
            f"It holds: {_content(root)}."
        )
    return next(iter(found.items()))


def _formats(root):
    """Dict from the formats that a folder may be in to what each is told by."""
    found = {}
    if reason := _folder_reason(root):
        found["folder"] = reason
    for name, forms in _FILES.items():
        if name in _PUBLIC and "folder" in found:
            continue  # its classes are in a file of its own
        for patterns in forms:
            paths = [next(root.glob(pattern), None) for pattern in patterns]
            if all(paths) and (paths[0].name != "metadata.csv" or _names_files(paths[0])):
                names = (path.relative_to(root).as_posix() for path in paths)
                found[name] = f"it holds {' and '.join(names)}"
                break
    for name, file in _json_formats(root):
        found.setdefault(name, f"{file.relative_to(root)} has its keys")
    if "supervisely" in found:  # whose annotations are JSON files too
        found.pop("label_studio", None)
    return found


def _names_files(file):
    """Whether metadata is Hugging Face's: its first line has a column of files."""
    with open(file, "rb") as opened:
        return b"file_name" in opened.readline(4096)


def hint(root, name):
    """A sentence for whoever read a folder by another name than its format's; empty if in doubt."""
    try:
        found, reason = detect(root)
    except (OSError, ValueError):
        return ""
    return "" if found == name else f"It looks like {found!r}: {reason}."


def _folder_reason(root):
    parts = folders_of(root)
    file, *_ = class_files.find(root) or sum(map(class_files.find, parts), []) or [None]
    if file is None:
        with_masks = all((root / name).is_dir() for name in ("images", "masks"))
        return "it holds images and masks" if with_masks else None
    there = [f"{path.name}/images" for path in parts if _has_masks(path)]
    there += [path.name for path in parts if mask_folder(path) or path.name == "SegmentationClass"]
    there = ["images"] * _has_masks(root) + there
    beside = [path for path in (root, *parts) if has_masks_beside(path)]
    if not there and not beside:
        return None
    where = there[0] if there else f"masks beside the images in {beside[0].name}"
    return f"it holds {file.relative_to(root)} and {where}"


def _has_masks(folder):
    """Whether a folder holds images/ and a folder of masks."""
    return (folder / "images").is_dir() and any((folder / name).is_dir() for name in MASK_FOLDERS)


def _json_formats(root):
    """(format, file) of the JSON files of a folder and of those in it."""
    files = []
    for folder in (root, *folders_of(root), *folders_of(root / "images")):
        files += sorted(path for path in folder.glob("*.json") if path.is_file())
    for file in files[:_LOOKED_AT]:
        if not os.path.getsize(file):
            continue
        with (
            open(file, "rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            is_list = text[:64].lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"["
            for name, keys in _KEYS.items():
                wanted = is_list == (name == "label_studio")
                if wanted and all(text.find(key) >= 0 for key in keys):
                    yield name, file
            if is_list and all(text.find(key) >= 0 for key in _KEYS_OF_MIN):
                yield "label_studio", file


def _content(root):
    names = sorted(f"{p.name}{'/' * p.is_dir()}" for p in root.iterdir())
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "") or "nothing"
