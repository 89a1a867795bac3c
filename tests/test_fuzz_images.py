"""Broken files through the readers: what comes out is a picture, or an error that names the file.

`mutations(seed)` is endless, and the same for the same seed: a long campaign writes what it gives
and calls `check`.
"""

import io
import itertools
import random
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from keras_sanet import datasets
from keras_sanet.datasets import Dataset, Sample
from keras_sanet.datasets.cache import cached
from keras_sanet.datasets.files import frames, open_image, open_mask, read_image
from keras_sanet.inspection import Inspection
from keras_sanet.pipeline import make_dataset

SIZE = (12, 9)  # width and height of the whole pictures
PIXELS = 1 << 20  # of the largest picture that is decoded here
NUMBERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)  # fields


def _pictures():
    """Name of a file -> its bytes, whole."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (*SIZE[::-1], 3), dtype="uint8"))
    grey = Image.fromarray(rng.integers(0, 2, SIZE[::-1], dtype="uint8"))
    palette = grey.copy()
    palette.putpalette([0, 0, 0, 250, 10, 20])
    wide = Image.fromarray(rng.integers(0, 2, SIZE[::-1], dtype="uint16"))
    text, exif = PngImagePlugin.PngInfo(), Image.Exif()
    text.add_text("Comment", "x" * 200, zip=True)
    text.add_itxt("Title", "y" * 50)
    exif[0x0112], exif[0x010E] = 3, "a description"
    whole = {
        "grey.png": (grey, {}),
        "palette.png": (palette, {"transparency": 1}),
        "wide.png": (wide, {}),
        "bits.png": (grey.convert("1"), {}),
        "rgb.png": (rgb, {"pnginfo": text, "exif": exif, "icc_profile": bytes(range(150))}),
        "rgba.png": (rgb.convert("RGBA"), {}),
        "animated.png": (rgb, {"save_all": True, "append_images": [rgb.rotate(180), rgb]}),
        "rgb.jpg": (rgb, {"exif": exif, "icc_profile": bytes(range(150)), "comment": b"hello"}),
        "progressive.jpg": (rgb, {"progressive": True}),
        "cmyk.jpg": (rgb.convert("CMYK"), {}),
        "two.mpo": (rgb, {"save_all": True, "append_images": [rgb]}),
        "rgb.bmp": (rgb, {}),
        "palette.bmp": (palette, {}),
        "rgb.webp": (rgb, {"exif": exif}),
        "animated.webp": (rgb, {"save_all": True, "append_images": [rgb.rotate(180)]}),
        "rgb.tif": (rgb, {}),
        "lzw.tif": (rgb, {"compression": "tiff_lzw"}),
        "deflate.tif": (grey, {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (rgb, {"compression": "jpeg"}),
        "wide.tif": (wide, {}),
        "pages.tif": (rgb, {"save_all": True, "append_images": [grey, rgb]}),
        "palette.gif": (palette, {}),
        "animated.gif": (palette, {"save_all": True, "append_images": [grey, rgb]}),
    }
    kinds = {"jpg": "JPEG", "tif": "TIFF"}
    found = {}
    for name, (image, arguments) in whole.items():
        suffix = name.partition(".")[2]
        image.save(file := io.BytesIO(), kinds.get(suffix, suffix.upper()), **arguments)
        found[name] = file.getvalue()
    found["interlaced.png"] = _interlaced()
    return found


def _interlaced():
    """A grey PNG of 2 x 2 by Adam7, which Pillow can't write: passes 1, 6 and 7 have its pixels."""
    rows = b"\0\x01" + b"\0\x00" + b"\0\x01\x00"
    header = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 1)
    return png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def png(chunks):
    """A PNG of (kind, content), with right lengths and checksums."""
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in chunks:
        checksum = zlib.crc32(kind + content)
        parts.append(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum))
    return b"".join(parts)


def chunks(data):
    """The (kind, content) of a PNG, as far as it goes."""
    found, place = [], 8
    while place + 8 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        found.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return found


PICTURES = _pictures()


# Mutations: of bytes, by random.Random


def truncate(data, draw):
    return data[: draw.randrange(len(data))]


def flip(data, draw):
    data = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def set_field(data, draw):
    """A number of 1, 2 or 4 bytes, little or big first, as lengths and sizes are."""
    length, order = draw.choice((1, 2, 4)), draw.choice(("little", "big"))
    number = draw.choice(NUMBERS) % 256**length
    place = draw.randrange(max(1, min(len(data), draw.choice((64, 1 << 20))) - length))
    return data[:place] + number.to_bytes(length, order) + data[place + length :]


def cut_out(data, draw):
    start, stop = _span(data, draw)
    return data[:start] + data[stop:]


def repeat(data, draw):
    start, stop = _span(data, draw)
    return data[:stop] + data[start:stop] * draw.choice((1, 3)) + data[stop:]


def insert(data, draw):
    place = draw.randrange(len(data))
    return data[:place] + draw.randbytes(draw.choice((1, 4, 40))) + data[place:]


def append(data, draw):
    return data + draw.choice((draw.randbytes(50), b"\0" * 50, data))


def splice(data, draw):
    """The start of one picture and the end of another."""
    other = PICTURES[draw.choice(sorted(PICTURES))]
    return data[: draw.randrange(len(data))] + other[draw.randrange(len(other)) :]


def change_chunks(data, draw):
    """Chunks of a PNG in another order, missing, twice or changed, all with right checksums."""
    parts = chunks(data) if data.startswith(b"\x89PNG") else []
    if not parts:
        return flip(data, draw)
    index = draw.randrange(len(parts))
    kind, content = parts[index]
    what = draw.randrange(5)
    if what == 0:
        draw.shuffle(parts)
    elif what == 1:
        parts.pop(index)
    elif what == 2:
        parts.insert(draw.randrange(len(parts)), parts[index])
    elif content:
        parts[index] = kind, draw.choice((flip, set_field, truncate, insert))(content, draw)
    else:
        parts[index] = draw.choice(parts)[0], draw.randbytes(8)
    return png(parts)


def _span(data, draw):
    start = draw.randrange(len(data))
    return start, min(len(data), start + draw.choice((1, 4, 16, 100)))


MUTATIONS = (
    truncate, flip, set_field, cut_out, repeat, insert, append, splice, change_chunks, change_chunks
)  # fmt: skip


def mutations(seed, names=tuple(PICTURES)):
    """Endless (name, bytes) of broken pictures."""
    draw = random.Random(seed)
    for name in itertools.cycle(names):
        data = PICTURES[name]
        for _ in range(draw.choice((1, 1, 2, 3))):
            data = draw.choice(MUTATIONS)(data, draw) or b"\0"
        yield name, data


# What reads


def dataset_of(*samples):
    """Classes 0 and 1, and 255."""
    palette = [(0, 0, 0), (9, 9, 9)]
    return Dataset("broken", ["a", "b"], palette, {"train": list(samples)}, {0: 0, 1: 1, 255: 255})


def load_first(dataset, loader="pillow"):
    batches = make_dataset(
        dataset, "train", crop_size=8, batch_size=1, seed=0, drop_remainder=False, loader=loader
    )
    return batches[0] if loader == "pillow" else next(iter(batches))


def readers(path, whole, folder):
    """Name -> function without arguments that reads a file; `whole` is a good picture and mask."""
    broken = dataset_of(Sample(path, whole), Sample(whole, path))
    return {
        "open_image": lambda: open_image(path),
        "open_mask": lambda: open_mask(path),
        "read_image": lambda: read_image(path),
        "frames": lambda: [open_image(frame) for frame in frames(path)],
        "frames as masks": lambda: [open_mask(frame) for frame in frames(path)],
        "open an image": lambda: broken.open(broken.samples("train")[0]),
        "open a mask": lambda: broken.open(broken.samples("train")[1]),
        "sizes": lambda: broken.sizes("train"),
        "make_dataset": lambda: load_first(broken),
        "cached": lambda: cached(broken, folder).sizes("train"),
        "Inspection": lambda: str(Inspection(broken)),
    }


def check(path, whole, folder):
    """Reads a file in every way. Returns the ways that gave a picture.

    Any error must be a ValueError or OSError that names the file; warnings must be few.
    """
    passed = []
    for way, read in readers(path, whole, folder).items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                read()
                passed.append(way)
            except (ValueError, OSError) as error:
                assert str(path) in str(error), (way, error)
        kinds = {warning.category for warning in caught}
        assert ResourceWarning not in kinds, (way, [str(w.message) for w in caught])
        assert len(caught) < 100, (way, [str(warning.message) for warning in caught])
    return passed


# Pictures


@pytest.fixture(autouse=True)
def least_pixels(monkeypatch):
    """No whole picture here has more pixels than `PIXELS`."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", PIXELS)


@pytest.fixture
def whole(tmp_path):
    """A good picture, which is a good mask too."""
    return write(tmp_path / "whole.png", PICTURES["grey.png"])


def write(path, data):
    path.write_bytes(data)
    return path


def open_files():
    """How many files this process has open; 0 where the system does not say."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


@pytest.mark.parametrize("name", PICTURES)
def test_a_whole_picture_is_read(tmp_path, whole, name):
    passed = check(write(tmp_path / name, PICTURES[name]), whole, tmp_path / "cache")
    assert {"open_image", "frames"} <= set(passed) or {"open_mask", "frames as masks"} <= set(
        passed
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "mpo", "bmp", "webp", "tif", "gif"])
def test_a_broken_picture_is_read_or_named(tmp_path, whole, suffix):
    names = tuple(name for name in PICTURES if name.endswith(suffix))
    before, memory = open_files(), peak_memory()
    for name, data in itertools.islice(mutations(7, names), 60):
        check(write(tmp_path / f"broken-{name}", data), whole, tmp_path / "cache")
    assert open_files() == before
    assert peak_memory() - memory < 200  # MB: 2^20 pixels have 4


def peak_memory():
    """The most memory that this process ever had, in MB; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


@pytest.mark.parametrize("name", ["rgb.png", "rgb.jpg", "rgb.bmp", "rgb.webp", "lzw.tif"])
def test_a_picture_cut_off_anywhere_is_read_or_named(tmp_path, whole, name):
    data = PICTURES[name]
    for length in range(0, len(data), max(1, len(data) // 25)):
        check(write(tmp_path / f"cut-{name}", data[:length]), whole, tmp_path / "cache")


@pytest.mark.parametrize("number", [0, 1, 6, 2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("place", [0, 4])  # of the width, of the height
def test_a_png_of_a_false_size_is_read_or_named(tmp_path, whole, number, place):
    (kind, header), *others = chunks(PICTURES["rgb.png"])
    header = header[:place] + struct.pack(">I", number) + header[place + 4 :]
    path = write(tmp_path / "false.png", png([(kind, header), *others]))
    passed = check(path, whole, tmp_path / "cache")
    # Pillow reads what there is of rows that are too few.
    assert "open_image" not in passed or (place, number) in ((4, 1), (4, 6))


def animated(count):
    """A PNG of 3 frames that says that it has `count`."""
    said = {b"acTL": struct.pack(">II", count, 0)}
    parts = chunks(PICTURES["animated.png"])
    return png([(kind, said.get(kind, content)) for kind, content in parts])


def test_more_frames_than_a_file_can_hold_are_refused(tmp_path):
    path = write(tmp_path / "many.png", animated(2**31 - 1))
    with pytest.raises(ValueError, match="many.png can't be read .* 2147483647 frames"):
        frames(path)


def test_a_frame_that_is_not_there_is_named(tmp_path, whole):
    path = write(tmp_path / "nine.png", animated(9))
    *_, last = frames(path)
    before = open_files()
    with pytest.raises(ValueError, match=r"nine.png \[nine_8\] can't be read"):
        open_image(last)
    assert open_files() == before


def test_an_error_of_pillow_without_words_is_named_by_its_kind(tmp_path):
    parts = [part for part in chunks(PICTURES["palette.png"]) if part[0] != b"PLTE"]
    path = write(tmp_path / "colourless.png", png(parts))
    with pytest.raises(ValueError, match="colourless.png can't be read as an image: Assertion"):
        open_image(path)


@pytest.mark.parametrize("name", ["rgb.jpg", "grey.png"])
def test_the_suffix_of_a_picture_does_not_count(tmp_path, name):
    path = write(tmp_path / "wrong.bmp", PICTURES[name])
    assert read_image(path).shape == (*SIZE[::-1], 3)


def test_a_folder_in_place_of_a_picture_is_named(tmp_path, whole):
    (tmp_path / "folder.png").mkdir()
    assert check(tmp_path / "folder.png", whole, tmp_path / "cache") == [
        "Inspection"
    ]  # it lists it


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_a_text_that_swells_is_read_or_named_in_little_memory(tmp_path, whole, kind):
    swelling = zlib.compress(b"\0" * (100 << 20), 9)  # 100 MB in 100 kB
    head = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    header, *others = chunks(PICTURES["grey.png"])
    path = write(tmp_path / "bomb.png", png([header, (kind, head + swelling), *others]))
    memory = peak_memory()
    check(path, whole, tmp_path / "cache")
    assert peak_memory() - memory < 60


def test_tf_data_names_a_broken_picture(tmp_path, whole):
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    path = write(tmp_path / "cut.png", PICTURES["rgb.png"][:-60])
    with pytest.raises((ValueError, tf.errors.OpError), match="cut.png can't be read as an image"):
        load_first(dataset_of(Sample(path, whole)), "tf.data")


# What is kept of pictures


def test_a_damaged_file_of_the_cache_is_read_named_or_decoded_anew(tmp_path, whole):
    dataset = cached(dataset_of(Sample(whole, whole)), tmp_path / "cache")
    (sample,) = dataset.samples("train")
    dataset.read(sample)
    draw = random.Random(0)
    for path in sorted((tmp_path / "cache").rglob("*.npy")):
        kept = path.read_bytes()
        start = kept.index(b"\n") + 1  # of the pixels
        for _ in range(200):
            change = draw.choice((truncate, flip, set_field, cut_out, insert))
            path.write_bytes(change(kept[:start], draw) + kept[start:])
            try:
                dataset.read(sample)
            except ValueError as error:
                assert str(whole) in str(error), error


# Texts


def folder_with(root, classes=b"road\nsky\n"):
    for part in ("images", "masks"):
        (root / part).mkdir()
        write(root / part / "a.png", PICTURES["grey.png"])
    write(root / "classes.txt", classes)
    return root


def test_a_byte_order_mark_is_no_part_of_a_class(tmp_path):
    root = folder_with(tmp_path, "\ufeffroad\r\nsky\r\n".encode())
    assert datasets.load("folder", root).class_names == ["road", "sky"]


@pytest.mark.parametrize(
    "classes",
    [
        "Straße\n".encode("latin-1"),
        "road\nsky\n".encode("utf-16"),
        "road\nsky\n".encode("utf-16-le"),
        b"ro\0ad\n",
        b"",
        b"\n\n# nothing\n",
        b",1,2,3\n",
        "road,\u00b2,3,4\n".encode(),
        b"road," + b"9" * 5000 + b",1,2\n",
        b"road,1,2\n",
    ],
    ids=["latin-1", "utf-16", "utf-16-le", "zero", "empty", "comment", "nameless", "superscript",
         "long", "short"],
)  # fmt: skip
def test_a_broken_table_of_classes_is_named(tmp_path, classes):
    with pytest.raises(ValueError, match="classes.txt"):
        datasets.load("folder", folder_with(tmp_path, classes))


@pytest.mark.parametrize("content", [b"a\0b\n", b"\xff\xfea\0", b"Stra\xdfe", b"", b"\n \n"])
def test_a_broken_list_of_voc_is_named(tmp_path, content):
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    write(tmp_path / "ImageSets/Segmentation/train.txt", content)
    with pytest.raises(ValueError, match="train.txt"):
        datasets.load("voc", tmp_path)


@pytest.mark.parametrize("content", [b"0\0\n", b"\xff\xfea\0", b"Stra\xdfe"])
def test_a_broken_list_of_nyuv2_is_named(tmp_path, content):
    for part in ("RGB", "Label"):
        (tmp_path / part).mkdir()
        write(tmp_path / part / "0.png", PICTURES["grey.png"])
    write(tmp_path / "train.txt", content)
    with pytest.raises(ValueError, match="train.txt"):
        datasets.load("nyuv2", tmp_path)
