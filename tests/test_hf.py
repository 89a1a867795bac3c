"""Hugging Face: image folders with metadata; parquet files, written and read by `datasets`."""

import csv
import io
import json
import random
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from keras_sanet.datasets import hf
from keras_sanet.datasets.files import VOID, FileError

LABELS = {"0": "road", "1": "void", "4": "car"}
PIXELS = np.array([[0, 1, 4, 255], [4, 4, 0, 0]], "uint8")
CLASSES = [[0, 255, 1, 255], [1, 1, 0, 0]]


@pytest.fixture
def datasets(monkeypatch, tmp_path):
    """The package, with a cache of its own."""
    package = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(package.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return package


def add_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", PIXELS.shape[::-1]).save(path)


def add_mask(path, pixels=PIXELS):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def add_pairs(folder, names):
    """Pictures, masks, and the rows that list them."""
    for name in names:
        add_picture(folder / f"images/{name}.png")
        add_mask(folder / f"masks/{name}.png")
    return [
        {"file_name": f"images/{name}.png", "mask_file_name": f"masks/{name}.png", "note": "x"}
        for name in names
    ]


def write(folder, rows, suffix="csv"):
    file = folder / f"metadata.{suffix}"
    if suffix == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    else:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return file


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    write(root, add_pairs(root, ["1", "2", "10"]))
    (root / "id2label.json").write_text(json.dumps(LABELS), "utf-8")
    return root


def read(dataset):
    samples = [sample for samples in dataset.splits.values() for sample in samples]
    return [dataset.read(sample) for sample in samples]


def stems(dataset):
    return {split: [s.image.stem for s in ss] for split, ss in dataset.splits.items()}


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_folder_with_metadata_needs_no_package(folder, suffix, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (folder / "metadata.csv").unlink()
    write(folder, add_pairs(folder, ["1", "2", "10"]), suffix)
    dataset = hf.load(folder)
    assert dataset.class_names == ["road", "car"]
    assert stems(dataset) == {"train": ["1", "2", "10"], "val": []}
    assert dataset.left_out == {} and dataset.hint == ""
    assert [mask.tolist() for _, mask in read(dataset)] == [CLASSES] * 3


def test_names_come_from_a_dict_or_a_file(folder):
    assert hf.load(folder, id2label={0: "a", 1: "b", 4: "a"}).class_names == ["a", "b"]
    (folder / "names.json").write_text('{"0": "c", "1": "d", "4": "e", "255": "void"}', "utf-8")
    assert hf.load(folder, id2label=folder / "names.json").class_names == ["c", "d", "e"]


def test_without_names_the_ids_of_the_first_masks_are_the_classes(folder):
    (folder / "id2label.json").unlink()
    dataset = hf.load(folder)
    assert dataset.class_names == ["0", "1", "4"]
    assert read(dataset)[0][1].tolist() == [[0, 1, 2, 255], [2, 2, 0, 0]]
    add_mask(folder / "masks/2.png", PIXELS * 0 + 3)
    assert hf.load(folder).class_names == ["0", "1", "3", "4"]


def test_an_id_that_none_of_the_first_masks_has_is_an_error_with_the_way_out(folder, monkeypatch):
    monkeypatch.setattr(hf, "_SEEN", 1)
    (folder / "id2label.json").unlink()
    add_mask(folder / "masks/2.png", PIXELS * 0 + 3)
    with pytest.raises(ValueError, match=r"2.png holds .*\[3\].*first 1 masks.*give `id2label`"):
        read(hf.load(folder))


def test_folders_named_as_splits_are_splits(tmp_path):
    for name, word in (("a", "train"), ("b", "validation"), ("c", "test")):
        write(tmp_path / word, add_pairs(tmp_path / word, [name]))
    dataset = hf.load(tmp_path, id2label=LABELS)
    assert stems(dataset) == {"train": ["a"], "val": ["b"], "test": ["c"]}
    assert stems(hf.load(tmp_path, id2label=LABELS, split="validation")) == {"val": ["b"]}
    assert stems(hf.load(tmp_path, id2label=LABELS, split="train")) == {"train": ["a"], "val": []}
    with pytest.raises(ValueError, match="no split 'full'. It has: train, val, test"):
        hf.load(tmp_path, split="full")


def test_one_file_of_metadata_may_list_several_splits(tmp_path):
    rows = []
    for word in ("train", "test"):
        rows += [
            {key: f"{word}/{value}" for key, value in row.items()}
            for row in add_pairs(tmp_path / word, ["a"])
        ]
    rows[1]["mask_file_name"] = ""  # the truth is withheld
    write(tmp_path, rows)
    dataset = hf.load(tmp_path, id2label=LABELS)
    assert stems(dataset) == {"train": ["a"], "test": ["a"]}
    assert dataset.samples("test")[0].mask is None


def test_the_columns_may_be_named(folder):
    (folder / "metadata.csv").unlink()
    rows = [
        {"pixel_values_file_name": r["file_name"], "truth_file_name": r["mask_file_name"]}
        for r in add_pairs(folder, ["1", "2"])
    ]
    write(folder, rows)
    assert len(read(hf.load(folder, mask="truth"))) == 2
    with pytest.raises(FileError, match="`mask`. Its columns: pixel_values .pictures., truth"):
        hf.load(folder)
    with pytest.raises(FileError, match="is called photo. Name one as `image`"):
        hf.load(folder, image="photo", mask="truth")


def test_several_columns_of_masks_are_refused(folder):
    rows = add_pairs(folder, ["1"])
    write(folder, [{**row, "label_file_name": row["mask_file_name"]} for row in rows])
    with pytest.raises(FileError, match="several columns that may be masks: mask, label"):
        hf.load(folder)
    assert len(read(hf.load(folder, mask="label"))) == 1


def test_pictures_that_no_row_names_are_left_out(folder):
    add_picture(folder / "images/more.png")
    left = hf.load(folder).left_out
    assert left == {"pictures that no annotation names": [folder / "images/more.png"]}


@pytest.mark.parametrize(
    "name", ["../x.png", "/etc/passwd", "C:\\x.png", "images\\..\\..\\x.png", "", "a\0b"]
)
def test_a_path_out_of_the_folder_is_refused(folder, name):
    rows = add_pairs(folder, ["1", "2"])
    rows[1]["file_name"] = name
    (folder / "metadata.csv").unlink()
    write(folder, rows, "jsonl")
    with pytest.raises(
        FileError, match="metadata.jsonl: row 2: file_name: .*must be a relative path"
    ):
        hf.load(folder)


def test_windows_separators_are_read(folder):
    rows = [
        {key: value.replace("/", "\\") for key, value in row.items()}
        for row in add_pairs(folder, ["1"])
    ]
    write(folder, rows)
    assert len(read(hf.load(folder))) == 1


@pytest.mark.parametrize("key", ["file_name", "mask_file_name"])
def test_a_file_that_is_not_there_is_named(folder, key):
    rows = add_pairs(folder, ["1", "2"])
    rows[1][key] = "images/gone.png"
    write(folder, rows)
    with pytest.raises(FileNotFoundError, match=f"gone.png, the {key} of .*csv: row 2"):
        hf.load(folder)


def test_a_row_without_a_mask_and_a_picture_of_two_rows_are_refused(folder):
    rows = add_pairs(folder, ["1", "2"])
    write(folder, [*rows, rows[0]])
    with pytest.raises(FileError, match="row 3 has .*1.png, as has .*row 1"):
        hf.load(folder)
    write(folder, [rows[0], {**rows[1], "mask_file_name": ""}])
    with pytest.raises(FileError, match="row 2 has no mask_file_name"):
        hf.load(folder)


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({}, "must be a dict from ids to names"),
        ({"0": 3}, "must be a dict from ids to names"),
        ({"road": "0"}, "One is: 'road'"),
        ({-1: "road"}, "One is: -1"),
        ({0: "road", "0": "car"}, "ids must differ"),
        ({99999: "road"}, "from 0 to 65535"),
        ({255: "road"}, "255 is void, and can't be 'road'"),
    ],
)
def test_wrong_names_are_refused(folder, labels, text):
    with pytest.raises(FileError, match=text):
        hf.load(folder, id2label=labels)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="Looked for: metadata.csv"):
        hf.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no name on Hugging Face"):
        hf.load(tmp_path / "nowhere")


def test_two_files_of_metadata_in_a_folder_are_refused(folder):
    write(folder, add_pairs(folder, ["1"]), "jsonl")
    with pytest.raises(FileError, match="several files of metadata"):
        hf.load(folder)


def test_without_the_package_the_way_to_install_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-00000-of-00001.parquet").write_bytes(b"PAR1")
    for root in (tmp_path, "owner/name"):
        with pytest.raises(ImportError, match=r"pip install 'keras-sanet\[hf\]'"):
            hf.load(root)


def encode(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def table(datasets, count, image="image", mask="label", empty=False):
    rgb = [encode(np.full((*PIXELS.shape, 3), i, "uint8")) for i in range(count)]
    columns = {
        image: rgb,
        mask: [None if empty else encode(PIXELS) for _ in rgb],
        "note": ["x"] * count,
    }
    kinds = {image: datasets.Image(), mask: datasets.Image(), "note": datasets.Value("string")}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))


def test_parquet_files_are_read_by_split(tmp_path, datasets):
    for word, count, empty in (("train", 3, False), ("validation", 2, False), ("test", 1, True)):
        rows = table(datasets, count, empty=empty)
        rows.to_parquet(tmp_path / f"set[1]/data/{word}-00000-of-00001.parquet")
    (tmp_path / "set[1]/id2label.json").write_text(json.dumps(LABELS), "utf-8")
    dataset = hf.load(tmp_path / "set[1]")
    counts = {split: len(samples) for split, samples in dataset.splits.items()}
    assert counts == {"train": 3, "val": 2, "test": 1}
    assert dataset.samples("test")[0].mask is None
    assert dataset.class_names == ["road", "car"]
    sample = dataset.samples("train")[2]
    image, mask = dataset.read(sample)
    assert (image == 2).all() and mask.tolist() == CLASSES
    assert sample.image.file.is_file() and sample.image.stem == "train-00002"
    assert dataset.sizes("train") == [PIXELS.shape] * 3


def test_a_lone_train_split_is_divided_and_pixel_values_are_images(tmp_path, datasets):
    table(datasets, 6, image="pixel_values").to_parquet(tmp_path / "0000.parquet")
    dataset = hf.load(tmp_path)
    assert {split: len(samples) for split, samples in dataset.splits.items()} == {
        "train": 5,
        "val": 1,
    }
    assert dataset.class_names == ["0", "1", "4"] and "first 50 masks" in dataset.hint


def test_columns_without_pictures_are_told(tmp_path, datasets):
    table(datasets, 1, mask="truth").to_parquet(tmp_path / "train.parquet")
    with pytest.raises(FileError, match=r"image \(pictures\), truth .*note \(string\)"):
        hf.load(tmp_path)
    assert hf.load(tmp_path, mask="truth").class_names == ["0", "1", "4"]


def test_parquet_without_the_types_of_the_hub_is_read(tmp_path, datasets):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {"image": [encode(np.zeros((*PIXELS.shape, 3), "uint8"))], "mask": [encode(PIXELS)]}
    parquet.write_table(arrow.table(columns), tmp_path / "a.parquet")
    assert read(hf.load(tmp_path, id2label=LABELS))[0][1].tolist() == CLASSES


def test_a_row_without_a_picture_is_named(tmp_path, datasets):
    rows = table(datasets, 2).to_dict()
    rows["image"][1] = {"bytes": None, "path": "/etc/passwd"}
    rows = datasets.Dataset.from_dict(rows, features=table(datasets, 1).features)
    rows.to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="train-00001, image.* holds no picture|can't be read"):
        read(hf.load(tmp_path))


def test_metadata_in_parquet_is_read(folder, datasets):
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (folder / "metadata.csv").unlink()
    parquet.write_table(
        arrow.Table.from_pylist(add_pairs(folder, ["1", "2"])), folder / "metadata.parquet"
    )
    assert len(read(hf.load(folder))) == 2
    (folder / "metadata.parquet").write_bytes(b"PAR1")
    with pytest.raises(FileError, match="metadata.parquet is damaged"):
        hf.load(folder)


@pytest.mark.parametrize("part", [0, 10, 1000, 10**6])
def test_a_truncated_parquet_file_is_named(tmp_path, datasets, part):
    file = tmp_path / "data/train-00000-of-00001.parquet"
    table(datasets, 2).to_parquet(file)
    file.write_bytes(file.read_bytes()[: min(part, file.stat().st_size - 1)])
    with pytest.raises(FileError, match=f"{tmp_path}: its parquet files can't be read"):
        hf.load(tmp_path)


def test_a_repository_is_read_with_its_names(tmp_path, datasets, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    add_picture(tmp_path / "hub/a.png")
    rows = {"train": table(datasets, 5), "validation": table(datasets, 1)}
    first = rows["train"].to_dict()
    first["image"][0] = {"bytes": None, "path": str(tmp_path / "hub/a.png")}  # of its cache
    rows["train"] = datasets.Dataset.from_dict(first, features=rows["train"].features)
    (tmp_path / "names.json").write_text(json.dumps(LABELS), "utf-8")
    monkeypatch.setattr(datasets.config, "HF_CACHE_HOME", tmp_path / "hub")
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict(rows))
    monkeypatch.setattr(
        hub, "hf_hub_download", lambda name, file, repo_type: str(tmp_path / "names.json")
    )
    dataset = hf.load("owner/name")
    assert dataset.name == "owner/name" and dataset.class_names == ["road", "car"]
    assert [len(samples) for samples in dataset.splits.values()] == [5, 1]
    assert [mask.tolist() for _, mask in read(dataset)] == [CLASSES] * 6


def test_a_repository_that_cannot_be_had_says_what_to_do(datasets, monkeypatch):
    def refuse(name):
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub.")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(FileNotFoundError, match="Couldn't reach.*hf download.*--local-dir FOLDER"):
        hf.load("owner/name")


STRANGE = (None, -1, 1e308, "x", [], {}, [[[[1]]]], True, "../a", "\0", "\ud800", "a" * 5000)


def test_mutations_give_a_result_or_an_error_of_the_file(folder, count=200):
    rows = add_pairs(folder, ["1", "2", "10"])
    text = {s: write(folder, rows, s).read_bytes() for s in ("csv", "jsonl")}
    labels = json.dumps(LABELS).encode()
    mask = (folder / "masks/1.png").read_bytes()
    rng = random.Random(0)

    def flip(data):
        data = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.2 else data)

    for _ in range(count):
        for suffix in text:
            (folder / f"metadata.{suffix}").unlink(missing_ok=True)
        suffix, what = rng.choice(["csv", "jsonl"]), rng.randrange(4)
        content = flip(text[suffix]) if what == 0 else text[suffix]
        if what == 1:
            changed = [dict(row) for row in rows]
            rng.choice(changed)[rng.choice(list(rows[0]))] = rng.choice(STRANGE)
            suffix = "jsonl"
            content = "".join(json.dumps(row) + "\n" for row in changed).encode()
        (folder / f"metadata.{suffix}").write_bytes(content)
        (folder / "id2label.json").write_bytes(flip(labels) if what == 2 else labels)
        (folder / "masks/1.png").write_bytes(flip(mask) if what == 3 else mask)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                found = read(hf.load(folder))
                assert all(m is None or set(np.unique(m)) <= {0, 1, 2, VOID} for _, m in found)
            except (ValueError, FileNotFoundError) as error:
                assert str(folder) in str(error), error
