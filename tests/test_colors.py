"""Masks in colors, files of classes, and where images and masks lie in a folder of one's own."""

import numpy as np
import pytest
from PIL import Image

from keras_sanet import datasets
from keras_sanet.datasets import class_files
from keras_sanet.datasets.files import FileError
from keras_sanet.inspection import Inspection

COLORS = np.array([(60, 16, 152), (132, 41, 246), (110, 193, 228)], "uint8")
CLASSES = "building,60,16,152\nland,132,41,246\nvoid,110,193,228\n"
IDS = np.array([[0, 0, 1, 1], [2, 2, 2, 0], [1, 0, 2, 2]], "uint8")
TRUTH = np.where(IDS == 2, 255, IDS)


@pytest.fixture
def root(tmp_path):
    """A folder of one image, whose mask is to be written."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    Image.new("RGB", (4, 3)).save(tmp_path / "images/a.jpg")
    (tmp_path / "classes.txt").write_text(CLASSES)
    return tmp_path


def read(root, mask=None, **options):
    """The mask that is read of an array or Pillow image."""
    if mask is not None:
        mask = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        mask.save(root / "masks/a.png")
    dataset = datasets.load("folder", root, **options)
    return dataset.read(dataset.samples("train")[0])[1]


# Colors


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_mask_in_the_colors_of_the_classes_gives_their_ids(root, mode):
    np.testing.assert_array_equal(read(root, Image.fromarray(COLORS[IDS]).convert(mode)), TRUTH)


def test_a_palettes_colors_count_and_not_its_indexes(root):
    image = Image.fromarray(2 - IDS).convert("P")
    image.putpalette(COLORS[::-1].tobytes())
    np.testing.assert_array_equal(read(root, image), TRUTH)


def test_a_palette_of_other_colors_gives_its_indexes(root):
    image = Image.fromarray(IDS).convert("P")
    image.putpalette([7] * 768)
    np.testing.assert_array_equal(read(root, image), TRUTH)


def test_a_palette_with_one_color_for_several_indexes_gives_its_indexes(root):
    image = Image.fromarray(IDS).convert("P")
    image.putpalette([0, 0, 0, *COLORS[0].tolist() * 255])
    np.testing.assert_array_equal(read(root, image), TRUTH)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("classes", [CLASSES, "building\nland\nvoid\n"])
def test_a_gray_mask_gives_its_ids_in_whatever_mode_it_was_saved(root, mode, classes):
    (root / "classes.txt").write_text(classes)
    np.testing.assert_array_equal(read(root, Image.fromarray(IDS).convert(mode)), TRUTH)


def test_gray_colors_of_all_classes_are_taken_of_a_gray_mask(root):
    (root / "classes.txt").write_text("road,128,128,128\nsky,255,255,255\nwall,0,0,0\n")
    np.testing.assert_array_equal(read(root, np.array([128, 255, 0], "uint8")[IDS]), IDS)


def test_a_color_of_no_class_is_named_with_its_share_and_the_nearest_class(root):
    mask = COLORS[IDS]
    mask[0, 0] = (61, 16, 150)
    with pytest.raises(FileError) as error:
        read(root, mask)
    text = str(error.value)
    assert "masks/a.png" in text and "(61, 16, 150) in 8.33% of the pixels" in text
    assert "nearest: building (60, 16, 152)" in text and "`tolerance`" in text


def test_a_color_of_no_class_in_a_palette_is_named(root):
    image = Image.fromarray(IDS).convert("P")
    image.putpalette([*COLORS[1::-1].ravel().tolist(), 9, 9, 9])
    with pytest.raises(FileError, match=r"\(9, 9, 9\) in 41.67% of the pixels"):
        read(root, image)


def test_near_black_is_no_id_where_black_is_another_class(root):
    (root / "classes.txt").write_text("road,9,8,7\nsky,4,5,6\nwall,0,0,0\n")
    mask = np.zeros((3, 4, 3), "uint8")
    mask[0, 0] = 1
    with pytest.raises(FileError, match=r"\(1, 1, 1\) in 8.33%"):
        read(root, mask)


def test_antialiased_edges_are_named_as_such(root):
    mask = COLORS[IDS].astype(int)
    mask[0, 1] = mask[0, 1:3].mean(0)
    with pytest.raises(FileError, match="antialiased edges.*without antialiasing"):
        read(root, mask.astype("uint8"))


def test_a_color_within_the_tolerance_is_that_of_the_nearest_class(root):
    mask = (COLORS[IDS].astype(int) + np.indices(IDS.shape).sum(0)[..., None]).clip(0, 255)
    np.testing.assert_array_equal(read(root, mask.astype("uint8"), tolerance=5), TRUTH)
    with pytest.raises(FileError, match="no class's"):
        read(root, tolerance=4)


def test_a_jpeg_mask_needs_a_tolerance(root):
    mask = np.kron(COLORS[IDS], np.ones((16, 16, 1), "uint8"))
    Image.new("RGB", mask.shape[1::-1]).save(root / "images/a.jpg")
    Image.fromarray(mask).save(root / "masks/a.jpg", quality=98, subsampling=0)
    with pytest.raises(FileNotFoundError, match="lossy"):
        read(root)
    np.testing.assert_array_equal(
        read(root, tolerance=40), np.kron(TRUTH, np.ones((16, 16), "uint8"))
    )


def test_colors_without_a_file_that_says_whose_are_refused(root):
    (root / "classes.txt").write_text("building\nland\n")
    with pytest.raises(FileError, match="no file gives the colors of the classes"):
        read(root, COLORS[IDS])


def test_a_tolerance_is_a_difference_of_channels(root):
    read(root, IDS)
    with pytest.raises(ValueError, match="`tolerance` must be from 0 to 255. Received: 256"):
        datasets.load("folder", root, tolerance=256)


def test_a_cache_is_of_the_colors_that_the_mask_was_read_by(root, tmp_path):
    cache = tmp_path / "cache"
    Image.fromarray(COLORS[IDS]).save(root / "masks/a.png")
    for classes, truth in ((CLASSES, TRUTH), ("void,60,16,152\na,132,41,246\nb,110,193,228", None)):
        (root / "classes.txt").write_text(classes)
        dataset = datasets.load("folder", root, cache=cache)
        truth = np.array([255, 0, 1], "uint8")[IDS] if truth is None else truth
        np.testing.assert_array_equal(dataset.read(dataset.samples("train")[0])[1], truth)


@pytest.mark.parametrize("seed", range(20))
def test_random_colors_are_read_as_a_search_among_them_does(root, seed):
    rng = np.random.default_rng(seed)
    colors = rng.choice(2**24, 255, replace=False)
    colors = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], -1).astype("uint8")
    lines = [f"c{i},{r},{g},{b}" for i, (r, g, b) in enumerate(colors.tolist())]
    (root / "classes.txt").write_text("\n".join(lines))
    ids = rng.integers(0, 255, (30, 41)).astype("uint8")
    Image.new("RGB", (41, 30)).save(root / "images/a.jpg")
    np.testing.assert_array_equal(read(root, colors[ids]), ids)


def add(root, name, mask):
    Image.new("RGB", (4, 3)).save(root / f"images/{name}.jpg")
    Image.fromarray(mask).save(root / f"masks/{name}.png")


def test_gray_masks_are_read_by_one_rule_in_the_whole_data_set(root):
    (root / "classes.txt").write_text("road,0,0,0\nsky,128,128,128\ncar,255,255,255\n")
    add(root, "b", np.array([0, 1, 255], "uint8")[IDS])  # ids, so 255 is void, here as there
    np.testing.assert_array_equal(
        read(root, np.array([0, 0, 255], "uint8")[IDS]), TRUTH // 255 * 255
    )


def test_an_id_mask_of_one_value_is_no_color_where_others_are_ids(root):
    (root / "classes.txt").write_text("road\nhouse\nother,0,0,0\n")
    add(root, "b", IDS)
    np.testing.assert_array_equal(read(root, IDS * 0), IDS * 0)


def test_a_black_mask_among_colored_ones_is_an_error(root):
    (root / "classes.txt").write_text("urban,0,255,255\nroad,255,0,0\n")
    add(root, "b", np.array([(0, 255, 255), (255, 0, 0)], "uint8")[IDS % 2])
    with pytest.raises(FileError, match=r"\(0, 0, 0\) in 100.00% of the pixels"):
        read(root, np.zeros((3, 4, 3), "uint8"))


def test_transparent_pixels_with_a_color_behind_are_refused(root):
    alpha = np.where(IDS == 1, 0, 255).astype("uint8")
    with pytest.raises(FileError, match="transparent pixels with a color behind. Flatten"):
        read(root, np.dstack([COLORS[IDS], alpha]))


def test_a_mask_of_floats_is_refused(root):
    Image.fromarray(IDS.astype("float32")).save(root / "masks/a.tif")
    with pytest.raises(FileError, match="mode 'F'"):
        read(root)


def test_a_gray_jpeg_is_read_by_gray_colors_within_the_tolerance(root):
    (root / "classes.txt").write_text("road,0,0,0\nsky,255,255,255\n")
    mask = np.kron(255 * (IDS > 0).astype("uint8"), np.ones((16, 16), "uint8"))
    Image.new("RGB", mask.shape[::-1]).save(root / "images/a.jpg")
    Image.fromarray(mask).save(root / "masks/a.jpg", quality=95)
    np.testing.assert_array_equal(read(root, tolerance=40), mask > 0)


# Two values


@pytest.mark.parametrize("classes", ["crack\n", "background\ncrack\n"])
@pytest.mark.parametrize("mode", ["L", "1"])
def test_masks_of_two_values_show_one_class_against_background(root, classes, mode):
    (root / "classes.txt").write_text(classes)
    mask = read(root, Image.fromarray(255 * (IDS > 0).astype("uint8")).convert(mode))
    np.testing.assert_array_equal(mask, IDS > 0)
    dataset = datasets.load("folder", root)
    assert dataset.class_names == ["background", "crack"]
    if mode == "L" or classes == "crack\n":
        assert "is crack: they hold these two values alone." in Inspection(dataset).notes[0]


def test_one_class_and_void_are_no_two_values(root):
    (root / "classes.txt").write_text("building,60,16,152\nvoid,132,41,246\n")
    ids = (IDS > 0).astype("uint8")
    np.testing.assert_array_equal(read(root, COLORS[ids]), 255 * ids)
    np.testing.assert_array_equal(read(root, ids), 255 * ids)
    assert datasets.load("folder", root).class_names == ["building"]


def test_a_mask_full_of_the_one_class_is_not_background(root):
    (root / "classes.txt").write_text("road,255,255,255\n")
    add(root, "b", 255 * (IDS > 0).astype("uint8"))
    np.testing.assert_array_equal(read(root, np.full(IDS.shape, 255, "uint8")), IDS * 0 + 1)


def test_a_rare_class_is_looked_for_in_all_masks(root):
    (root / "classes.txt").write_text("background\ncrack\n")
    for i in range(70):
        add(root, f"{i}", IDS * 0)
    add(root, "a", 255 * (IDS > 0).astype("uint8"))
    assert datasets.load("folder", root).class_ids == {0: 0, 255: 1}


def test_an_id_among_masks_of_two_values_is_an_error_that_says_how_they_were_taken(root):
    (root / "classes.txt").write_text("background\ncrack\n")
    for i in range(50):
        add(root, f"{i}", 255 * (IDS > 0).astype("uint8"))
    Image.fromarray((IDS > 0).astype("uint8")).save(root / "masks/29.png")
    Image.fromarray(IDS * 0).save(root / "masks/a.png")
    dataset = datasets.load("folder", root)
    sample = next(s for group in dataset.splits.values() for s in group if s.image.stem == "29")
    with pytest.raises(ValueError, match=r"29.png holds the label ids \[1\].*`binary=False`"):
        dataset.read(sample)
    assert datasets.load("folder", root, binary=False).read(sample)[1].max() == 1


def test_255_stays_void_where_masks_hold_three_values(root):
    (root / "classes.txt").write_text("road\ncar\n")
    values = np.array([0, 1, 255], "uint8")[IDS]
    np.testing.assert_array_equal(read(root, values), values)


# Files of classes


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "# mine\nroad, 1,2,3\nsky,4,5,6\nvoid,7,8,9\n"),
        ("class_dict.csv", "name, r, g, b\nroad,1,2,3\n\"sky\",4,5,6\nvoid,7,8,9\n"),
        ("label_colors.txt", "1 2 3\troad\n4\t5\t6\tsky\n7 8 9\tVoid\n"),
        ("labelmap.txt", "# label:color:parts:acts\nroad:1,2,3::\nsky:4,5,6::\nvoid:7,8,9::\n"),
    ],
)  # fmt: skip
def test_a_file_of_classes_gives_names_ids_and_colors(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert class_files.find(tmp_path) == [tmp_path / name]
    classes = class_files.read(tmp_path / name)
    assert classes.names == ["road", "sky"] and classes.palette == [(1, 2, 3), (4, 5, 6)]
    assert classes.ids == {0: 0, 1: 1, 2: 255, 255: 255}
    assert classes.colors == {(1, 2, 3): 0, (4, 5, 6): 1, (7, 8, 9): 2}


def test_a_quoted_name_may_hold_a_number_sign(tmp_path):
    (tmp_path / "class_dict.csv").write_text('"name","r","g","b"\n"C#",0,0,0\n"road",1,2,3\n')
    assert class_files.read(tmp_path / "class_dict.csv").names == ["C#", "road"]


def test_two_files_of_classes_that_differ_are_refused(root):
    (root / "labelmap.txt").write_text("road:1,2,3::\n")
    with pytest.raises(ValueError, match="classes.txt and .*labelmap.txt differ.* Keep the one"):
        datasets.load("folder", root)


def test_roboflows_file_gives_ids(tmp_path):
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\n0, background\n2, sky\n")
    classes = class_files.read(tmp_path / "_classes.csv")
    assert (classes.names, classes.ids) == (["background", "sky"], {0: 0, 2: 1, 255: 255})


def test_labels_without_a_color_have_one_of_their_own(tmp_path):
    (tmp_path / "labelmap.txt").write_text("road:::\nsky:4,5,6::\n")
    classes = class_files.read(tmp_path / "labelmap.txt")
    assert len(set(classes.palette)) == 2 and classes.colors == {(4, 5, 6): 1}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("classes.txt", "road,1,2\n", "'road,1,2' must be a name, or name,red,green,blue"),
        ("classes.txt", "road,1,2,256\n", "numbers in 0..255"),
        ("classes.txt", "a,1,2,3\nb,1,2,3\n", r"the color \(1, 2, 3\) to two classes, .* 'b'"),
        ("classes.txt", ",1,2,3\n", "the class of id 0 has no name"),
        ("classes.txt", "# none\n", "names no class"),
        ("class_dict.csv", "road,1,2,3\n", "its first line must be name,r,g,b"),
        ("labelmap.txt", "road\n", "as CVAT writes it"),
        ("classes.txt", "road;1;2;3\n", "and no header"),
        ("classes.txt", "name\nroad\n", "and no header"),
        ("label_colors.txt", "1 2\n", "must be red green blue name"),
        ("label_colors.txt", "road\n", "must be red green blue name"),
        ("class_dict.csv", f"name,r,g,b\n{'x' * 140_000},1,2,3\n", "is no CSV: field larger"),
        ("_classes.csv", "h\nx, road\n", "must be an id and a name"),
        ("_classes.csv", "h\n1, road\n1, sky\n", "names the id 1 twice"),
        ("_classes.csv", "h\n255, road\n", "255 being void"),
    ],
)
def test_a_line_that_is_no_class_is_named(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(FileError, match=message) as error:
        class_files.read(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


# Where images and masks lie


def write_pairs(folder, *names, suffix="_mask"):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (4, 3)).save(folder / f"{name}.jpg")
        Image.fromarray(IDS).save(folder / f"{name}{suffix}.png")


def names_of(dataset):
    return {
        split: [(s.image.name, s.mask.name) for s in samples]
        for split, samples in dataset.splits.items()
    }


def test_roboflows_masks_lie_beside_the_images_of_each_split(tmp_path):
    for split in ("train", "valid"):
        write_pairs(tmp_path / split, "a_jpg.rf.0f3b")
        (tmp_path / split / "_classes.csv").write_text(
            "Pixel Value, Class\n0, background\n1, road\n2, sky\n"
        )
    dataset = datasets.load("folder", tmp_path)
    pair = [("a_jpg.rf.0f3b.jpg", "a_jpg.rf.0f3b_mask.png")]
    assert names_of(dataset) == {"train": pair, "val": pair}
    assert dataset.class_names == ["background", "road", "sky"]


def test_splits_that_name_other_classes_are_refused(tmp_path):
    for split, name in (("train", "road"), ("valid", "sky")):
        write_pairs(tmp_path / split, "a")
        (tmp_path / split / "_classes.csv").write_text(f"Pixel Value, Class\n0, {name}\n")
    with pytest.raises(ValueError, match="differ, and must name the same classes"):
        datasets.load("folder", tmp_path)


@pytest.mark.parametrize("suffix", ["_mask", "", "_L", "_labelIds"])
def test_masks_may_lie_beside_the_images(tmp_path, suffix):
    write_pairs(tmp_path, "a", "b", suffix=suffix)
    (tmp_path / "classes.txt").write_text("road\nsky\ncar\n")
    names = names_of(datasets.load("folder", tmp_path))
    assert names["train"] == [("a.jpg", f"a{suffix}.png"), ("b.jpg", f"b{suffix}.png")]


def test_an_image_without_a_mask_beside_it_is_named_with_both_sides(tmp_path):
    write_pairs(tmp_path, "a", "b")
    (tmp_path / "b_mask.png").unlink()
    (tmp_path / "classes.txt").write_text("road\nsky\ncar\n")
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images.*b.jpg.*masks there are a_mask"):
        datasets.load("folder", tmp_path)


def test_splits_may_hold_images_and_masks(tmp_path):
    for split in ("train", "validation"):
        write_pairs(tmp_path / split / "images", "a")
        (tmp_path / split / "images/a_mask.png").rename(
            (tmp_path / split).joinpath("labels").mkdir() or tmp_path / split / "labels/a.png"
        )
    (tmp_path / "classes.txt").write_text("road\nsky\ncar\n")
    pair = [("a.jpg", "a.png")]
    assert names_of(datasets.load("folder", tmp_path)) == {"train": pair, "val": pair}


def test_splits_may_have_their_masks_in_a_folder_beside(tmp_path):
    for split in ("train", "val"):
        write_pairs(tmp_path / split, "a", suffix="_L")
        (tmp_path / f"{split}_labels").mkdir()
        (tmp_path / split / "a_L.png").rename(tmp_path / f"{split}_labels/a_L.png")
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nroad,1,2,3\nsky,4,5,6\ncar,7,8,9\n")
    pair = [("a.jpg", "a_L.png")]
    assert names_of(datasets.load("auto", tmp_path)) == {"train": pair, "val": pair}


@pytest.fixture
def cvat(tmp_path):
    """CVAT's "Segmentation mask 1.1" of two images, one in a sub-folder."""
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nnight/b\n")
    for name in ("a", "night/b"):
        image, mask = (
            tmp_path / f"JPEGImages/{name}.jpg",
            tmp_path / f"SegmentationClass/{name}.png",
        )
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(image)
        Image.fromarray(np.array([(0, 0, 0), (250, 50, 83), (9, 9, 9)], "uint8")[IDS]).save(mask)
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:250,50,83::\nsky:9,9,9::\n"
    )
    return tmp_path


def test_cvats_masks_are_read_by_their_colors(cvat):
    dataset = datasets.load("folder", cvat)
    assert names_of(dataset) == {"train": [("a.jpg", "a.png"), ("b.jpg", "b.png")]}
    np.testing.assert_array_equal(dataset.read(dataset.samples("train")[1])[1], IDS)


def test_cvats_masks_without_images_say_how_to_export_them(cvat):
    (cvat / "JPEGImages").rename(cvat / "elsewhere")
    with pytest.raises(FileNotFoundError, match="JPEGImages.*save images"):
        datasets.load("folder", cvat)


def test_an_empty_list_of_cvat_is_named(cvat):
    (cvat / "ImageSets/Segmentation/train.txt").write_text("")
    with pytest.raises(FileNotFoundError, match="train.txt lists no image"):
        datasets.load("folder", cvat)


def test_a_name_in_cvats_list_without_a_mask_is_named(cvat):
    (cvat / "SegmentationClass/a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 files.*SegmentationClass: 'a'"):
        datasets.load("folder", cvat)
