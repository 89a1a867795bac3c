"""Hugging Face: a data set of the Hub, or a folder of one.

A folder holds `metadata.csv`, `.jsonl` or `.parquet` beside the pictures, with the columns
`file_name` and `mask_file_name` (of which the column is called "mask"), in itself or in `train/`,
`validation/` and the like; or it holds parquet files with the pictures in them, such as
`data/train-00000-of-00001.parquet`. An `id2label.json` beside them names the ids of the masks.

Parquet files and the Hub need the package `datasets`, which keeps a copy of them in its own cache.
Pictures are decoded when they are opened, and 255 in a mask is void.
"""

import collections
import csv
import dataclasses
import glob
import io
import itertools
import os
import re
import reprlib
from pathlib import Path

import numpy as np

from keras_sanet._files import check, is_dict_of, is_text, parse, read_json
from keras_sanet.datasets import annotations
from keras_sanet.datasets.dataset import Dataset, Sample
from keras_sanet.datasets.drawn import label_ids
from keras_sanet.datasets.files import (
    LARGEST_ID,
    VOID,
    FileError,
    Frame,
    by_number,
    open_file,
    open_mask,
    read_text,
)
from keras_sanet.datasets.info import distinct_color
from keras_sanet.datasets.listing import divide, find_split, split_name, visible_files

_WAY_OUT = "Download the data set again, or mend the file."
_MASKS = ("mask", "label", "annotation", "labels", "segmentation")
_SEEN = 50  # masks that are opened for their ids


def load(root, *, image="image", mask=None, id2label=None, split=None):
    """Reads the splits of a data set, "validation" being "val". Where "train" is the only one,
    every fifth picture of it is "val".

    Args:
        root: a folder, or the name of a repository on the Hub, "owner/name".
        image: column of the images; where there is no "image", "pixel_values" will do.
        mask: column of the masks; if None, the one of mask, label, annotation, labels and
            segmentation that holds pictures.
        id2label: dict from the id in the masks to the name of a class, or a JSON file of it; if
            None, the `id2label.json` of the data set. Without one, the ids of the first 50 masks
            are the classes.
        split: the only split that is read.

    Returns:
        `Dataset`.

    Raises:
        ImportError: where `datasets` is needed and not installed.
        FileNotFoundError: for a folder or a repository that is not there.
        ValueError: for files that can't be read, and columns that are not there.
    """
    folder, left_out, hint = Path(root), collections.defaultdict(list), ""
    if folder.is_dir():
        splits = _read_folder(folder, image, mask, left_out)
        beside = folder / "id2label.json"
        id2label = beside if id2label is None and beside.is_file() else id2label
    elif re.fullmatch(r"[\w.-]+/[\w.-]+", str(root)):
        splits, labels = _read_hub(str(root), image, mask)
        id2label = labels if id2label is None else id2label
    else:
        raise FileNotFoundError(
            f"There is no folder {root}, and it is no name on Hugging Face, such as owner/name."
        )
    if split is not None:
        wanted = split_name(split)
        if wanted not in splits:
            raise ValueError(f"{root} has no split {split!r}. It has: {', '.join(splits)}.")
        splits = {wanted: splits[wanted]}
    if id2label is None:
        found = _find_ids(root, itertools.chain(*splits.values()))
        id2label = {i: str(i) for i in found if i != VOID}
        hint = (
            f"The classes are the ids of the first {_SEEN} masks, for there is no id2label.json: "
            "give `id2label`, the names of all ids."
        )
    labels = _read_labels(id2label)
    names, ids, _ = label_ids(list(labels.values()), None)
    class_ids = {**{i: ids[label] for i, label in labels.items()}, VOID: VOID}
    palette = [distinct_color(i) for i in range(len(names))]
    splits = divide(splits["train"]) if list(splits) == ["train"] else splits
    name = folder.name if folder.is_dir() else str(root)
    return Dataset(name, names, palette, splits, class_ids, left_out=dict(left_out), hint=hint)


def _read_labels(id2label):
    """Dict from the id in the masks to its name, in order of the ids."""
    said = "`id2label`"
    if isinstance(id2label, (str, Path)):
        said, id2label = str(id2label), read_json(id2label, _WAY_OUT)
    if not id2label or not is_dict_of(id2label, lambda label: is_text(label) and label):
        raise FileError(
            f"{said} must be a dict from ids to names. It is: {reprlib.repr(id2label)}."
        )
    if strange := [i for i in id2label if not re.fullmatch("[0-9]{1,5}", str(i))]:
        raise FileError(f"{said}: ids must be from 0 to {LARGEST_ID}. One is: {strange[0]!r}.")
    labels = {int(i): id2label[i] for i in sorted(id2label, key=int)}
    if len(labels) < len(id2label) or max(labels) > LARGEST_ID:
        raise FileError(f"{said}: ids must differ, and be from 0 to {LARGEST_ID}.")
    if label_ids([labels.get(VOID, "void")], None)[0]:
        raise FileError(f"{said}: the id 255 is void, and can't be {labels[VOID]!r}.")
    return labels


def _find_ids(root, samples):
    """The ids in the first masks."""
    found = set()
    for sample in itertools.islice((s for s in samples if s.mask is not None), _SEEN):
        found.update(map(int, np.unique(np.asarray(open_mask(sample.mask)))))
    if not found - {VOID}:
        raise FileError(f"{root}: no mask of the first {_SEEN} has an id. Give `id2label`.")
    return sorted(found)


def _choose(source, kinds, image, mask):
    """The columns of the images and masks, of a dict from all columns to what they hold."""
    pictures = [column for column, kind in kinds.items() if kind == "pictures"]
    there = ", ".join(f"{column} ({kind})" for column, kind in kinds.items()) or "none"
    if image == "image" and image not in pictures and "pixel_values" in pictures:
        image = "pixel_values"
    masks = [column for column in _MASKS if column in pictures and column != image]
    masks = masks if mask is None else [mask]
    if len(masks) > 1:
        raise FileError(
            f"{source} has several columns that may be masks: {', '.join(masks)}. Name one as "
            "`mask`."
        )
    for argument, columns in (("image", [image]), ("mask", masks)):
        if not set(columns) & set(pictures):
            looked = ", ".join(columns or _MASKS)
            raise FileError(
                f"{source} has no column of pictures that is called {looked}. Name one as "
                f"`{argument}`. Its columns: {there}."
            )
    return image, masks[0]


# Folders


def _read_folder(root, image, mask, left_out):
    patterns = [f"{up}metadata.{suffix}" for up in ("", "*/", "*/*/") for suffix in _READERS]
    metadata = sorted((file for p in patterns for file in root.glob(p)), key=by_number)
    if metadata:
        return _read_metadata(root, metadata, image, mask, left_out)
    files = sorted({*root.glob("*.parquet"), *root.glob("*/*.parquet")}, key=by_number)
    if not files:
        looked_for = "metadata.csv, metadata.jsonl or metadata.parquet; or data/*.parquet"
        raise annotations.not_found(root, "data set of Hugging Face", looked_for)
    by_split = collections.defaultdict(list)
    for file in files:
        words = re.findall("[a-z]+", f"{file.stem} {file.parent.relative_to(root)}".lower())
        by_split[find_split(words) or "train"].append(glob.escape(str(file)))
    datasets = _import()
    try:
        found = datasets.load_dataset("parquet", data_files=by_split)
    except Exception as error:  # of damaged files, of many kinds
        raise FileError(f"{root}: its parquet files can't be read: {error} {_WAY_OUT}") from error
    return _read_tables(root, datasets, found, image, mask, None)


def _read_metadata(root, files, image, mask, left_out):
    """Splits of pictures that files of metadata list."""
    folders = [file.parent for file in files]
    if len({*folders}) < len(folders):
        raise FileError(f"{root} has several files of metadata in a folder: keep one of them.")
    tables = {file: _READERS[file.suffix[1:]](file) for file in files}
    columns = dict.fromkeys(key for rows in tables.values() for row in rows for key in row)
    keys = {re.sub("_?file_name$", "", key) or "image": key for key in columns if _is_file(key)}
    kinds = {key: "values" for key in columns if not _is_file(key)}
    kinds |= dict.fromkeys(keys, "pictures")
    image, mask = _choose(", ".join(map(str, files)), kinds, image, mask)
    found = {}  # split -> image -> mask, place
    for file, rows in tables.items():
        for number, row in enumerate(rows, 1):
            place = f"{file}: row {number}"
            picture = _find(place, file.parent, keys[image], row)
            split = find_split(picture.relative_to(root).parts[:-1]) or "train"
            samples = found.setdefault(split, {})
            if picture in samples:
                raise FileError(f"{place} has {picture}, as has {samples[picture][1]}: remove one.")
            path = _find(place, file.parent, keys[mask], row) if row.get(keys[mask]) else None
            samples[picture] = path, place
    splits = {}
    for split in sorted(found, key=["train", "val", "test"].index):
        samples = found[split]
        missing = [place for path, place in samples.values() if path is None]
        if missing and (len(missing) < len(samples) or split != "test"):
            raise FileError(f"{missing[0]} has no {keys[mask]}. {_WAY_OUT}")
        splits[split] = [Sample(p, samples[p][0]) for p in sorted(samples, key=by_number)]
    if not splits:
        raise FileError(f"{files[0]} lists no picture. {_WAY_OUT}")
    used = {path for samples in splits.values() for s in samples for path in (s.image, s.mask)}
    annotations.add_unnamed(visible_files(root), used, left_out)
    return splits


def _is_file(key):
    return key == "file_name" or key.endswith("_file_name")


def _find(place, folder, key, row):
    """The file that a row names, inside of the folder."""
    with annotations.named(f"{place}: {key}", _WAY_OUT):
        path = folder.joinpath(*annotations.path_parts(row.get(key)))
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file {path}, the {key} of {place}. {_WAY_OUT}")
    return path


def _read_csv(file):
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(file), newline="")))
    except csv.Error as error:
        raise FileError(f"{file} is damaged: {error}. {_WAY_OUT}") from error
    return [{key: value for key, value in row.items() if is_text(key)} for row in rows]


def _read_jsonl(file):
    rows = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if line.strip():
            said = f"{file}: line {number}:"
            rows.append(parse(line.encode(), said, _WAY_OUT))
            check(rows[-1], {}, said, _WAY_OUT)
    return rows


def _read_parquet(file):
    _import()
    from pyarrow import parquet

    try:
        columns = [key for key in parquet.read_schema(file).names if _is_file(key)]
        return parquet.read_table(file, columns=columns).to_pylist()
    except Exception as error:  # of damaged files, of many kinds
        raise FileError(f"{file} is damaged: {error}. {_WAY_OUT}") from error


_READERS = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}


# The package `datasets`


def _import():
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"The package datasets can't be imported: {error}. `pip install 'keras-sanet[hf]'` "
            "installs it."
        ) from error
    return datasets


def _read_hub(name, image, mask):
    """The splits of a repository, and the path of its `id2label.json`, None without."""
    datasets = _import()
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        found = datasets.load_dataset(name)
        try:
            labels = hf_hub_download(name, "id2label.json", repo_type="dataset")
        except EntryNotFoundError:
            labels = None
    except Exception as error:  # of the network, of rights, of the files: of many kinds
        raise FileNotFoundError(
            f"There is no folder {name}, and Hugging Face's data set of that name can't be had: "
            f"{error} Check the name and the network, log in by `hf auth login` if it is gated, or "
            f"get it elsewhere by `hf download --repo-type dataset {name} --local-dir FOLDER` and "
            "give that folder."
        ) from error
    return _read_tables(name, datasets, found, image, mask, datasets.config.HF_CACHE_HOME), labels


def _read_tables(source, datasets, tables, image, mask, cache):
    """Splits of samples of a `DatasetDict`."""
    splits = {}
    for name, rows in ((str(name), rows) for name, rows in tables.items()):
        kinds = {column: _kind(datasets, f) for column, f in rows.features.items()}
        columns = _choose(f"{source}, split {name},", kinds, image, mask)
        frames = []
        for column in columns:
            if isinstance(rows.features[column], datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))
            cells = rows.select_columns([column])
            empty = len(cells) and cells.data.column(column).null_count == len(cells)
            file = Path(rows.cache_files[0]["filename"] if rows.cache_files else source)
            numbers = range(len(cells))
            found = [_Picture(file, f"{name}-{i:05}", source, cells, i, cache) for i in numbers]
            frames.append([None for _ in numbers] if empty else found)
        splits.setdefault(split_name(name), []).extend(map(Sample, *frames))
    return splits


def _kind(datasets, feature):
    packed = isinstance(feature, dict) and {"bytes", "path"} <= {*feature}
    if packed or isinstance(feature, datasets.Image):
        return "pictures"
    return str(getattr(feature, "dtype", type(feature).__name__))


@dataclasses.dataclass(frozen=True)
class _Picture(Frame):
    """A cell of a table.

    Attributes:
        source: folder or repository, for messages.
        cells: the column.
        index: of the row.
        cache: folder in which files that a cell names may lie; None if it must hold the picture.
    """

    source: object
    cells: object = dataclasses.field(repr=False, compare=False)
    index: int
    cache: object

    def open(self):
        (cell,) = self.cells[self.index].values()
        data, path = (cell or {}).get("bytes"), (cell or {}).get("path")
        if not data and path and self.cache and Path(path).is_relative_to(self.cache):
            return open_file(path)
        if not isinstance(data, bytes):
            raise FileError(f"{self} holds no picture. {_WAY_OUT}")
        return open_file(data)

    def __str__(self):
        return f"{self.source} [{self.stem}, {', '.join(self.cells.column_names)}]"
