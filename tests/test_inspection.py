"""What the inspection of a data set finds."""

import numpy as np
import pytest
from PIL import Image

from keras_sanet import datasets
from keras_sanet.cli import main
from keras_sanet.inspection import Inspection

SIZE = (24, 32)
STRIPES = np.repeat(np.arange(4, dtype="uint8"), 8)[None].repeat(24, 0)  # four classes, 8 columns


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path)


@pytest.fixture
def root(tmp_path, rng):
    """Two training pairs and one for validation, all alright: four classes of equal share."""
    for split, stem in (("train", "a"), ("train", "b"), ("val", "c")):
        save(tmp_path / f"images/{split}/{stem}.png", rng.integers(0, 256, (*SIZE, 3), "uint8"))
        save(tmp_path / f"masks/{split}/{stem}.png", STRIPES)
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\ntree\n", "utf-8")
    return tmp_path


def inspect(root):
    return Inspection(datasets.load("folder", root))


def test_a_sound_set_has_no_problem(root):
    found = inspect(root)
    assert (found.problems, found.notes) == ([], [])
    assert str(found).endswith("training would be safe.")


def test_pixels_are_counted_by_class_with_void_last(root):
    mask = STRIPES.copy()
    mask[:, 8:16] = 255
    save(root / "masks/train/a.png", mask)
    # 24 x 8 = 192 pixels a stripe; one of two masks has void for class 1.
    assert inspect(root).pixels["train"].tolist() == [384, 192, 384, 384, 192]


def test_an_unknown_id_is_named_with_its_files(root):
    mask = STRIPES.copy()
    mask[3, 3] = 77
    save(root / "masks/val/c.png", mask)
    (problem,) = inspect(root).problems
    assert "val: the id 77 is no class" in problem and "c.png" in problem and "0..3, 255" in problem


def test_ids_that_are_one_too_high_are_told(root):
    for path in (root / "masks").rglob("*.png"):
        save(path, STRIPES + 1)
    found = [problem for problem in inspect(root).problems if "look one too high" in problem]
    assert len(found) == 2  # in both splits


def test_ids_that_are_one_too_low_are_told(root):
    # "void" takes the id 0, so that classes are 1..4 and the stripes' 0 would be void; 255 is
    # what this reader does not know.
    dataset = datasets.load("folder", root)
    dataset = datasets.Dataset(
        "flat",
        dataset.class_names,
        dataset.palette,
        dataset.splits,
        {0: 255, **{i + 1: i for i in range(4)}},
    )
    mask = STRIPES.copy()
    mask[0] = 255
    save(root / "masks/train/a.png", mask)
    assert any("one too low" in problem for problem in Inspection(dataset).problems)


def test_masks_that_were_interpolated_are_told(root):
    wide = Image.fromarray((60 * STRIPES).astype("uint8"))
    blended = np.asarray(wide.resize((97, 71), Image.Resampling.BILINEAR))
    (root / "classes.txt").write_text("c\n" * 200, "utf-8")
    save(root / "images/train/a.png", np.zeros((71, 97, 3), "uint8"))
    save(root / "masks/train/a.png", blended)
    (problem,) = inspect(root).problems
    assert "resized with interpolation" in problem and "a.png" in problem


def test_masks_resized_by_nearest_neighbour_are_not(root):
    nearest = Image.fromarray(STRIPES).resize((97, 71), Image.Resampling.NEAREST)
    save(root / "images/train/a.png", np.zeros((71, 97, 3), "uint8"))
    save(root / "masks/train/a.png", nearest)
    assert inspect(root).problems == []


def test_an_image_in_both_splits_is_a_problem_whatever_its_file(root):
    Image.open(root / "images/train/b.png").save(root / "images/val/c.bmp")
    (root / "images/val/c.png").unlink()
    (problem,) = inspect(root).problems
    assert "the same image in train and val" in problem
    assert "b.png" in problem and "c.bmp" in problem


def test_an_image_twice_in_a_split_is_a_note(root):
    Image.open(root / "images/train/b.png").save(root / "images/train/a.png")
    found = inspect(root)
    assert found.problems == [] and "the same image in train" in found.notes[0]


def broken_sizes(root):
    save(root / "masks/train/a.png", STRIPES[:10])


def broken_colours(root):
    save(root / "masks/train/a.png", np.full((*SIZE, 3), (1, 2, 3), "uint8"))


def broken_mask(root):
    path = root / "masks/train/a.png"
    path.write_bytes(path.read_bytes()[:60])


def broken_image(root):
    path = root / "images/train/a.png"
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (broken_sizes, "differ in size"),
        (broken_colours, "is a mask in colors"),
        (broken_mask, "masks/train/a.png can't be read"),
        (broken_image, "images/train/a.png can't be read"),
    ],
)
def test_a_broken_sample_is_a_problem_that_names_the_file(root, break_it, text):
    break_it(root)
    (problem,) = inspect(root).problems
    assert text in problem and "a.png" in problem


def test_a_palette_is_a_note(root):
    image = Image.fromarray(STRIPES).convert("P")
    image.putpalette([0] * 768)
    save(root / "masks/val/c.png", image)
    found = inspect(root)
    assert found.problems == [] and "1 masks have a palette" in found.notes[0]


def test_a_class_that_never_occurs_is_a_note(root):
    (root / "classes.txt").write_text("sky\nroad\ncar\ntree\nboat\n", "utf-8")
    notes = inspect(root).notes
    assert len(notes) == 2 and all("never occur: boat" in note for note in notes)


def test_another_count_than_the_official_one_is_a_note(root):
    dataset = datasets.load("folder", root)
    dataset.counts = {"train": 5, "val": 1}
    assert Inspection(dataset).notes == ["train: 2 samples, officially 5: is it complete?"]


def test_class_weights_are_median_frequencies(root):
    mask = STRIPES.copy()
    mask[:, 8:] = 0  # class 0 alone
    save(root / "masks/train/a.png", mask)
    # Of 768 pixels a mask: class 0 has 768 + 192 of 1536, the others 192 of the 768 that show them.
    # Frequencies 0.625, 0.25, 0.25, 0.25: median 0.25.
    assert inspect(root).class_weights() == pytest.approx([0.4, 1, 1, 1])


def test_a_class_that_never_occurs_weighs_0(root):
    (root / "classes.txt").write_text("sky\nroad\ncar\ntree\nboat\n", "utf-8")
    assert inspect(root).class_weights() == pytest.approx([1, 1, 1, 1, 0])


def test_the_sheet_shows_image_and_overlay_side_by_side(root):
    page = inspect(root).sheet(rows=2, width=64)
    assert page.width == 128 and page.height > 2 * 48


def test_the_command_exits_with_0_and_writes_the_sheet(root, capsys, tmp_path):
    code = main(["inspect", "folder", "--data", str(root), "--sheet", str(tmp_path / "s.png")])
    assert code == 0 and (tmp_path / "s.png").is_file()
    assert "training would be safe" in capsys.readouterr().out


def test_the_command_exits_with_1_after_a_problem(root, capsys):
    broken_mask(root)
    assert main(["inspect", "folder", "--data", str(root)]) == 1
    assert "PROBLEM: train: " in capsys.readouterr().out


def test_the_data_sets_are_listed_with_terms_and_source(capsys):
    assert main(["datasets"]) == 0
    text = capsys.readouterr().out
    for info in datasets.infos():
        assert info.title in text and info.url in text and info.license in text


def replace_masks(root, mask):
    for path in (root / "masks").rglob("*.png"):
        save(path, mask)


def test_a_class_of_one_pixel_between_two_others_is_a_note(root):
    mask = np.zeros(SIZE, "uint8")
    mask[4:20, 4:28], mask[5:19, 5:27] = 1, 2
    replace_masks(root, mask)
    found = inspect(root)
    assert found.problems == [] and any("one pixel wide" in note for note in found.notes)


def test_a_binary_mask_of_0_and_255_is_a_problem(root):
    replace_masks(root, np.where(STRIPES > 1, 255, 0).astype("uint8"))
    problems = inspect(root).problems
    assert len(problems) == 2 and all("holds 0 and 1" in problem for problem in problems)


def test_masks_of_0_and_255_among_those_of_0_and_1_are_a_note(root):
    (root / "classes.txt").write_text("sky\nroad\n", "utf-8")
    replace_masks(root, (STRIPES > 1).astype("uint8"))
    save(root / "masks/train/a.png", np.where(STRIPES > 1, 255, 0).astype("uint8"))
    found = inspect(root)
    assert found.problems == []
    assert any("train: 1 masks hold 0 and 255 alone" in note for note in found.notes)


def test_a_set_of_one_class_is_a_problem_with_the_way_out(root):
    (root / "classes.txt").write_text("road\n", "utf-8")
    replace_masks(root, np.zeros(SIZE, "uint8"))
    (problem,) = inspect(root).problems
    assert "one class, road" in problem and "background" in problem


def test_images_that_are_turned_are_a_note(root, rng):
    exif = Image.Exif()
    exif[0x0112] = 3
    path = root / "images/train/a.png"
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), "uint8")).save(path, exif=exif)
    found = inspect(root)
    assert found.problems == []
    (note,) = found.notes
    assert "train: 1 images are turned" in note and "a.png" in note


def test_a_mask_of_the_image_as_it_is_stored_is_a_problem_that_names_the_orientation(root, rng):
    exif = Image.Exif()
    exif[0x0112] = 8
    path = root / "images/train/a.png"
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), "uint8")).save(path, exif=exif)
    (problem,) = inspect(root).problems
    assert "differ in size" in problem and "orientation, 8" in problem


def test_an_image_of_several_pictures_is_a_note(root, rng):
    pictures = [Image.fromarray(rng.integers(0, 256, (*SIZE, 3), "uint8")) for _ in range(2)]
    (root / "images/train/a.png").unlink()
    pictures[0].save(root / "images/train/a.tif", save_all=True, append_images=pictures[1:])
    found = inspect(root)
    assert found.problems == []
    (note,) = found.notes
    assert "train: 1 images hold several pictures" in note and "a.tif" in note


def test_a_stray_pixel_does_not_make_the_ids_one_off(root):
    mask = np.tile(STRIPES, (3, 1))
    mask[0, 0] = 4  # one of 2304
    for split, stem in (("train", "a"), ("train", "b")):
        save(root / f"images/{split}/{stem}.png", np.full((72, 32, 3), ord(stem), "uint8"))
        save(root / f"masks/{split}/{stem}.png", mask)
    (problem,) = inspect(root).problems
    assert "the id 4 is no class" in problem


def test_a_set_without_training_masks_is_a_problem(root):
    dataset = datasets.load("folder", root)
    dataset.splits = {"test": [datasets.Sample(s.image) for s in dataset.samples("train")]}
    assert Inspection(dataset).problems == ["There is no split train; there is: test."]


def test_an_empty_split_is_a_problem(root):
    dataset = datasets.load("folder", root)
    dataset.splits["val"] = []
    assert Inspection(dataset).problems == ["val: no sample."]


def test_weights_of_an_unknown_split_are_refused_with_the_known_ones(root):
    with pytest.raises(ValueError, match="'trian'.*train, val"):
        inspect(root).class_weights("trian")


def test_an_inspection_shows_itself_shortly_and_in_a_notebook_as_tables(root):
    (root / "classes.txt").write_text("<sky>\nroad\ncar\ntree\n", "utf-8")
    found = inspect(root)
    assert repr(found) == f"<Inspection of {root.name}: 0 problems, 0 notes>"
    shown = found._repr_html_()
    assert shown.count("<table>") == 2 and "&lt;sky&gt;" in shown and "<sky>" not in shown
    assert ">32x24 (2)</td>" in shown and shown.count(">25.00</td>") == 8
    assert "training would be safe." in shown
