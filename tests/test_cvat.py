"""CVAT's XML of images: its shapes drawn as CVAT draws them, and masks written for it."""

import random
import re

import numpy as np
import pytest
from PIL import Image

from keras_sanet.datasets import cvat

SIZE = 40, 30
LABELS = (("car", "#ff0080", "any"), ("road", "#00ff00", "polygon"))
SQUARE = '<polygon label="car" source="manual" occluded="0" points="3,3;10,3;10,8;3,8" z_order="0">'
SQUARE += "\n    </polygon>"


def picture(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), "uint8")
    Image.fromarray(noise).save(path)


def image(name, *shapes, size=SIZE, subset=None):
    """`<image>` as CVAT writes it."""
    more = "" if subset is None else f' subset="{subset}" task_id="1"'
    return (
        f'  <image id="0" name="{name}"{more} width="{size[0]}" height="{size[1]}">\n    '
        + "\n    ".join(shapes)
        + "\n  </image>\n"
    )


def meta(labels=LABELS, kind="task"):
    found = "".join(
        f"<label><name>{name}</name><color>{color}</color><type>{kind}</type><attributes>"
        "</attributes></label>"
        for name, color, kind in labels
    )
    return f"<meta><{kind}><id>1</id><name>t</name><labels>{found}</labels></{kind}></meta>"


def add(root, *images, head=None):
    """`annotations.xml`, and the pictures that it names where none is there."""
    root.mkdir(parents=True, exist_ok=True)
    for found in images:
        for name in re.findall('<image id="0" name="([^"]+)"', found):
            if not (root / "images" / name).exists():
                picture(root / "images" / name)
    head = meta() if head is None else head
    text = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
    text += f"  {head}\n{''.join(images)}</annotations>\n"
    (root / "annotations.xml").write_text(text, "utf-8")


def box(label, left, top, right, bottom, **others):
    more = "".join(f' {name}="{value}"' for name, value in others.items())
    return (
        f'<box label="{label}" source="manual" occluded="0" xtl="{left:.2f}" ytl="{top:.2f}" '
        f'xbr="{right:.2f}" ybr="{bottom:.2f}"{more}>\n    </box>'
    )


def brush(label, mask, left, top, **others):
    """`<mask>` of a bool array, its runs counted one pixel at a time."""
    runs, value = [0], False
    for pixel in np.asarray(mask, bool).ravel():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    values = {"rle": ", ".join(map(str, runs)), "left": left, "top": top,
              "width": mask.shape[1], "height": mask.shape[0]} | others  # fmt: skip
    more = "".join(f' {name}="{value}"' for name, value in values.items())
    return f'<mask label="{label}" source="manual" occluded="0"{more}>\n    </mask>'


def only(dataset):
    """The mask of the one sample."""
    (sample,) = [s for samples in dataset.splits.values() for s in samples]
    return dataset.read(sample)[1]


def test_a_polygon_has_the_pixels_whose_centers_lie_inside(tmp_path):
    add(tmp_path, image("a.png", SQUARE))
    dataset = cvat.load(tmp_path)
    mask = only(dataset)
    assert dataset.class_names == ["background", "car", "road"]
    assert dataset.palette == [(0, 0, 0), (255, 0, 128), (0, 255, 0)]
    assert mask[3:8, 3:10].all() and mask.sum() == 35


@pytest.mark.parametrize("kind", ["task", "project", "job"])
def test_labels_are_those_of_a_task_a_project_or_a_job(tmp_path, kind):
    add(tmp_path, image("a.png"), head=meta(kind=kind))
    assert cvat.load(tmp_path).class_names == ["background", "car", "road"]


def test_without_a_list_of_labels_they_are_those_found(tmp_path):
    add(tmp_path, image("a.png", box("tree", 0, 0, 2, 2), SQUARE), head="")
    assert cvat.load(tmp_path).class_names == ["background", "car", "tree"]


def test_a_label_called_background_is_the_background(tmp_path):
    labels = (*LABELS, ("background", "#010203", "any"))
    add(tmp_path, image("a.png", SQUARE, box("background", 4, 4, 6, 6)), head=meta(labels))
    dataset = cvat.load(tmp_path)
    assert dataset.class_names == ["car", "road", "background"]
    assert dataset.palette[2] == (1, 2, 3)
    mask = only(dataset)
    assert (mask == 0).sum() == 35 - 4 and (mask == 2).sum() == 1200 - 31
    mask = only(cvat.load(tmp_path, background=None))
    assert (mask == 2).sum() == 4 and (mask == 255).sum() == 1200 - 35


def test_labels_of_kinds_without_an_area_are_no_classes(tmp_path):
    labels = (*LABELS, ("blurred", "#010203", "tag"), ("way", "#010204", "polyline"))
    add(tmp_path, image("a.png", SQUARE), head=meta(labels))
    assert cvat.load(tmp_path).class_names == ["background", "car", "road"]


def test_a_box_is_drawn_and_turned_clockwise_about_its_center(tmp_path):
    add(tmp_path, image("a.png", box("car", 10, 5, 30, 9)))
    flat = only(cvat.load(tmp_path))
    assert flat[5:9, 10:30].all() and flat.sum() == 80
    add(tmp_path, image("a.png", box("car", 10, 5, 30, 9, rotation="90.00")))
    assert only(cvat.load(tmp_path)).sum() == 17 * 4  # 3 rows are above the picture
    add(tmp_path, image("a.png", box("car", 10, 13, 30, 17, rotation="30.00")))
    mask = only(cvat.load(tmp_path))
    y, x = np.mgrid[:30, :40] + 0.5
    along = (x - 20) * np.cos(np.pi / 6) + (y - 15) * np.sin(np.pi / 6)
    across = -(x - 20) * np.sin(np.pi / 6) + (y - 15) * np.cos(np.pi / 6)
    depth = np.minimum(10 - abs(along), 2 - abs(across))
    assert mask[depth > 0.3].all() and not mask[depth < -0.3].any()


@pytest.mark.parametrize("angle", [0, 25, 340.5])
def test_an_ellipse_is_drawn_and_turned(tmp_path, angle):
    ellipse = (
        f'<ellipse label="car" cx="20.00" cy="15.00" rx="12.00" ry="5.00" rotation="{angle}"/>'
    )
    add(tmp_path, image("a.png", ellipse))
    mask = only(cvat.load(tmp_path))
    y, x = np.mgrid[:30, :40] + 0.5
    turn = np.radians(angle)
    along = (x - 20) * np.cos(turn) + (y - 15) * np.sin(turn)
    across = -(x - 20) * np.sin(turn) + (y - 15) * np.cos(turn)

    def inside(less):
        return (along / (12 - less)) ** 2 + (across / (5 - less)) ** 2 < 1

    assert mask[inside(0.3)].all() and not mask[~inside(-0.3)].any()


def test_a_mask_has_runs_row_by_row_in_its_box(tmp_path):
    part = np.random.default_rng(1).integers(0, 2, (6, 4)).astype(bool)
    for left, top in ((5, 7), (38, 27), (-2, -3)):
        add(tmp_path, image("a.png", brush("road", part, left, top)))
        canvas = np.zeros((50, 60), int)
        canvas[top + 10 : top + 16, left + 10 : left + 14] = 2 * part
        assert np.array_equal(only(cvat.load(tmp_path)), canvas[10:40, 10:50])


def test_a_higher_z_order_is_on_top_and_then_the_later_shape(tmp_path):
    shapes = [box("car", 0, 0, 10, 10, z_order=2), box("road", 0, 0, 10, 5, z_order=-1),
              box("road", 0, 5, 5, 10, z_order=2)]  # fmt: skip
    add(tmp_path, image("a.png", *shapes))
    mask = only(cvat.load(tmp_path))
    assert np.bincount(mask.ravel()).tolist() == [1100, 75, 25] and mask[9, 0] == 2


def test_a_picture_without_shapes_is_background(tmp_path):
    add(tmp_path, image("a.png"))
    dataset = cvat.load(tmp_path)
    assert not only(dataset).any() and not dataset.left_out


def test_subsets_are_the_splits(tmp_path):
    images = [image(f"{s}.png", SQUARE, subset=s) for s in ("Train", "Validation", "test", "odd")]
    add(tmp_path, *images)
    found = cvat.load(tmp_path).splits
    assert {split: [s.image.stem for s in ss] for split, ss in found.items()} == {
        "train": ["Train"], "val": ["Validation"], "test": ["test"], "odd": ["odd"]
    }  # fmt: skip


def test_pictures_lie_in_the_folder_of_their_subset(tmp_path):
    for subset in ("Train", "Test"):
        picture(tmp_path / f"images/{subset}/park/a.png")
    add(tmp_path, image("park/a.png", subset="Train"), image("park/a.png", subset="Test"))
    (tmp_path / "images/park/a.png").unlink()
    found = cvat.load(tmp_path).splits
    assert found["train"][0].image == tmp_path / "images/Train/park/a.png"
    assert found["test"][0].image == tmp_path / "images/Test/park/a.png"


def test_folders_of_pictures_called_train_and_val_are_splits(tmp_path):
    add(tmp_path, image("train/a.png"), image("val/a.png"))
    found = cvat.load(tmp_path).splits
    assert {split: len(samples) for split, samples in found.items()} == {"train": 1, "val": 1}


def test_without_splits_every_fifth_picture_is_val(tmp_path):
    add(tmp_path, *(image(f"{number}.png", subset="default") for number in range(11, -1, -1)))
    found = cvat.load(tmp_path).splits
    assert [s.image.stem for s in found["val"]] == ["4", "9"]
    assert len(found["train"]) == 10


@pytest.mark.parametrize("file", ["images/frame_000000.PNG", "frame_000000.png"])
def test_frames_of_a_video_have_names_without_a_suffix(tmp_path, file):
    picture(tmp_path / file)
    picture(tmp_path / "images/b.png")
    add(tmp_path, image("b.png"))
    text = (tmp_path / "annotations.xml").read_text("utf-8")
    (tmp_path / "annotations.xml").write_text(text.replace("b.png", "frame_000000"), "utf-8")
    assert cvat.load(tmp_path).samples("train")[0].image == tmp_path / file


def test_windows_separators_are_folders(tmp_path):
    picture(tmp_path / "images/park/a.png")
    add(tmp_path, image("park/a.png"))
    text = (tmp_path / "annotations.xml").read_text("utf-8").replace("park/", "park\\")
    (tmp_path / "annotations.xml").write_text(text, "utf-8")
    assert only(cvat.load(tmp_path)).shape == SIZE[::-1]


def test_what_is_not_drawn_is_reported_by_kind(tmp_path):
    shapes = [
        '<polyline label="road" points="1,1;5,5"/>', '<points label="car" points="1,1"/>',
        '<cuboid label="car" xtl1="1"/>', '<tag label="night" source="manual"/>',
        '<skeleton label="man"><points label="1" points="1,1"/></skeleton>',
        '<polygon label="car" points="1,1;2,2"/>', '<sphere label="car"/>', SQUARE,
    ]  # fmt: skip
    picture(tmp_path / "images/b.png")
    add(tmp_path, image("a.png", *shapes))
    dataset = cvat.load(tmp_path)
    assert dataset.left_out == {
        "polylines, which have no area": ["a.png: road"],
        "points, which have no area": ["a.png: car"],
        "cuboids, which have no area": ["a.png: car"],
        "tags, which have no area": ["a.png: night"],
        "skeletons, which have no area": ["a.png: man"],
        "shapes of fewer than three points": ["a.png: car"],
        "elements of unknown kinds": ["a.png: car"],
        "pictures that no annotation names": [tmp_path / "images/b.png"],
    }
    assert only(dataset).sum() == 35


def test_the_size_of_a_turned_picture_is_the_upright_one(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "images/a.jpg", exif=exif)
    add(tmp_path, image("a.jpg", SQUARE))
    assert only(cvat.load(tmp_path))[3:8, 3:10].all()


def test_a_picture_of_another_size_is_named(tmp_path):
    add(tmp_path, image("a.png", SQUARE, size=(41, 30)))
    with pytest.raises(ValueError, match=r"a.png.*differ in size.*\(40, 30\) and \(41, 30\)"):
        only(cvat.load(tmp_path))


def test_tracks_of_a_video_are_refused_with_the_way_out(tmp_path):
    track = '<track id="0" label="car"><box frame="0" xtl="1" ytl="1" xbr="2" ybr="2"/></track>'
    add(tmp_path, track)
    with pytest.raises(ValueError, match='Export the task as "CVAT for images 1.1"'):
        cvat.load(tmp_path)


def test_the_masks_of_cvat_are_read_too(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        Image.new("RGB", (4, 3), (1, 2, 3)).save(tmp_path / part / "a.png")
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\ncar:1,2,3::\n", "utf-8")
    dataset = cvat.load(tmp_path)
    assert set(dataset.read(dataset.samples("train")[0])[1].ravel()) == {1}


@pytest.mark.parametrize(
    "shape, said",
    [
        (box("car", 50, 3, 60, 9), r"shape 1 \(<box>, 'car'\): it lies outside"),
        (box("bus", 1, 1, 2, 2), "none of the classes: background, car, road"),
        (box("", 1, 1, 2, 2), "no label"),
        (box("car", 1, float("nan"), 2, 2), "`ytl` must be a number"),
        (box("car", 1, 1, 2, 1e300), "`ybr` must be a number"),
        (box("car", 1, 1, 2, 2, rotation="x"), "`rotation` must be a number"),
        (box("car", 1, 1, 2, 2, z_order="1e3"), "`z_order` must be an integer"),
        ('<box label="car"/>', "`xtl` must be a number of pixels, and is None"),
        ('<polygon label="car" points="1,2,3;4"/>', "`points` must be pairs"),
        ('<polygon label="car" points="1,a;1,2;2,2"/>', "`points` must be pairs"),
        ('<polygon label="car" points="1,1;inf,2;2,2"/>', "finite"),
        ('<ellipse label="car" cx="5" cy="5" rx="-1" ry="3"/>', "at least 0"),
        (brush("car", np.eye(3), 50, 3), "it lies outside"),
        (brush("car", np.eye(3), 5, 3, width=0), "`width` must be an integer from 1"),
        (brush("car", np.eye(3), 5, 3, width=10**6, height=10**6), "more than"),
        (brush("car", np.eye(3), "x", 3), "`left` must be an integer"),
        ('<mask label="car" left="1" top="1" width="2" height="2"/>', "no `rle`"),
    ],
)
def test_a_broken_shape_is_named(tmp_path, shape, said):
    add(tmp_path, image("a.png", shape))
    with pytest.raises(ValueError, match=rf"annotations.xml.*a.png.*{said}"):
        cvat.load(tmp_path)


@pytest.mark.parametrize("rle", ["1, 2", "", "1, x", "-1, 10", "9" * 5000, "1e3", f"{2**64}, 1"])
def test_broken_runs_are_named_when_the_mask_is_opened(tmp_path, rle):
    add(tmp_path, image("a.png", brush("car", np.eye(3), 5, 3, rle=rle)))
    dataset = cvat.load(tmp_path)
    with pytest.raises(ValueError, match=r"annotations.xml: .*'a.png': shape 1 \(<mask>, 'car'\)"):
        only(dataset)


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("a.png", "gone.png", "'gone.png' is not in .*images. Export the task with its images"),
        ("a.png", "../../outside.png", "must be a relative path"),
        ("a.png", "/etc/outside.png", "must be a relative path"),
        ("a.png", "C:\\outside.png", "must be a relative path"),
        ("a.png", "x" * 5000, "is not in"),
        ('name="a.png"', 'name=""', "'' must be a relative path"),
        ('width="40"', 'width="forty"', "`width` must be an integer from 1, and is 'forty'"),
        ('width="40"', 'width="999999999"', "pixels, more than"),
        ("#ff0080", "red", "the color of the label 'car'"),
        ("<annotations>", "<!DOCTYPE a><annotations>", "entities"),
        ("<annotations>", '<!ENTITY a "b"><annotations>', "entities"),
        ("</image>", "", "damaged"),
        ("annotations>", "opencv>", "begins with <opencv>"),
        ("image", "picture", "names no picture"),
    ],
)
def test_a_broken_file_is_named(tmp_path, old, new, said):
    add(tmp_path, image("a.png", SQUARE))
    path = tmp_path / "annotations.xml"
    path.write_text(path.read_text("utf-8").replace(old, new), "utf-8")
    with pytest.raises((ValueError, FileNotFoundError), match=f"annotations.xml.*{said}"):
        cvat.load(tmp_path)


def test_utf_16_which_could_hide_entities_is_refused(tmp_path):
    add(tmp_path, image("a.png"))
    text = (tmp_path / "annotations.xml").read_text("utf-8").replace("utf-8", "utf-16")
    (tmp_path / "annotations.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(ValueError, match="annotations.xml must be UTF-8"):
        cvat.load(tmp_path)


def test_two_pictures_of_one_name_are_refused(tmp_path):
    add(tmp_path, image("a.png"), image("a.png", SQUARE))
    with pytest.raises(ValueError, match="annotations.xml: there are two pictures .*a.png"):
        cvat.load(tmp_path)


VALUES = ["", "-1", "0", "1e308", "nan", "x", "9" * 400, "1_0", "٣", "../a", "1,2;3", "a,b", "None"]


def mutate(text, rng):
    """XML with an attribute, a tag, or some characters of it changed."""
    how = rng.randrange(7)
    attributes = list(re.finditer(r' (\w+)="([^"]*)"', text))
    if how < 3 and attributes:
        found = rng.choice(attributes)
        value = rng.choice(VALUES)
        new = (f' {found[1]}="{value}"', "", f' x{found[1]}="{found[2]}"')[how]
        return text[: found.start()] + new + text[found.end() :]
    start = rng.randrange(len(text) + 1)
    end = min(len(text), start + rng.randrange(30))
    if how == 3:
        return text[:start] + text[end:]
    if how == 4:
        return text[:start] + text[start:end] * 2 + text[end:]
    if how == 5:
        return text[:start] + "<a>" * rng.choice([1, 3000]) + text[start:]
    return text[:start] + rng.choice("<>&\0\"'é\x01;,9") + text[start + 1 :]


def test_damaged_files_give_a_result_or_an_error_that_names_them(tmp_path, count=200):
    rng = random.Random(4)
    shapes = [
        SQUARE, box("car", 1, 1, 9, 9, rotation="12.5", z_order="3"),
        '<ellipse label="road" cx="9" cy="8" rx="5" ry="3" rotation="3"/>',
        brush("road", np.eye(4), 3, 3), '<tag label="x"/>',
    ]  # fmt: skip
    add(tmp_path, image("a.png", *shapes), image("b.png", *shapes, subset="Train"))
    whole = (tmp_path / "annotations.xml").read_text("utf-8")
    refused = 0
    for number in range(count):
        text = whole
        for _ in range(rng.randint(1, 2)):
            text = mutate(text, rng)
        content = bytearray(text.encode())
        if number % 7 == 0:
            for _ in range(rng.randint(1, 4)):
                content[rng.randrange(len(content))] = rng.randrange(256)
        if number % 29 == 0:
            content = content[: rng.randrange(len(content))]
        (tmp_path / "annotations.xml").write_bytes(content)
        try:
            dataset = cvat.load(tmp_path)
            for samples in dataset.splits.values():
                for sample in samples:
                    dataset.open(sample)
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            assert "annotations.xml" in str(error), error
    assert 0 < refused < count
