"""What is read of picture files, and what is refused: formats, orientation, depth, bands, size."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from keras_sanet import datasets
from keras_sanet.datasets import Dataset, Sample
from keras_sanet.datasets.files import frames, image_suffixes, open_image, open_mask, read_image
from keras_sanet.datasets.headers import MOST_FRAMES

BLOCKS = np.kron(np.arange(15).reshape(3, 5), np.ones((16, 16)))  # 48 x 80, no two alike
PIXELS = np.stack([17 * BLOCKS, 255 - 17 * BLOCKS, 7 * BLOCKS], axis=-1).astype("uint8")
XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def encoded(format, mode="RGB", **arguments):
    """The bytes of a picture."""
    Image.fromarray(PIXELS).convert(mode).save(file := io.BytesIO(), format, **arguments)
    return file.getvalue()


def write(path, data):
    path.write_bytes(data)
    return path


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def dataset_of(*samples):
    palette = [(0, 0, 0), (9, 9, 9)]
    return Dataset("some", ["a", "b"], palette, {"train": list(samples)}, {0: 0, 1: 1, 255: 255})


def chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(array, depth, colour):
    """A PNG of any depth, which Pillow does not write: `array` has its samples, (rows, bytes)."""
    height, width = array.shape[0], array.shape[1] * 8 // (depth * {0: 1, 2: 3, 4: 2, 6: 4}[colour])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype("uint8").tobytes() for row in array)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(array, order="<", photometric=2, extra=None, tags=()):
    """An uncompressed TIFF of (height, width, bands), 8 or 16 bits, with any tags."""
    height, width, bands = array.shape
    bits, data = 8 * array.itemsize, array.astype(array.dtype.newbyteorder(order)).tobytes()
    values = {256: [width], 257: [height], 258: [bits] * bands, 259: [1], 262: [photometric]}
    values |= {273: [8], 277: [bands], 278: [height], 279: [len(data)], **dict(tags)}
    if extra is not None:
        values[338] = extra
    place, entries, long = 8 + len(data), b"", b""
    after = place + 2 + 12 * len(values) + 4
    for tag, numbers in sorted(values.items()):
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            long, packed = long + packed, struct.pack(f"{order}I", after + len(long))
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, place)
    return head + data + struct.pack(f"{order}H", len(values)) + entries + b"\0" * 4 + long


# Formats


@pytest.mark.parametrize(
    ("suffix", "format"),
    [
        (".jfif", "JPEG"), (".jpe", "JPEG"), (".JPG", "JPEG"), (".PNG", "PNG"), (".gif", "GIF"),
        (".ppm", "PPM"), (".jp2", "JPEG2000"), (".avif", "AVIF"), (".webp", "WEBP"),
        (".mpo", "JPEG"), (".Tiff", "TIFF"), (".bmp", "BMP"),
    ],
)  # fmt: skip
def test_a_suffix_of_a_format_that_is_read_is_found_and_read(tmp_path, suffix, format):
    path = write(tmp_path / f"a{suffix}", encoded(format))
    assert datasets.listing.find_images(tmp_path) == [path]
    assert read_image(path).shape == (48, 80, 3)


def test_the_content_of_a_listed_format_counts_and_not_the_suffix(tmp_path):
    assert read_image(write(tmp_path / "a.png", encoded("JPEG"))).shape == (48, 80, 3)


NO_PICTURES = {
    "PostScript": encoded("EPS"),
    "FITS": b"SIMPLE  =                    T" + b" " * 2850,
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(100),
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(100),
    "PDF": b"%PDF-1.4\n",
    "ICO": b"\0\0\1\0\1\0" + bytes(100),
    "TGA": encoded("TGA"),
    "PCX": encoded("PCX"),
}


@pytest.mark.parametrize("read", [open_image, open_mask, frames])
@pytest.mark.parametrize("content", NO_PICTURES)
def test_other_formats_are_refused_under_any_suffix(tmp_path, content, read):
    path = write(tmp_path / "photo.png", NO_PICTURES[content])
    with pytest.raises(ValueError, match=r"photo\.png can't be read .* none of PNG, JPEG"):
        read(path)


def test_postscript_starts_no_program(tmp_path, monkeypatch):
    started = write(tmp_path / "gs", b'#!/bin/sh\necho >> "$(dirname "$0")/started"\n')
    started.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = write(tmp_path / "photo.png", NO_PICTURES["PostScript"])
    with pytest.raises(ValueError, match=r"photo\.png"):
        read_image(path)
    with pytest.raises(ValueError, match=r"photo\.png"):
        dataset_of(Sample(path)).sizes("train")
    assert not (tmp_path / "started").exists()


def test_heic_in_a_jpeg_s_name_says_how_it_is_read(tmp_path):
    path = write(tmp_path / "IMG_1.JPG", b"\0\0\0\x18ftypheic" + bytes(100))
    with pytest.raises(ValueError, match=r"IMG_1\.JPG .* it is HEIC, .*pip install pillow-heif"):
        read_image(path)


def test_a_damaged_avif_is_not_taken_for_heic(tmp_path):
    path = write(tmp_path / "a.avif", b"\0\0\0\x18ftypmif1\0\0\0\0avifmiaf" + bytes(100))
    with pytest.raises(ValueError, match=r"a\.avif .* it is damaged, or none of PNG"):
        read_image(path)


def test_a_format_that_a_plugin_registers_is_found(tmp_path, monkeypatch):
    assert ".heic" not in image_suffixes()
    monkeypatch.setitem(Image.OPEN, "HEIF", Image.OPEN["AVIF"])
    assert ".heic" in image_suffixes()


# Orientation


def rotated(orientation, format="JPEG", **arguments):
    return encoded(format, exif=exif(orientation), **arguments)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("suffix", "format", "arguments"),
    [
        (".jpg", "JPEG", {}),
        (".mpo", "MPO", {"save_all": True, "append_images": [Image.new("RGB", (8, 8))]}),
        (".png", "PNG", {}),
        (".webp", "WEBP", {}),
        (".tif", "TIFF", {}),
        (".tif", "TIFF", {"compression": "tiff_lzw"}),
        (".avif", "AVIF", {}),
    ],
    ids=["JPEG", "MPO", "PNG", "WebP", "TIFF", "TIFF by libtiff", "AVIF"],
)
def test_an_image_is_turned_as_its_exif_says(tmp_path, suffix, format, arguments, orientation):
    path = write(tmp_path / f"a{suffix}", rotated(orientation, format, **arguments))
    image = read_image(path)
    with Image.open(path) as stored:
        np.testing.assert_array_equal(image, ImageOps.exif_transpose(stored).convert("RGB"))
    assert image.shape == ((48, 80, 3) if orientation < 5 else (80, 48, 3))
    assert dataset_of(Sample(path)).sizes("train") == [image.shape[:2]]
    assert frames(path) == [path]


def after_pixels(data, *chunks):
    end = data.rindex(b"\0\0\0\0IEND")
    return data[:end] + b"".join(chunks) + data[end:]


@pytest.mark.parametrize(
    "part",
    [
        chunk(b"eXIf", exif(6).tobytes()[6:]),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        chunk(
            b"zTXt",
            b"Raw profile type exif\0\0"
            + zlib.compress(b"\nexif\n%8d\n" % 32 + exif(6).tobytes().hex().encode()),
        ),
    ],
    ids=["eXIf", "XMP", "raw profile"],
)
def test_an_orientation_after_the_pixels_of_a_png_counts(tmp_path, part):
    path = write(tmp_path / "a.png", after_pixels(encoded("PNG"), part))
    assert dataset_of(Sample(path)).sizes("train") == [(80, 48)]
    np.testing.assert_array_equal(read_image(path), np.rot90(PIXELS, -1))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(tmp_path, orientation):
    path = write(tmp_path / "a.jpg", rotated(orientation))
    assert read_image(path).shape == (48, 80, 3)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08"]
)
def test_damaged_exif_turns_nothing(tmp_path, content):
    path = write(tmp_path / "a.jpg", encoded("JPEG", exif=b"Exif\0\0" + content))
    assert read_image(path).shape == (48, 80, 3)


def test_a_mask_is_turned_by_its_own_orientation_alone(tmp_path):
    ids = np.arange(12).reshape(3, 4) % 2
    Image.fromarray(ids.astype("uint8")).save(tmp_path / "mask.png", exif=exif(6))
    image = write(tmp_path / "image.jpg", rotated(1))
    Image.new("RGB", (3, 4)).save(image)
    _, mask = dataset_of().read(Sample(image, tmp_path / "mask.png"))
    np.testing.assert_array_equal(mask, np.rot90(ids, -1))


@pytest.mark.parametrize("read", ["sizes", "read"])
def test_a_mask_that_fits_the_image_as_it_is_stored_names_the_orientation(tmp_path, read):
    image = write(tmp_path / "photo.jpg", rotated(6))
    Image.new("L", (80, 48)).save(tmp_path / "mask.png")
    dataset = dataset_of(Sample(image, tmp_path / "mask.png"))
    with pytest.raises(ValueError, match=r"photo\.jpg.*\(48, 80\) and \(80, 48\).*orientation, 6"):
        dataset.sizes("train") if read == "sizes" else dataset.read(dataset.samples("train")[0])


def test_the_pages_of_a_tiff_are_turned_each_by_its_own(tmp_path):
    pages = [Image.fromarray(PIXELS), Image.fromarray(PIXELS)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], exif=exif(6))
    assert [open_image(page).size for page in frames(tmp_path / "a.tif")] == [
        ImageOps.exif_transpose(page).size for page in pages_of(tmp_path / "a.tif")
    ]


def pages_of(path):
    with Image.open(path) as image:
        for index in range(image.n_frames):
            image.seek(index)
            yield image.copy() if index else image


@pytest.mark.parametrize("loader", ["pillow", "tf.data"])
def test_a_pipeline_hands_out_upright_images(tmp_path, loader):
    if loader == "tf.data":
        pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    from keras_sanet.pipeline import make_dataset

    image = write(tmp_path / "a.png", rotated(6, "PNG"))
    Image.new("L", (48, 80)).save(tmp_path / "m.png")
    dataset = dataset_of(Sample(image, tmp_path / "m.png"))
    batches = make_dataset(dataset, "train", batch_size=1, training=False, loader=loader)
    images, masks = batches[0] if loader == "pillow" else next(iter(batches))
    np.testing.assert_array_equal(images[0], np.rot90(PIXELS, -1))
    assert masks.shape == (1, 80, 48)


# Depth


DEEP = {
    "rgb.png": png(np.zeros((2, 3 * 6)), 16, 2),
    "rgba.png": png(np.zeros((2, 3 * 8)), 16, 6),
    "grey and alpha.png": png(np.zeros((2, 3 * 4)), 16, 4),
    "little.tif": tiff(np.zeros((2, 3, 3), "uint16")),
    "big.tif": tiff(np.zeros((2, 3, 3), "uint16"), ">"),
    "cmyk.tif": tiff(np.zeros((2, 3, 4), "uint16"), photometric=5),
    "scan.jpg": encoded("JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc1\0\x11\x0c"),
    "double.tif": tiff(np.zeros((2, 3, 1), "uint8"), photometric=1, tags=[(258, [64])]),
    "rgb.ppm": b"P6 3 2 65535\n" + bytes(36),
    "comment.ppm": b"P6 # 8 bits\n3 2\n4095\n" + bytes(36),
    "plain.ppm": b"P3 1 1 1023 0 0 0\n",
    "rgb.jp2": encoded("JPEG2000").replace(b"\7\1\1" * 3, b"\x0f\1\1" * 3),
    "rgb.j2k": encoded("JPEG2000", no_jp2=True).replace(b"\7\1\1" * 3, b"\x0b\1\1" * 3),
    "pixi.avif": encoded("AVIF").replace(b"pixi\0\0\0\0\3\x08\x08\x08", b"pixi\0\0\0\0\3\n\n\n"),
    "av1C.avif": encoded("AVIF").replace(b"av1C\x81\0\x0c", b"av1C\x81\0\x4c"),
}


@pytest.mark.parametrize("name", DEEP)
def test_colours_of_more_than_8_bits_are_refused_with_the_way_out(tmp_path, name):
    path = write(tmp_path / name, DEEP[name])
    others = {"comment.ppm": 12, "plain.ppm": 10, "rgb.j2k": 12, "scan.jpg": 12, "double.tif": 64}
    bits = others.get(name, 10 if name.endswith("avif") else 16)
    for read in (read_image, lambda path: dataset_of(Sample(path)).sizes("train")):
        with pytest.raises(ValueError, match=f"{name} holds {bits} bits a channel.*Scale all"):
            read(path)


def test_depth_is_an_error_that_is_not_skipped(tmp_path):
    from keras_sanet.pipeline import make_dataset

    deep = write(tmp_path / "deep.png", DEEP["rgb.png"])
    whole = write(tmp_path / "whole.png", encoded("PNG", "L"))
    samples = [Sample(deep, whole)] + [Sample(whole, whole)] * 20
    with pytest.raises(ValueError, match=r"deep\.png holds 16 bits"):
        make_dataset(dataset_of(*samples), "train", crop_size=8, on_bad_image="skip")


# Bands


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    ("bands", "extra", "photometric"),
    [(5, (0, 0), 2), (4, (0,), 2), (4, None, 2), (5, (2, 0), 2), (2, (0,), 1), (5, (0,), 5)],
    ids=["RGB + 2", "RGB + near infrared", "undeclared", "RGB + alpha + 1", "grey + 1", "CMYK + 1"],
)
def test_bands_that_would_be_dropped_are_refused_by_count(
    tmp_path, bands, extra, photometric, order
):
    data = tiff(np.zeros((2, 3, bands), "uint8"), order, photometric, extra)
    with pytest.raises(ValueError, match=rf"a\.tif has {bands} bands, and .* would be read"):
        read_image(write(tmp_path / "a.tif", data))


@pytest.mark.parametrize(
    ("bands", "extra", "photometric"),
    [(3, None, 2), (4, (1,), 2), (4, (2,), 2), (2, (2,), 1), (1, None, 1), (4, None, 5)],
    ids=["RGB", "associated alpha", "alpha", "grey and alpha", "grey", "CMYK"],
)
def test_colours_with_declared_alpha_are_read(tmp_path, bands, extra, photometric):
    data = tiff(np.zeros((2, 3, bands), "uint8"), "<", photometric, extra)
    assert read_image(write(tmp_path / "a.tif", data)).shape == (2, 3, 3)


def test_a_jpeg_2000_of_four_bands_needs_its_alpha_declared(tmp_path):
    declared = encoded("JPEG2000", "RGBA")
    assert read_image(write(tmp_path / "a.jp2", declared)).shape == (48, 80, 3)
    # cdef: (band 3, kind 1 of opacity) becomes (band 3, kind 65535, unspecified).
    unknown = declared.replace(b"\0\3\0\1\0\0", b"\0\3\xff\xff\0\0")
    assert unknown != declared
    with pytest.raises(ValueError, match=r"b\.jp2 has 4 bands, and 3"):
        read_image(write(tmp_path / "b.jp2", unknown))


def test_signed_numbers_are_refused(tmp_path):
    data = tiff(np.zeros((2, 3, 1), "uint8"), photometric=1, tags=[(339, [2])])
    with pytest.raises(ValueError, match=r"a\.tif holds signed numbers"):
        read_image(write(tmp_path / "a.tif", data))


# Masks


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.jp2"])
def test_a_mask_of_a_lossy_format_is_refused_whatever_its_suffix(tmp_path, name):
    path = write(tmp_path / name, encoded("JPEG2000" if "jp2" in name else "JPEG", "L"))
    with pytest.raises(ValueError, match=f"{name} is a mask of the format JPEG.*changes ids"):
        open_mask(path)


def test_a_mask_in_a_tiff_with_jpeg_compression_is_refused(tmp_path):
    path = write(tmp_path / "a.tif", encoded("TIFF", "L", compression="jpeg"))
    with pytest.raises(ValueError, match=r"a\.tif is a mask of the format TIFF.*changes ids"):
        open_mask(path)


SCALED = {
    "two bits.png": png(np.full((2, 1), 0b00011011), 2, 0),  # ids 0 1 2 3, 0 85 170 255 by Pillow
    "four bits.png": png(np.full((2, 2), 0x12), 4, 0),
    "of three.pgm": b"P5 2 2 3\n\0\1\2\3",
    "plain.pgm": b"P2 2 2 3 0 1 2 3",
    "of 4095.pgm": b"P5 1 1 4095\n\0\1",
    "white.tif": tiff(np.zeros((2, 3, 1), "uint8"), photometric=0),
}


@pytest.mark.parametrize("name", SCALED)
def test_a_mask_whose_ids_pillow_would_change_is_refused(tmp_path, name):
    path = write(tmp_path / name, SCALED[name])
    with pytest.raises(ValueError, match=f"{name} is a mask of gray .* other numbers"):
        open_mask(path)
    assert "4095" in name or read_image(path).ndim == 3  # as images they are fine


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [
        *((suffix, "uint8") for suffix in (".png", ".PNG", ".bmp", ".tif", ".gif", ".pgm")),
        *((suffix, "uint16") for suffix in (".png", ".tif", ".pgm")),
    ],
)
def test_a_mask_of_a_lossless_format_is_read_as_its_ids(tmp_path, suffix, dtype):
    ids = np.arange(6).reshape(2, 3).astype(dtype)
    Image.fromarray(ids).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(open_mask(tmp_path / f"a{suffix}"), ids)


# How much there is to read


def jpeg_with(*segments):
    data = encoded("JPEG")
    return data[:2] + b"".join(segments) + data[2:]


EXIF_64K = b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (jpeg_with(EXIF_64K * 20), "more than 1048576 bytes of EXIF"),
        (jpeg_with(b"\xff\xfe\0\2" * 100_001), "more than 100000 segments"),
        (jpeg_with(b"\xff" * 100_001), "more than 100000 segments"),
        (after_pixels(encoded("PNG"), chunk(b"eXIf", bytes(1 << 21))), "1048576 bytes of EXIF"),
        (after_pixels(encoded("PNG"), chunk(b"abCd", b"") * 100_001), "100000 chunks"),
        (encoded("WEBP", exif=b"Exif\0\0" + bytes(1 << 21)), "1048576 bytes of EXIF"),
        (b"P6 #" + b"a" * 5000 + b"\n1 1 255\n\0\0\0", "header of more than 4096 bytes"),
        (encoded("GIF")[:13] + b"!\xfe" + b"\1a" * 1_000_001 + b"\0;", "1000000 blocks"),
    ],
    ids=["EXIF", "segments", "stray", "PNG EXIF", "chunks", "WebP EXIF", "comment", "GIF comment"],
)
def test_metadata_without_end_are_refused(tmp_path, data, reason):
    path = write(tmp_path / "a.jpg", data)
    for read in (read_image, frames, lambda path: dataset_of(Sample(path)).sizes("train")):
        with pytest.raises(ValueError, match=rf"a\.jpg h.*{reason}"):
            read(path)


def test_exif_of_several_segments_is_read(tmp_path):
    data = jpeg_with(EXIF_64K * 3)
    assert read_image(write(tmp_path / "a.jpg", data)).shape == (48, 80, 3)


def gif(count):
    """A GIF of pictures of one pixel."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    return head + (b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x44\1\0") * count + b";"


def pages(count):
    """A TIFF of pages of one pixel."""
    size = 2 + 12 * 4 + 4
    tags = (256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (273, 4, 1, 8)
    table = struct.pack("<H", 4) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    following = [8 + size * (i + 1) for i in range(count - 1)] + [0]
    return b"II*\0\x08\0\0\0" + b"".join(table + struct.pack("<I", place) for place in following)


@pytest.mark.parametrize("make", [gif, pages])
def test_a_file_of_too_many_pictures_is_refused_with_the_way_out(tmp_path, make):
    path = tmp_path / "many.gif"
    assert len(frames(write(path, make(MOST_FRAMES)))) == MOST_FRAMES
    for count in (MOST_FRAMES + 1, 50_000):
        with pytest.raises(ValueError, match=r"many\.gif holds more than 1000 pictures.*ffmpeg"):
            frames(write(path, make(count)))


def test_a_loop_of_tiff_pages_ends(tmp_path):
    loop = pages(2)[:-4] + struct.pack("<I", 8)
    assert len(frames(write(tmp_path / "a.tif", loop))) == 2


def test_too_large_an_image_names_the_option_and_the_python_way(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = write(tmp_path / "a.png", encoded("PNG"))
    with pytest.raises(ValueError, match=r"a\.png .*PIL\.Image\.MAX_IMAGE_PIXELS.*--max-pixels"):
        read_image(path)


# Errors of the machine


def test_too_many_open_files_are_no_unreadable_image(tmp_path):
    resource = pytest.importorskip("resource", reason="the system has no limits of this kind")
    from keras_sanet.datasets.files import UNREADABLE

    path = write(tmp_path / "a.png", encoded("PNG"))
    read_image(path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # none beside the standard ones
    try:
        with pytest.raises(ValueError, match=r"a\.png can't be read here.*Too many") as raised:
            read_image(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert not isinstance(raised.value, UNREADABLE)


# Classes


def test_more_than_255_classes_are_refused():
    names = [f"class {i}" for i in range(300)]
    with pytest.raises(ValueError, match=r"'many' has 300 classes; 255 are the most"):
        Dataset("many", names, [(0, 0, 0)] * 300, {}, {i: i for i in range(300)})


def test_a_class_id_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match=r"class ids below 2, or to 255\. Received: \[2, 256\]"):
        Dataset("some", ["a", "b"], [(0, 0, 0)] * 2, {}, {0: 0, 1: 2, 2: 256})


def test_no_picture_is_opened_without_a_list_of_formats():
    package = Path(datasets.__file__).parents[1]
    opened = [
        f"{path.name}: {line.strip()}"
        for path in package.rglob("*.py")
        for line in path.read_text("utf-8").splitlines()
        if "Image.open(" in line
    ]
    assert opened == ["files.py: image = Image.open(source, formats=_readable())"]
