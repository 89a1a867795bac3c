"""Procedural street scenes for semantic segmentation, drawn with NumPy and Pillow alone.

Each scene is a pinhole view down a random street. Its objects are painted far to near on an image
and a label mask at once. Colors overlap between classes, and light, shade, texture, blur and
noise vary, so a network has to learn shape and context. Nothing is downloaded.

`draw` makes one scene; `load` writes the set to files once, and reads it like any other.
"""

import contextlib
import functools
import itertools
import math
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from keras_sanet import _files
from keras_sanet.datasets.dataset import Dataset, identity
from keras_sanet.datasets.files import VOID
from keras_sanet.datasets.listing import pair

_CLASSES = {
    "sky":      (70, 130, 180),
    "building": (70, 70, 70),
    "tree":     (107, 142, 35),
    "road":     (128, 64, 128),
    "pavement": (244, 35, 232),
    "car":      (0, 0, 142),
    "pole":     (153, 153, 153),
    "sign":     (220, 220, 0),
}  # fmt: skip
CLASS_NAMES, PALETTE = tuple(_CLASSES), tuple(_CLASSES.values())
SKY, BUILDING, TREE, ROAD, PAVEMENT, CAR, POLE, SIGN = range(len(_CLASSES))

# The world is in meters: x to the right, y up from the ground, z ahead of the camera at x = 0.
FOCAL = 0.9  # focal length, in image heights
NEAR, FAR = 1.5, 1000.0  # depths between which the ground is drawn
FOG = 130.0  # depth at which 63 % of a color has faded into the horizon
IN_VIEW = 1.6  # z / |x| from which a point is in view at 4:3

SKIES = (  # (zenith, horizon): clear, pale, overcast, hazy, dusk
    ((70, 120, 195), (175, 205, 230)), ((120, 165, 215), (215, 225, 230)),
    ((150, 155, 162), (195, 197, 200)), ((170, 175, 180), (225, 220, 205)),
    ((75, 75, 120), (225, 155, 115)),
)  # fmt: skip
WALLS = ((165, 120, 95), (190, 175, 150), (125, 150, 180), (150, 155, 165), (150, 85, 70))
GLASS = ((45, 55, 70), (70, 85, 105), (130, 155, 185), (215, 190, 120))
GREENS = ((70, 105, 45), (95, 120, 50), (55, 85, 55), (140, 120, 50))
PAINTS = ((105, 107, 112), (165, 167, 172), (35, 37, 42), (175, 35, 35), (40, 65, 130))
METALS = ((120, 122, 125), (165, 167, 168), (70, 75, 72), (105, 80, 60))
SIGNS = ((190, 35, 40), (40, 80, 165), (225, 190, 40), (225, 225, 222), (40, 120, 75))
RUBBER, SHADOW = (28, 28, 30), (10, 10, 25, 110)  # the shadow with its opacity
ROUGHNESS = np.full(256, 0.04, "float32")  # strength of the fine texture, by mask value
ROUGHNESS[[SKY, TREE]] = 0.0, 0.16

# Side view of a car from end to end: (meters along, share of the height).
PROFILE = (0, 0.17), (0, 0.6), (0.4, 0.64), (1, 1), (2.5, 1), (3.2, 0.64), (4.1, 0.54), (4.1, 0.17)


class _Scene:
    """An image and its mask, painted together from points of the world."""

    def __init__(self, rng, size):
        height, width = size
        self.rng, self.focal = rng, FOCAL * height
        self.eye = rng.uniform(1.5, 1.9)
        self.vanishing = width * rng.uniform(0.44, 0.56), height * rng.uniform(0.44, 0.54)
        self.image, self.mask = Image.new("RGB", (width, height)), Image.new("L", (width, height))
        self._paint, self._label = ImageDraw.Draw(self.image, "RGBA"), ImageDraw.Draw(self.mask)
        self.haze = (0, 0, 0)

    def polygon(self, points, color, class_id=None, light=1.0):
        """Fills a polygon of (x, y, z) points; without a class the mask stays as it is."""
        (u, v), f, eye = self.vanishing, self.focal, self.eye
        pixels = [(u + f * x / z, v + f * (eye - y) / z) for x, y, z in points]
        clear = math.exp(-points[0][2] / FOG)
        faded = (int(h + clear * (light * c - h)) for c, h in zip(color, self.haze))
        self._paint.polygon(pixels, fill=(*(max(0, min(255, c)) for c in faded), *color[3:]))
        if class_id is not None:
            self._label.polygon(pixels, fill=class_id)

    def pick(self, colors):
        """A random one of some colors, varied a little."""
        light, *tint = self.rng.normal(0, 14, 4).tolist()
        return [c + light + t for c, t in zip(colors[self.rng.integers(len(colors))], tint)]


SPLITS = {"train": 400, "val": 60}  # number of scenes, at the size of `draw`'s default
_VERSION = 1  # of what `draw` draws


def load(root=None):
    """Draws the set unless it is there, and reads it.

    Args:
        root: its folder; one in Keras's cache if None.

    Returns:
        `Dataset`.
    """
    if root is None:
        root = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "datasets"
        root = root / f"keras_sanet_scenes_v{_VERSION}"
    root = Path(root)
    if not root.is_dir():
        with contextlib.suppress(FileExistsError):  # another process was quicker
            write(root)
    left_out = {}
    splits = {
        split: pair(root / split / "images", root / split / "masks", left_out) for split in SPLITS
    }
    names, palette = list(CLASS_NAMES), list(PALETTE)
    ids = identity(len(names))
    return Dataset("scenes", names, palette, splits, ids, left_out=left_out)


def write(root, *, seed=0, size=(144, 192), splits=None):
    """Writes scenes as PNG files to a new folder: `<split>/images`, `<split>/masks`.

    Args:
        root: the folder, which must not exist; it appears when all is written.
        seed: seed of the set.
        size: (height, width) in pixels.
        splits: dict from split to its number of scenes; `SPLITS` if None.

    Raises:
        FileExistsError: where the folder is there.
    """
    root, exists = Path(root), f"{root} exists; scenes are written to a new folder only."
    if root.exists():
        raise FileExistsError(exists)
    root.parent.mkdir(parents=True, exist_ok=True)
    with _files.replacing(root) as new:
        indexes = itertools.count()
        for split, count in (splits or SPLITS).items():
            for kind in ("images", "masks"):
                (new / split / kind).mkdir(parents=True)
            for index in itertools.islice(indexes, count):
                for kind, array in zip(("images", "masks"), draw(seed, index, size)):
                    path = new / split / kind / f"{index:05}.png"
                    Image.fromarray(array).save(path, compress_level=1)
        if root.exists():  # another process was quicker
            raise FileExistsError(exists)


def draw(seed, index, size=(144, 192)):
    """Draws one street scene; the same arguments always give the same pixels.

    Args:
        seed: non-negative int, the seed of the whole set.
        index: non-negative int, the number of the scene within the set.
        size: (height, width) in pixels. All lengths follow the height.

    Returns:
        (image, mask): a uint8 array of shape (height, width, 3) with RGB values 0 to 255, and a
        uint8 array of shape (height, width) with class ids 0 to 7, or 255 for void.
    """
    rng = np.random.default_rng([seed, index])
    scene = _Scene(rng, size)
    lane, parking = rng.uniform(2.9, 3.5), 2.1 * rng.integers(2)
    centre = lane / 2 * rng.choice((-1, 1))  # the camera keeps to the middle of one lane
    kerbs = centre - lane - parking, centre + lane + parking
    _sky(scene)
    _street(scene, kerbs, centre)
    for side, kerb in zip((-1, 1), kerbs):
        _frontage(scene, side, kerb + side * rng.uniform(2.5, 4.5))
    for z, x, painter in sorted(_objects(rng, kerbs, centre), key=lambda item: -item[0]):
        painter(scene, x, z)
    mask = np.array(scene.mask)
    return _photograph(rng, scene.image, mask), mask


def _noise(rng, size, cells):
    """Smooth noise of unit strength on a (height, width) grid, with `cells` bumps in height."""
    grid = Image.fromarray(rng.standard_normal((cells, cells * 4 // 3), dtype="float32"))
    return np.asarray(grid.resize(size[::-1], Image.Resampling.BICUBIC))


def _panel(x0, x1, y0, y1, z0, z1):
    """A rectangle that is level, upright or leaning, with level edges from left to right."""
    return [(x0, y0, z0), (x1, y0, z0), (x1, y1, z1), (x0, y1, z1)]


def _wall(x, y0, y1, z0, z1):
    """An upright rectangle along the street."""
    return [(x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)]


@functools.cache
def _unit_ring(corners):
    """Corners of a regular polygon with a level lowest edge, on the unit circle."""
    turns = [math.pi * ((2 * k + 1) / corners - 0.5) for k in range(corners)]
    return [(math.cos(t), math.sin(t)) for t in turns]


def _ring(x, y, z, radius, corners=12, tall=1.0):
    """A regular polygon that faces the camera."""
    return [(x + radius * c, y + tall * radius * s, z) for c, s in _unit_ring(corners)]


def _shrink(points, factor):
    """Points drawn towards their mean."""
    mean = [sum(axis) / len(points) for axis in zip(*points)]
    return [tuple(m + factor * (c - m) for c, m in zip(p, mean)) for p in points]


def _sky(scene):
    """Vertical gradient with soft clouds, and the far row of houses and trees."""
    rng, size = scene.rng, scene.mask.size[::-1]
    zenith, horizon = np.array(SKIES[rng.integers(len(SKIES))], "float32")
    rise = np.arange(size[0], dtype="float32")[:, None, None] / scene.vanishing[1]
    sky = zenith + np.minimum(rise, 1) * (horizon - zenith)
    clouds = np.clip(_noise(rng, size, 7) - rng.uniform(0.2, 1.5), 0, 1)[..., None] * 0.6
    sky = sky + clouds * (horizon.mean() + 20 - sky)
    scene.image.paste(Image.fromarray(np.clip(sky, 0, 255).astype("uint8")))
    scene.haze = horizon.tolist()
    for x in range(-150, 150, 13):
        house = _panel(x, x + 16, 0, rng.uniform(6, 26), 140, 140)
        scene.polygon(house, scene.pick(WALLS), BUILDING)
        if rng.random() < 0.35:
            scene.polygon(_ring(x, 3, 120, rng.uniform(4, 8)), scene.pick(GREENS), TREE)


def _street(scene, kerbs, centre):
    """Pavement everywhere, the road on it with its marks, and the shade of one row of houses."""
    rng, gray = scene.rng, scene.rng.uniform(70, 125)
    stone = scene.pick(((gray + 30,) * 3, (gray + 50, gray + 25, gray + 10)))
    scene.polygon([(-30, 0, NEAR), (30, 0, NEAR), (1500, 0, FAR), (-1500, 0, FAR)], stone, PAVEMENT)
    kerb = _panel(kerbs[0] - 0.2, kerbs[1] + 0.2, 0, 0, NEAR, FAR)
    scene.polygon(kerb, stone, PAVEMENT, 1.2)
    scene.polygon(_panel(*kerbs, 0, 0, NEAR, FAR), (gray,) * 3, ROAD)
    marks = [(centre, 0.15, z) for z in range(rng.integers(2, 6), 80, 6)]
    if rng.random() < 0.35:  # a zebra crossing
        z = rng.uniform(6, 16)
        marks += [(x, 0.55, z) for x in np.arange(kerbs[0] + 0.4, kerbs[1] - 0.5, 1.1).tolist()]
    paint = (gray * rng.uniform(1.3, 2),) * 3
    for x, width, z in marks:
        scene.polygon(_panel(x, x + width, 0, 0, z, z + 3), paint, ROAD)
    if rng.random() < 0.5:
        side = rng.choice((-1, 1))
        scene.polygon(_panel(side * rng.uniform(-2, 4), side * 60, 0, 0, NEAR, FAR), SHADOW)


def _frontage(scene, side, x):
    """The row of buildings and gardens along one side, far to near."""
    rng = scene.rng
    light, edges = rng.uniform(0.65, 1.15), np.cumsum([2, *rng.uniform(7, 16, 8)]).tolist()
    for near, far in reversed(list(itertools.pairwise(edges))):
        if rng.random() < 0.75:
            _building(scene, side, x, near, far, light)
        else:
            _tree(scene, x + side * rng.uniform(1, 3), far - 1)
            _tree(scene, x + side * rng.uniform(1, 3), near + 3)


def _building(scene, side, x, z0, z1, light):
    """A block with a windowed front on the street and a blind end towards the camera."""
    rng, wall, glass = scene.rng, scene.pick(WALLS), scene.pick(GLASS)
    storey, top = 3.2, 3.2 * rng.integers(2, 7)
    end = _panel(x, x + side * 14, 0, top + 1, z0, z0)
    scene.polygon(end, wall, BUILDING, rng.uniform(0.6, 1.1))
    scene.polygon(_wall(x, 0, top + 1, z0, z1), wall, BUILDING, light)
    if rng.random() < 0.4:  # the board of a shop, as gaudy as any sign
        scene.polygon(_wall(x, 2.6, 3.2, z0 + 0.5, z1 - 0.5), scene.pick(SIGNS), BUILDING)
    if z0 < 45:  # farther windows are too small to see
        bay, high = rng.uniform(2.4, 3.4), rng.uniform(1.3, 2)
        for z in np.arange(z0 + 0.8, z1 - 1.5, bay).tolist():
            for y in np.arange(0.9, top, storey).tolist():
                window = _wall(x, y, y + high, z, z + bay / 2)
                scene.polygon(window, glass, BUILDING, 0.7 + 0.6 * rng.random())


def _objects(rng, kerbs, centre):
    """All that stands on the street, as (z, x, painter)."""
    outward = (-1, 1)
    near = int(abs(kerbs[1]) < abs(kerbs[0]))
    x = kerbs[near] + 1.3 * outward[near]
    things = [(abs(x) * rng.uniform(1.8, 2.2) + 1, x, _bin)]
    kinds = [_sign] * 6 + [_pole] * 4 + [_tree] * 4
    for slot, kind in enumerate(rng.permutation(len(kinds)).tolist()):
        side = slot % 2
        x = kerbs[side] + outward[side] * rng.uniform(0.4, 1.0)
        z = max(6.0, IN_VIEW * abs(x)) * 1.22 ** (slot // 2 + rng.uniform(0, 0.5))
        things.append((z, x, kinds[kind]))
    lanes = [(0.0, 9.0, 22), (2 * centre, 7.0, 22)]  # (x, nearest z, mean distance)
    if kerbs[1] - kerbs[0] > 8:  # wide enough for parked rows
        lanes += [(k - s, 1.9 * abs(k), 10) for k, s in zip(kerbs, outward)]
    crossing = rng.uniform(8, 40)
    for x, z, gap in lanes:
        z += rng.uniform(0, 0.7 * gap)
        while z < 60:
            if abs(z - crossing) > 5.5:
                things.append((z, x + rng.uniform(-0.2, 0.2), _car))
            z += rng.uniform(5.5, 2 * gap - 5.5)
    return [*things, (crossing, rng.uniform(*kerbs) - 2, _crossing_car)]


def _crossing_car(scene, x, z):
    """A car that crosses the street, seen from the side."""
    scene.polygon(_panel(x, x + 4.2, 0, 0, z - 0.3, z + 1.5), SHADOW)
    _flank(scene, lambda s, y: (x + s, y, z), scene.pick(PAINTS), scene.rng.uniform(1.4, 1.9))


def _car(scene, x, z):
    """A car along the street: the flank towards the camera, then the end at z."""
    rng, paint, half, height = scene.rng, scene.pick(PAINTS), 0.88, scene.rng.uniform(1.4, 1.9)
    left, right, inner = x - half, x + half, x - math.copysign(half, x)
    scene.polygon(_panel(left - 0.2, right + 0.2, 0, 0, z - 0.2, z + 4.1), SHADOW)
    _flank(scene, lambda s, y: (inner, y, z + s), paint, height)
    for wheel in (left + 0.1, right - 0.4):
        scene.polygon(_panel(wheel, wheel + 0.3, 0, 0.3, z, z), RUBBER, CAR)
    for (s0, y0), (s1, y1) in itertools.pairwise(PROFILE[:4]):  # bumper to boot to roof
        end = _panel(left, right, y0 * height, y1 * height, z + s0, z + s1)
        scene.polygon(end, paint, CAR)
    scene.polygon(_shrink(end, 0.8), scene.pick(GLASS[:2]), CAR, 0.8)
    lamps = ((170, 30, 30), (235, 230, 205))[rng.integers(2)]
    for lamp in (left + 0.05, right - 0.35):
        scene.polygon(_panel(lamp, lamp + 0.3, 0.4 * height, 0.5 * height, z, z), lamps, CAR)


def _flank(scene, place, paint, height):
    """The side of a car on the plane that `place` maps to: body, windows and wheels."""
    body = [place(s, y * height) for s, y in PROFILE]
    scene.polygon(body, paint, CAR, 0.85)
    scene.polygon(_shrink(body[2:6], 0.78), scene.pick(GLASS[:2]), CAR, 0.8)
    for hub in (0.8, 3.3):
        scene.polygon([place(s, y) for s, y, _ in _ring(hub, 0.33, 0, 0.33)], RUBBER, CAR)


def _tree(scene, x, z):
    """Trunk and a crown of leafy blobs, dark below and light above."""
    rng, green, bark = scene.rng, scene.pick(GREENS), scene.pick(METALS[2:])
    stem, spread, half = rng.uniform(2.6, 3.6), rng.uniform(1.3, 2.2), rng.uniform(0.12, 0.22)
    scene.polygon(_panel(x - half, x + half, 0, stem + spread / 2, z, z), bark, TREE)
    for dy, dx, tone in sorted(rng.uniform(-1, 1, (10, 3)).tolist()):
        u, v = x + 0.75 * spread * dx, stem + spread * (0.75 + 0.8 * dy)
        leaves = _ring(u, v, z, spread * (0.5 - 0.15 * abs(dy)))
        scene.polygon(leaves, green, TREE, 1 + 0.25 * dy + 0.15 * tone)


def _pole(scene, x, z):
    """A tall street lamp with an arm over the road."""
    height, half, arm = scene.rng.uniform((5, 0.1, 0.8), (7.5, 0.15, 1.8)).tolist()
    metal = _post(scene, x, z, height, half)
    tip = x + math.copysign(arm, -x)
    scene.polygon(_panel(x, tip, height - 0.2, height, z, z), metal, POLE)


def _post(scene, x, z, height, half):
    """An upright of the class pole, darker on one side; returns its color."""
    metal = scene.pick(METALS)
    scene.polygon(_panel(x - half, x + half, 0, height, z, z), metal, POLE)
    scene.polygon(_panel(x, x + half, 0, height, z, z), metal, POLE, 0.75)
    return metal


def _sign(scene, x, z):
    """A triangle, rectangle or disc on a short post, with a field of a second color."""
    rng, height = scene.rng, scene.rng.uniform(2.2, 3.0)
    _post(scene, x, z, height, rng.uniform(0.07, 0.11))
    corners, tall = ((3, 1.0), (4, rng.uniform(0.7, 1.2)), (16, 1.0))[rng.integers(3)]
    board = _ring(x, height, z, rng.uniform(0.45, 0.65), corners, tall)
    scene.polygon(board, scene.pick(SIGNS), SIGN)
    scene.polygon(_shrink(board, rng.uniform(0.4, 0.75)), scene.pick(SIGNS + PAINTS[:3]), SIGN)


def _bin(scene, x, z):
    """A rubbish container, which no class names."""
    color, height = scene.pick(GREENS + PAINTS), scene.rng.uniform(1.0, 1.3)
    scene.polygon(_panel(x - 0.55, x + 0.55, 0, height, z, z), color, VOID)
    scene.polygon(_panel(x - 0.55, x + 0.55, height - 0.2, height, z, z), color, VOID, 0.7)


def _photograph(rng, image, mask):
    """Blur, texture, uneven light, contrast, color cast and sensor noise."""
    blur = ImageFilter.GaussianBlur(mask.shape[0] / 144 * rng.uniform(0.3, 0.7))
    light = 1 + ROUGHNESS[mask] * _noise(rng, mask.shape, 64) + 0.06 * _noise(rng, mask.shape, 4)
    tint = np.float32(rng.normal(1, 0.06, 3) * rng.uniform(0.7, 1.15))
    pixels = np.asarray(image.filter(blur), "float32") * light[..., None] * tint
    mean = pixels.mean()
    pixels = mean + np.float32(rng.uniform(0.75, 1.1)) * (pixels - mean)
    pixels += rng.uniform(2, 6) * rng.standard_normal(pixels.shape, dtype="float32")
    return np.clip(pixels, 0, 255, out=pixels).astype("uint8")
