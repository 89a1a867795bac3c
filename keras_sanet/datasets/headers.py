"""What a picture's header says and Pillow does not: bits a channel, bands, how much there is to
read before the pixels.

Pillow keeps the high byte of colors of more than 8 bits and the first of many bands, and takes
what metadata there is. Only headers are read here, in a bounded number of steps; what is broken is
left to Pillow's errors.
"""

import dataclasses
import itertools
import re
import struct

MOST_FRAMES = 1000  # pictures of a file: for the nth, Pillow goes through those before it
SCALE = (
    "Scale all images to 8 bits by one rule, as (255 * (x / largest)).round() in NumPy, where "
    "largest is 65535, or 4095 of a 12-bit camera"
)
_CUT_OFF = struct.error, IndexError, OverflowError, OSError
_FRAME_HEADERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15 of a JPEG
_MOST_EXIF = 1 << 20  # bytes; a camera's are 64 kB at most, and Pillow's time is their square
_MOST_PARTS = 100_000  # chunks, segments, boxes, tags, each of which takes Pillow microseconds
_MOST_BLOCKS = 1_000_000  # of a GIF, of 255 bytes
_MOST_HEADER = 4096  # bytes of a PPM's, which Pillow reads one by one


class Refused(ValueError):
    """Why a picture is not read, in words that follow the name of its file."""


@dataclasses.dataclass(frozen=True)
class Facts:
    """What `read_facts` finds in a picture that is read.

    Attributes:
        lossy: whether pixels may differ from those that were saved, as a JPEG's do.
        scaled: what makes Pillow's gray values others than the numbers in the file; empty where
            they are the same.
        late: whether a PNG has metadata after its pixels, which Pillow sees with them alone.
    """

    lossy: bool = False
    scaled: str = ""
    late: bool = False


def read_facts(file, page=0):
    """Reads the `Facts` of a picture.

    Args:
        file: open to read bytes.
        page: number of the picture in a TIFF, from 0.

    Raises:
        Refused: for what Pillow would read in part, or in hours.
    """
    file.seek(0)
    head = file.read(16)
    try:
        if head[:8] == b"\x89PNG\r\n\x1a\n":
            return _png(file)
        if head[:3] == b"\xff\xd8\xff":
            return _jpeg(file)
        if _is_tiff(head):
            return _tiff(file, page)
        if re.match(b"P[1-6]", head):
            return _pnm(file)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp(file)
        if head[:4] in (b"\0\0\0\x0c", b"\xff\x4f\xff\x51"):
            return _jpeg2000(file)
        if head[4:8] == b"ftyp":
            return _heif(file)
        if head[:3] == b"GIF":
            next(_gif_frames(file), None)  # what is before the first
    except _CUT_OFF:
        pass
    return Facts()


def check_frames(file):
    """Refuses a GIF or TIFF of more pictures than `MOST_FRAMES`, before Pillow counts them."""
    file.seek(0)
    head = file.read(16)
    try:
        if head[:3] == b"GIF":
            check_count(sum(1 for _ in itertools.islice(_gif_frames(file), MOST_FRAMES + 1)))
        elif _is_tiff(head):
            check_count(sum(1 for _ in itertools.islice(_tiff_pages(file), MOST_FRAMES + 1)))
    except _CUT_OFF:
        pass


def check_count(count):
    """Refuses more pictures than `MOST_FRAMES`."""
    if count > MOST_FRAMES:
        raise Refused(
            f"holds more than {MOST_FRAMES} pictures, the most that are read of one file. Write "
            "them as files of their own, for example with ffmpeg -i FILE frames/%06d.png."
        )


def is_heic(file):
    """Whether a file is HEIC, for which Pillow needs a plugin."""
    file.seek(4)
    return re.match(rb"ftyp.{0,24}(hei[cxms]|hev[cxms])", file.read(40), re.DOTALL) is not None


def _too_deep(bits):
    return Refused(
        f"holds {bits} bits a channel, and 8 are read, so that the others would be lost. {SCALE}."
    )


def _check_bands(bands, colors, alpha):
    """Bands that are neither color nor alpha would be dropped."""
    if bands > colors + alpha:
        raise Refused(
            f"has {bands} bands, and {colors + alpha} of them would be read: images are gray or "
            "RGB, with alpha if it is declared as such. Write the bands that count as 8-bit RGB, "
            "as x[..., [0, 1, 2]] in NumPy, or gdal_translate -b 1 -b 2 -b 3."
        )


def _check_exif(size):
    if size > _MOST_EXIF:
        raise Refused(
            f"holds more than {_MOST_EXIF} bytes of EXIF metadata, the most that are read. Remove "
            "them, for example with exiftool -all= FILE."
        )


def _counted(most, what):
    """Endless, but for the error after so many."""
    yield from range(most)
    raise Refused(
        f"has more than {most} {what} to go through, the most that are read. Save it anew, without "
        "its metadata."
    )


def _png(file):
    file.seek(24)
    head = file.read(2)
    depth, color = head[0], head[1]
    if depth == 16 and color != 0:
        raise _too_deep(16)
    scaled = f"gray of {depth} bits a pixel" if color == 0 and depth in (2, 4) else ""
    pixels = late = False
    file.seek(8)
    for _ in _counted(_MOST_PARTS, "chunks"):
        head = file.read(8)
        if len(head) < 8 or head[4:] == b"IEND":
            return Facts(scaled=scaled, late=late)
        length, kind = struct.unpack(">I4s", head)
        start = file.tell()
        if kind == b"eXIf":
            _check_exif(length)
        if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            name = file.read(22)
            late |= kind == b"eXIf" or name.startswith((b"Raw profile type exif", b"XML:com.adobe"))
        pixels |= kind == b"IDAT"
        file.seek(start + length + 4)


def _jpeg(file):
    exif, byte = 0, b"\xff"
    file.seek(3)
    for _ in _counted(_MOST_PARTS, "segments"):
        if byte == b"\xff":
            byte = file.read(1)
            if byte in (b"", b"\xda"):  # the scan: no more segments
                break
            code = byte[0]
            if code == 0xFF:
                continue
            if 0xC0 <= code != 0xC8 and not 0xD0 <= code <= 0xD9 and not 0xF0 <= code <= 0xFD:
                start = file.tell()
                (length,) = struct.unpack(">H", file.read(2))
                if code == 0xE1 and file.read(6) == b"Exif\0\0":
                    exif += length
                    _check_exif(exif)
                if code in _FRAME_HEADERS and (bits := file.read(1)[0]) > 8:
                    raise _too_deep(bits)
                file.seek(start + max(2, length))
        byte = file.read(1)
        if not byte:
            break
    return Facts(lossy=True)


def _is_tiff(head):
    return head[:2] in (b"II", b"MM") and {*head[2:4]} in ({0, 42}, {0, 43})


def _tiff_layout(file):
    """The byte order, whether it is a BigTIFF, and the position of the first page."""
    file.seek(0)
    head = file.read(16)
    order, big = "<" if head[:2] == b"II" else ">", 43 in head[2:4]
    (first,) = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
    return order, big, first


def _tiff_pages(file):
    """The position of each page, and its number of tags."""
    order, big, position = _tiff_layout(file)
    size, number, offset = (20, "Q", "Q") if big else (12, "H", "I")
    seen, tags = set(), 0
    while position and position not in seen:
        seen.add(position)
        file.seek(position)
        (count,) = struct.unpack(order + number, file.read(struct.calcsize(number)))
        tags += count
        if tags > _MOST_PARTS:
            raise Refused(f"has more than {_MOST_PARTS} tags, the most that are read.")
        yield position, count
        file.seek(position + struct.calcsize(number) + count * size)
        (position,) = struct.unpack(order + offset, file.read(struct.calcsize(offset)))


def _tiff_tags(file, page):
    """Dict from a tag to its numbers, 64 at most."""
    order, big, _ = _tiff_layout(file)
    position, count = next(itertools.islice(_tiff_pages(file), page, None))
    entry, wide = (order + "HHQ8s", 8) if big else (order + "HHI4s", 4)
    file.seek(position + (8 if big else 2))
    table, tags = file.read(count * struct.calcsize(entry)), {}
    table = table[: len(table) - len(table) % struct.calcsize(entry)]
    for tag, kind, number, value in struct.iter_unpack(entry, table):
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if letter is None or tag in tags:
            continue
        size = number * struct.calcsize(letter)
        if size > wide:
            file.seek(struct.unpack(order + ("Q" if big else "I"), value)[0])
            value = file.read(min(size, 512))
        number = min(number, len(value) // struct.calcsize(letter), 64)
        tags[tag] = struct.unpack_from(f"{order}{number}{letter}", value)
    return tags


def _tiff(file, page):
    tags = _tiff_tags(file, page)

    def one(tag, default):
        return (tags.get(tag) or (default,))[0]

    compression, kind, bands = one(259, 1), one(262, 0), one(277, 1)
    kind = 6 if compression == 6 else kind  # a JPEG of the old kind
    colors = {2: 3, 6: 3, 8: 3, 5: 4}.get(kind, 1)  # RGB, YCbCr, Lab, CMYK
    alpha = min(1, sum(extra in (1, 2, 999) for extra in tags.get(338, ())))
    bits = max(tags.get(258) or (1,))
    if bits > 8 and bands > 1 or bits > 32:
        raise _too_deep(bits)
    _check_bands(bands, colors, alpha)
    if bits <= 8 and 2 in tags.get(339, ()):
        raise Refused("holds signed numbers, which would be read as 0..255. Add 128, or clip them.")
    scaled = ""
    if kind in (0, 1) and bits in (2, 4):
        scaled = f"gray of {bits} bits a pixel"
    elif kind == 0 and bits > 1:
        scaled = "gray in which 0 is white"
    return Facts(lossy=compression in (6, 7, 34712, 34892, 50001), scaled=scaled)


def _pnm(file):
    file.seek(0)
    words = re.sub(rb"#[^\r\n]*", b"", file.read(_MOST_HEADER)).split(None, 4)
    kind, scaled = words[0], ""
    if len(words) < (3 if kind in (b"P1", b"P4") else 4) and file.read(1):
        raise Refused(f"has a header of more than {_MOST_HEADER} bytes, the most that are read.")
    if kind in (b"P1", b"P4"):
        return Facts()
    largest = int(words[3]) if words[3].isdigit() else 255
    if kind in (b"P3", b"P6") and largest > 255:
        raise _too_deep(largest.bit_length())
    if kind in (b"P2", b"P5") and largest not in (255, 65535):
        scaled = f"gray whose largest value is {largest}"
    return Facts(scaled=scaled)


def _webp(file):
    file.seek(12)
    for _ in _counted(_MOST_PARTS, "chunks"):
        head = file.read(8)
        if len(head) < 8:
            return Facts(lossy=True)
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF":
            _check_exif(length)
        file.seek(length + length % 2, 1)


def _boxes(file):
    """(kind, start of the content) of the boxes of a JPEG 2000 or HEIF file, those inside too."""
    inside = {b"meta": 4, b"stsd": 8, b"av01": 78, b"hvc1": 78}  # bytes before the first one
    inside |= dict.fromkeys((b"iprp", b"ipco", b"jp2h", b"moov", b"trak", b"mdia"), 0)
    inside |= dict.fromkeys((b"minf", b"stbl"), 0)
    position = 0
    for _ in _counted(_MOST_PARTS, "boxes"):
        file.seek(position)
        head = file.read(16)
        if len(head) < 8:
            return
        length, kind = struct.unpack_from(">I4s", head)
        start = position + (16 if length == 1 else 8)
        if length == 1:
            (length,) = struct.unpack_from(">Q", head, 8)
        if kind in inside:
            position = start + inside[kind]
            continue
        file.seek(start)
        yield kind, start
        if length == 0 or position + length >= 1 << 63:  # to the end
            return
        position = max(start, position + length)


def _jpeg2000(file):
    file.seek(0)
    stream, alpha, colors = 0, 0, 3
    if file.read(4) == b"\0\0\0\x0c":
        for kind, start in _boxes(file):
            if kind == b"colr" and file.read(7)[::3] == b"\x01\0\x0c":
                colors = 4  # CMYK
            elif kind == b"cdef":
                (count,) = struct.unpack(">H", file.read(2))
                kinds = struct.iter_unpack(">HHH", file.read(6 * count))
                alpha = min(1, sum(kind in (1, 2) for _, kind, _ in kinds))
            elif kind == b"jp2c":
                stream = start
                break
    file.seek(stream + 4)
    *_, bands = struct.unpack(">HH8IH", file.read(38))
    bits = max((byte & 127) + 1 for byte in file.read(3 * bands)[::3])
    if bits > 8:
        raise _too_deep(bits)
    _check_bands(bands, colors if bands >= 3 else 1, alpha)
    return Facts(lossy=True)


def _heif(file):
    for kind, _ in _boxes(file):
        bits = 8
        content = file.read(32) if kind in (b"pixi", b"av1C", b"hvcC") else b""
        if kind == b"pixi":
            bits = max(content[5 : 5 + content[4]], default=8)
        elif kind == b"av1C" and content[2] & 0x40:
            bits = 12 if content[2] & 0x20 else 10
        elif kind == b"hvcC":
            bits = 8 + (content[17] & 7)
        if bits > 8:
            raise _too_deep(bits)
    return Facts(lossy=True)


def _gif_frames(file):
    """An item a picture, at its beginning."""
    steps = _counted(_MOST_BLOCKS, "blocks")

    def skip_blocks():
        while length := file.read(1)[0]:
            next(steps)
            file.seek(length, 1)

    def skip_colors(flags):
        if flags & 128:
            file.seek(6 << (flags & 7), 1)

    file.seek(10)
    skip_colors(file.read(3)[0])
    for _ in steps:
        byte = file.read(1)
        if byte in (b"", b";"):
            return
        if byte == b"!":
            file.seek(1, 1)
            skip_blocks()
        elif byte == b",":
            yield
            skip_colors(file.read(9)[8])
            file.seek(1, 1)
            skip_blocks()
