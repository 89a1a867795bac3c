"""Sets of TensorFlow Datasets, prepared here by TFDS itself in both of its formats."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from keras_sanet import pipeline
from keras_sanet.datasets import tfds as reader

pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
tfds = pytest.importorskip("tensorflow_datasets", reason="TensorFlow Datasets is not installed")


def write(root, name, version, features, splits, file_format="tfrecord"):
    """A prepared set: splits are lists of examples, two a file."""
    folder = root / name / version
    folder.mkdir(parents=True)
    identity = tfds.core.DatasetIdentity(
        name=name.split("/")[0],
        version=tfds.core.Version(version),
        data_dir=str(folder),
        module_name="tests",
    )
    writer = tfds.core.SequentialWriter(
        tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features)),
        max_examples_per_shard=2,
        overwrite=False,
        file_format=file_format,
    )
    writer.initialize_splits(list(splits))
    writer.add_examples(splits)
    writer.close_all()
    return folder


def picture(height, width, channels):
    return tfds.features.Image(shape=(height, width, channels), encoding_format="png")


def pair(i, ids):
    """An image of the value i, and a mask of the ids in its rows."""
    mask = np.array(ids, "uint8")[:, None, None].repeat(3, 1)
    return np.full((len(ids), 3, 3), i, "uint8"), mask


def write_pets(root, **kwargs):
    """Five pairs for training and one for testing; pair i is 3 + i pixels high, 3 wide."""
    examples = []
    for i in range(6):
        image, mask = pair(i, [1, 2, 3, 1, 1, 1, 1, 1][: 3 + i])
        examples.append({"image": image, "segmentation_mask": mask, "file_name": f"{i}"})
    features = {
        "image": picture(None, None, 3),
        "segmentation_mask": picture(None, None, 1),
        "file_name": tfds.features.Text(),
    }
    splits = {"train": examples[:5], "test": examples[5:]}
    return write(root, "oxford_iiit_pet", "4.0.0", features, splits, **kwargs)


def write_mine(root, name="mine", mask=None, image=None, **kwargs):
    """A set that TFDS doesn't know: two pairs for validation, of the ids 0, 5 and 255."""
    features = {"photo": image or picture(3, 3, 3), "ids": mask or picture(3, 3, 1)}
    photo, ids = pair(7, [0, 5, 255])
    splits = {"validation": [{"photo": photo, "ids": ids}] * 2}
    return write(root, name, "1.0.0", features, splits, **kwargs)


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def pet_root(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    write_pets(root, file_format=request.param)
    return root


@pytest.fixture
def mine(tmp_path):
    write_mine(tmp_path)
    return tmp_path


def load_mine(root, **kwargs):
    arguments = {"image_key": "photo", "mask_key": "ids", "class_names": ["road", "car"]}
    return reader.load("mine", data_dir=root, **{**arguments, **kwargs})


# What is read


def test_pets_have_three_classes_from_the_ids_1_to_3(pet_root):
    dataset = reader.load("oxford_iiit_pet", data_dir=pet_root)
    assert dataset.class_names == ["pet", "background", "border"]
    image, mask = dataset.read(dataset.samples("train")[0])
    assert (image.shape, image.dtype) == ((3, 3, 3), "uint8")
    assert mask.tolist() == [[0] * 3, [1] * 3, [2] * 3]


def test_samples_are_read_in_any_order(pet_root):
    dataset = reader.load("oxford_iiit_pet", data_dir=pet_root)
    samples = dataset.samples("train")
    # Pair i is grey of the value i, 3 + i pixels high.
    for i in (4, 0, 3, 1, 2):
        image, mask = dataset.read(samples[i])
        assert (image[0, 0, 0], image.shape[0], mask.shape) == (i, 3 + i, (3 + i, 3))
    assert dataset.read(dataset.samples("test")[0])[0][0, 0, 0] == 5


def test_sizes_are_those_of_the_pictures(pet_root):
    dataset = reader.load("oxford_iiit_pet", data_dir=pet_root)
    assert dataset.sizes("train") == [(3, 3), (4, 3), (5, 3), (6, 3), (7, 3)]


@pytest.mark.parametrize("loader", ["tf.data", "pillow"])
def test_batches_are_made_of_it(pet_root, loader):
    dataset = reader.load("oxford_iiit_pet", data_dir=pet_root)
    batches = pipeline.make_dataset(dataset, "train", crop_size=2, batch_size=5, loader=loader)
    images, masks = next(iter(batches)) if loader == "tf.data" else batches[0]
    assert (images.shape, masks.shape) == ((5, 2, 2, 3), (5, 2, 2))


def test_pictures_are_named_by_split_and_number(mine):
    dataset = load_mine(mine, class_ids={0: 0, 5: 1, 255: 255})
    assert [sample.image.stem for sample in dataset.samples("val")] == ["val-00000", "val-00001"]


def test_the_split_validation_is_val(mine):
    assert list(load_mine(mine).splits) == ["val"]


def test_names_of_splits_are_plain_strings(pet_root):
    splits = reader.load("oxford_iiit_pet", data_dir=pet_root).splits
    assert repr(sorted(splits)) == "['test', 'train']"


def test_ids_are_mapped_as_given(mine):
    dataset = load_mine(mine, class_ids={0: 1, 5: 0, 255: 255})
    mask = dataset.read(dataset.samples("val")[0])[1]
    assert mask.tolist() == [[1] * 3, [0] * 3, [255] * 3]


def test_an_id_that_is_no_class_is_refused_with_the_record(mine):
    dataset = load_mine(mine)  # ids 0, 1 and 255
    with pytest.raises(ValueError, match=r"mine.1\.0\.0 \[val-00001, ids\].*\[5\].*0\.\.1, 255"):
        dataset.read(dataset.samples("val")[1])


def test_a_palette_is_taken_or_made(mine):
    assert load_mine(mine, palette=[(1, 2, 3), (4, 5, 6)]).palette == [(1, 2, 3), (4, 5, 6)]
    assert load_mine(mine).palette == [(128, 0, 0), (0, 128, 0)]  # ids 1 and 2 of Pascal VOC


def test_cityscapes_has_its_19_classes_and_no_masks_for_testing(tmp_path):
    wide = np.zeros((1024, 2048, 1), "uint8")
    wide[:, 1:3, 0] = 7, 33
    example = {"image_left": wide.repeat(3, 2), "segmentation_label": wide}
    features = {key: picture(*array.shape) for key, array in example.items()}
    name = "cityscapes/semantic_segmentation"
    write(tmp_path, name, "1.0.0", features, {"validation": [example], "test": [example]})
    dataset = reader.load(name, data_dir=tmp_path)
    mask = dataset.read(dataset.samples("val")[0])[1]
    assert mask[9, :4].tolist() == [255, 0, 18, 255]  # 7 road, 33 bicycle, 0 void
    assert dataset.class_names[18] == "bicycle"
    assert dataset.samples("test")[0].mask is None


def test_data_that_tfds_mocks_is_read(mine):
    with tfds.testing.mock_data(num_examples=4, data_dir=str(mine)):
        dataset = load_mine(mine, class_ids={i: i % 2 for i in range(256)})
        pairs = [dataset.read(sample) for sample in dataset.samples("val")]
    assert len(pairs) == 4
    assert {i for _, mask in pairs for i in mask.ravel().tolist()} == {0, 1}


# What is refused


def test_scene_parse150_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match='instances.*load."ade20k", root.'):
        reader.load("scene_parse150")


def test_without_keys_the_features_of_a_set_are_named(mine):
    with pytest.raises(ValueError, match=r"`image_key`.*'mine'.*ids \(Image\), photo \(Image\)"):
        reader.load("mine", data_dir=mine)


@pytest.mark.parametrize("key", ["masks", "file_name"], ids=["absent", "no picture"])
def test_a_feature_that_is_no_picture_is_refused(pet_root, key):
    with pytest.raises(ValueError, match=f"`mask_key`.*mask_key='{key}'"):
        reader.load("oxford_iiit_pet", data_dir=pet_root, mask_key=key)


def test_class_names_are_required_for_an_unknown_set(mine):
    with pytest.raises(ValueError, match="`class_names` of 'mine'"):
        load_mine(mine, class_names=None)


@pytest.mark.parametrize("wrong", [{"class_ids": {0: 2}}, {"palette": [(0, 0, 0)]}])
def test_ids_and_colours_must_fit_the_names(mine, wrong):
    with pytest.raises(ValueError, match="Received: 2 names"):
        load_mine(mine, **wrong)


def test_a_truncated_file_is_named(tmp_path):
    folder = write_pets(tmp_path)
    file = sorted(folder.glob("*train*"))[1]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{file.name} is truncated"):
        reader.load("oxford_iiit_pet", data_dir=tmp_path)


def test_records_that_are_missing_are_counted(tmp_path):
    folder = write_pets(tmp_path)
    file = sorted(folder.glob("*train*"))[0]  # of two
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="holds 3 records of 'train', not 5"):
        reader.load("oxford_iiit_pet", data_dir=tmp_path)


def test_a_picture_that_is_none_is_named(tmp_path):
    jpeg = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), "uint8")).save(jpeg, "jpeg")
    (tmp_path / "cut.jpg").write_bytes(jpeg.getvalue()[:300])
    features = {"photo": tfds.features.Image(encoding_format="jpeg"), "ids": picture(64, 64, 1)}
    example = {"photo": str(tmp_path / "cut.jpg"), "ids": np.zeros((64, 64, 1), "uint8")}
    write(tmp_path, "mine", "1.0.0", features, {"train": [example]})
    dataset = load_mine(tmp_path)
    with pytest.raises(ValueError, match=r"\[train-00000, photo\] can't be read as an image"):
        dataset.read(dataset.samples("train")[0])


@pytest.mark.parametrize("package", ["tensorflow", "tensorflow_datasets"])
def test_a_package_that_is_not_installed_is_named_with_the_way_out(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)  # what Python takes for absent
    with pytest.raises(ImportError, match=rf"{package}.*keras-sanet\[tensorflow\]"):
        reader.load("oxford_iiit_pet")
