"""Data sets of TensorFlow Datasets (TFDS), picture by picture through Pillow.

Prepared files stay as they are, and nothing of them is held in memory: a picture is read from its
record when it is asked for. TFDS and TensorFlow (the extra `tensorflow`) are imported on use, on
any Keras backend.
"""

import dataclasses
import os
import re
from pathlib import Path

import numpy as np

from keras_sanet.datasets import cityscapes
from keras_sanet.datasets.dataset import Dataset, Sample, identity
from keras_sanet.datasets.files import VOID, Frame, open_file
from keras_sanet.datasets.info import color

# What is known of a set: arguments of `load`.
_KNOWN = {
    "cityscapes": {
        "image_key": "image_left",
        "mask_key": "segmentation_label",
        "class_ids": cityscapes.TRAIN_IDS,
        "class_names": list(cityscapes.INFO.classes),
        "palette": list(cityscapes.INFO.classes.values()),
    },
    "oxford_iiit_pet": {
        "image_key": "image",
        "mask_key": "segmentation_mask",
        "class_ids": {1: 0, 2: 1, 3: 2},
        "class_names": ["pet", "background", "border"],
        "palette": [color(index) for index in (1, 2, 3)],
    },
}
_WITHOUT_MASKS = {("cityscapes", "test")}  # whose masks are all void
_REFUSED = {
    "scene_parse150": "Its annotations are instances, not the 150 classes. Get "
    'ADEChallengeData2016 and read it by datasets.load("ade20k", root).',
}


def load(
    name,
    *,
    data_dir=None,
    image_key=None,
    mask_key=None,
    class_ids=None,
    class_names=None,
    palette=None,
    **kwargs,
):
    """Reads a data set of TFDS, which is downloaded and prepared first unless it is.

    Its splits are those of TFDS, "validation" being "val". Each picture is read by itself, from
    files in TFDS's formats tfrecord or array_record; checking the sizes of a split, as
    `make_dataset` does, reads it through once (Cityscapes: about 7 GB for training).

    Args:
        name: as TFDS has it, such as "oxford_iiit_pet" or "cityscapes/semantic_segmentation".
        data_dir: folder of the prepared sets; TFDS's own if None.
        image_key: name of the feature that holds the image.
        mask_key: name of the feature that holds the mask.
        class_ids: dict from the id in the masks to the class id, or to 255 for void; if None, ids
            are class ids, and 255 is void.
        class_names: names by class id.
        palette: (red, green, blue) by class id; Pascal VOC's colors if None.
        **kwargs: of `tfds.builder`, such as `version`.

    All but `name` are known for cityscapes and oxford_iiit_pet, and may be given for others.

    Returns:
        `Dataset`.
    """
    base = re.split("[/:]", name)[0]
    if base in _REFUSED:
        raise ValueError(f"The TFDS data set {name!r} is not read. {_REFUSED[base]}")
    try:
        import tensorflow  # noqa: F401, what `_Picture` needs
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"TFDS can't be imported: {error}. `pip install keras-sanet[tensorflow]` installs it."
        ) from error
    try:
        builder = tfds.builder(name, data_dir=data_dir, **kwargs)
    except AssertionError as error:  # TFDS's of an unknown version
        raise ValueError(f"TFDS can't build {name!r}: {error}") from error
    known = _KNOWN.get(base, {})
    image_key = image_key or known.get("image_key")
    mask_key = mask_key or known.get("mask_key")
    if known and class_names is class_ids is None:
        class_names, class_ids = known["class_names"], known["class_ids"]
        palette = palette or known["palette"]
    _check_key(tfds, builder, "image_key", image_key)
    _check_key(tfds, builder, "mask_key", mask_key)
    if class_names is None:
        raise ValueError(f"`class_names` of {name!r} must be given: names by class id.")
    count = len(class_names)
    if class_ids is None:
        class_ids = identity(count)
    if palette is None:
        palette = [color(index) for index in range(1, count + 1)]
    if len(palette) != count or not set(class_ids.values()) <= {*range(count), VOID}:
        raise ValueError(
            f"`palette` must have a color, and `class_ids` ids below {count} or 255, for each of "
            f"`class_names`. Received: {count} names, {len(palette)} colors, "
            f"class_ids={class_ids}."
        )
    try:
        builder.download_and_prepare()
    except AssertionError as error:  # TFDS's where files must be fetched by hand
        raise ValueError(f"TFDS can't prepare {name!r}: {error}") from error
    folder, splits = Path(builder.data_dir), {}
    for tfds_split in builder.info.splits:
        split = "val" if tfds_split == "validation" else str(tfds_split)
        records = _open_records(tfds, builder, tfds_split)
        keys = (image_key,) if (base, split) in _WITHOUT_MASKS else (image_key, mask_key)
        splits[split] = [
            Sample(*(_Picture(folder, f"{split}-{i:05}", records, i, key) for key in keys))
            for i in range(len(records))
        ]
    if not splits:
        raise ValueError(f"The TFDS data set {name!r} has no split in {folder}.")
    return Dataset(base, list(class_names), list(palette), splits, dict(class_ids))


@dataclasses.dataclass(frozen=True)
class _Picture(Frame):
    """A picture in a record of a prepared set.

    Attributes:
        records: all records of the split.
        index: of the one.
        key: the picture's feature.
    """

    records: object = dataclasses.field(repr=False, compare=False)
    index: int
    key: str

    def open(self):
        import tensorflow as tf

        example = tf.train.Example.FromString(self.records[self.index])
        encoded = example.features.feature[self.key].bytes_list.value
        return open_file(b"".join(encoded))

    def __str__(self):
        return f"{self.file} [{self.stem}, {self.key}]"


class _Tfrecords:
    """Records of TFRecord files by index. Only their spans are held."""

    def __init__(self, files):
        self._spans = [span for file in files for span in _spans(file)]

    def __len__(self):
        return len(self._spans)

    def __getitem__(self, index):
        file, start, length = self._spans[index]
        with file.open("rb") as stream:
            stream.seek(start)
            return stream.read(length)


def _spans(file):
    """(file, start, length) of its records. A record is its length in 8 bytes, a checksum of 4,
    the content, and a checksum of 4."""
    with file.open("rb") as stream:
        size, start = stream.seek(0, os.SEEK_END), 0
        while start < size:
            stream.seek(start)
            header = stream.read(8)
            length = int.from_bytes(header, "little")
            end = start + 12 + length + 4
            if len(header) < 8 or end > size:
                raise ValueError(f"{file} is truncated: remove its folder and prepare it again.")
            yield file, start + 12, length
            start = end


def _open_records(tfds, builder, split):
    """The records of a split by index, as bytes."""
    info = builder.info
    if info.file_format.value not in ("tfrecord", "array_record"):
        raise ValueError(
            f"{builder.data_dir} holds files of the format {info.file_format.value!r}; read are "
            "tfrecord and array_record. Prepare it in another `data_dir`."
        )
    try:
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        return builder.as_data_source(split, deserialize_method=raw)
    except NotImplementedError:  # it has no random access to TFRecord files
        records = _Tfrecords(info.splits[split].filepaths)
    if len(records) != info.splits[split].num_examples:
        raise ValueError(
            f"{builder.data_dir} holds {len(records)} records of {split!r}, not "
            f"{info.splits[split].num_examples}: remove it and prepare it again."
        )
    return records


def _check_key(tfds, builder, argument, key):
    """The named feature must be there and hold pictures."""
    features = dict(builder.info.features.items())
    feature = features.get(key)
    if not isinstance(feature, tfds.features.Image) or np.dtype(feature.np_dtype).itemsize > 2:
        there = ", ".join(f"{name} ({type(f).__name__})" for name, f in sorted(features.items()))
        raise ValueError(
            f"`{argument}` must name a feature of {builder.name!r} that is an Image of integers. "
            f"Received: {argument}={key!r}. Its features: {there}."
        )
