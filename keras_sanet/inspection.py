"""A label doctor: what a data set holds, and whether training on it would be safe."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import os

import numpy as np
from PIL import Image

from keras_sanet import _duplicates
from keras_sanet._progress import track
from keras_sanet._tables import html_lines, html_table
from keras_sanet.datasets.dataset import describe_ids, describe_sizes
from keras_sanet.datasets.drawn import DrawnMask
from keras_sanet.datasets.files import (
    VOID,
    open_image,
    open_mask,
    peculiarities,
)
from keras_sanet.datasets.listing import describe
from keras_sanet.visualization import overlay, sheet

# Share of the class edges that have, between two ids, one that lies between them. Seen: at most
# 0.02 in masks of six data sets, 0.19 and more after they were resized bilinearly.
_BLENDED = 0.1
_LEAST_EDGES = 50  # of a mask, to tell
_SHOWN = 3  # files named in a message
_SPLIT_TITLES = ("split", "samples", "official", "sizes (width x height)")
_STRAY = 1e-3  # share of the pixels below which an id is a stray one


# Which shape has a pixel of several, by `DrawnMask.overlap`.
_ON_TOP = {
    "later": "of which the later one has them",
    "smaller": "of which the smaller one has them",
    "void": "and are void",
}


@dataclasses.dataclass
class _Finding:
    """What one sample holds."""

    sample: object
    size: tuple = None
    mode: str = None
    by_color: bool = None  # of a mask of colors or with a palette: whether they are classes'
    ids: np.ndarray = None  # in the mask file
    pixels: np.ndarray = None  # of each of them
    digest: bytes = None  # of the image's pixels
    thumbnail: np.ndarray = None  # of the image
    overlapped: int = 0  # pixels of several shapes, of a mask that is drawn
    between: frozenset = frozenset()  # ids along the edges, if the mask looks interpolated
    orientation: int = 1  # EXIF's, of the image
    several: bool = False  # whether the image's file holds more pictures
    error: str = None


class Inspection:
    """Reads every sample of a data set once, on all cores.

    `print(inspection)` shows all of it.

    Args:
        dataset: from `datasets.load`.
        verbose: whether to show a progress bar; "auto": on a terminal.

    Attributes:
        dataset: the data set.
        pixels: dict from a split to the pixels of each class, int64 (classes + 1,), void last.
        problems: list of strings: what makes training unsafe. Empty if nothing does.
        notes: list of strings: what one should know.
    """

    def __init__(self, dataset, *, verbose="auto"):
        self.dataset = dataset
        self.problems, self.notes = [], [*dataset.notes]
        self.pixels, self._present = {}, {}
        self._findings = {split: [] for split in dataset.splits}
        samples = [(split, s) for split, group in dataset.splits.items() for s in group]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            findings = pool.map(lambda entry: _look(dataset, entry[1]), samples)
            for (split, _), finding in zip(track(samples, "Inspecting", verbose), findings):
                self._findings[split].append(finding)
        for split in dataset.splits:
            self._check(split, self._findings[split])
        self._compare_splits()
        self.notes += [f"left out: {text}." for text in describe(dataset.left_out)]
        if dataset.num_classes == 1:
            self.problems.append(
                f"There is one class, {dataset.class_names[0]}: nothing to tell it from. Name what "
                "is not of it too, as background, with an id of its own in the masks."
            )
        if "train" not in dataset.splits:
            there = ", ".join(dataset.splits) or "none"
            self.problems.append(f"There is no split train; there is: {there}.")
        elif not self.pixels["train"][:-1].any():
            self.problems.append("train: no pixel has a class.")

    def class_weights(self, split="train"):
        """Median frequency balancing, for `SegmentationLoss(class_weights=...)`.

        The frequency of a class is its share of the pixels of the images that show it; its weight
        is the median of all frequencies divided by it. A class that never occurs weighs 0.

        Args:
            split: the split that is counted.

        Returns:
            List of floats, one a class.

        Raises:
            ValueError: the split is unknown, or no pixel of it has a class.

        Reference: Eigen, Fergus, 2015; used by SegNet (Badrinarayanan et al., 2017).
        """
        self.dataset.samples(split)  # an unknown split is an error
        pixels, present = self.pixels[split][:-1], self._present[split]
        frequency = pixels / np.maximum(present, 1)
        occurs = pixels > 0
        if not occurs.any():
            raise ValueError(f"The split {split!r} has no labelled pixel to weigh classes by.")
        median = np.median(frequency[occurs])
        return np.where(occurs, median / np.where(occurs, frequency, 1), 0.0).tolist()

    def sheet(self, *, rows=8, width=320):
        """A page of images, and of masks over them: samples spread over all splits.

        Args:
            rows: number of samples.
            width: width of a picture, pixels.

        Returns:
            `PIL.Image.Image`.

        Raises:
            ValueError: no sample can be shown.
        """
        readable = [f.sample for group in self._findings.values() for f in group if not f.error]
        readable = [sample for sample in readable if sample.mask is not None]
        pictures = []
        chosen = np.linspace(0, len(readable) - 1, min(rows, len(readable))).astype(int)
        for index in chosen:
            try:
                image, mask = self.dataset.read(readable[index])
            except ValueError:
                continue  # an unknown id, among the problems
            colored = overlay(image, mask, self.dataset.palette)
            pictures.append([_thumbnail(image, width), _thumbnail(colored, width)])
        if not pictures:
            raise ValueError(f"{self.dataset.name} has no sample that could be shown.")
        return sheet(pictures, self.dataset.class_names, self.dataset.palette)

    def _check(self, split, findings):
        """Counts the pixels of a split, and adds what is to be said of it."""
        pixels, seen = self._count(split, findings)
        classes, names = self.dataset.num_classes, self.dataset.class_names
        problems, notes = [], []
        problems += [finding.error for finding in findings if finding.error]
        if not findings:
            problems.append("no sample.")
        void = self.dataset.class_ids.get(VOID) == VOID
        binary = [f for f in findings if f.ids is not None and f.ids.tolist() == [0, VOID] and void]
        if np.count_nonzero(pixels[:-1]) == 1 < classes:
            hint = " A mask of two classes holds 0 and 1." if set(seen) == {0, VOID} else ""
            problems.append(
                f"only one of {classes} classes occurs; ids: {describe_ids(seen)}.{hint}"
            )
        elif classes == 2 and binary:
            notes.append(
                f"{len(binary)} masks hold 0 and 255 alone, where others hold 1. 255 is void, or "
                f"should it be 1? {_files(f.sample.mask for f in binary)}."
            )
        blended = [finding for finding in findings if finding.between]
        if blended:
            between = describe_ids(set().union(*(finding.between for finding in blended)))
            text = (
                "masks look resized with interpolation, for ids between those of two neighbors "
                f"stand along the edges, {between}: {_files(f.sample.mask for f in blended)}."
            )
            if max(len(finding.between) for finding in blended) > 2:
                problems.append(f"{text} Resize by nearest neighbor.")
            else:
                notes.append(f"{text} Or is that a class one pixel wide?")
        palettes = sum(f.mode == "P" or f.by_color is False for f in findings)
        if palettes:
            notes.append(
                f"{palettes} masks have a palette or colors that are ids; these are taken."
            )
        if colors := sum(f.by_color is True for f in findings):
            notes.append(f"{colors} masks are read by the colors of the classes.")
        if overlapped := sum(finding.overlapped for finding in findings):
            share = overlapped / max(1, pixels.sum())
            rule = next(_drawn(f.sample.mask).overlap for f in findings if f.overlapped)
            notes.append(f"{share:.2%} of the pixels are of several shapes, {_ON_TOP[rule]}.")
        bare = [f.sample.image for f in findings if _is_bare(f.sample.mask)]
        if bare:
            notes.append(f"{len(bare)} images have no shape, and are background: {_files(bare)}.")
        turned = [finding.sample.image for finding in findings if finding.orientation != 1]
        if turned:
            notes.append(
                f"{len(turned)} images are turned as their EXIF orientation says, and their masks "
                f"must fit them so: {_files(turned)}."
            )
        several = [finding.sample.image for finding in findings if finding.several]
        if several:
            notes.append(
                f"{len(several)} images hold several pictures, of which the first is read: "
                f"{_files(several)}."
            )
        official, count = self.dataset.counts.get(split), len(findings)
        if official not in (None, count):
            notes.append(f"{count} samples, officially {official}: is it complete?")
        if pixels.any():
            absent = [name for name, n in zip(names, pixels) if n == 0]
            if absent:
                off = " Are the ids one off?" if 0 in pixels[[0, -2]] else ""
                notes.append(f"classes that never occur: {', '.join(absent)}.{off}")
            if pixels[-1] > pixels[:-1].sum():
                notes.append("more than half of the pixels are void.")
        self.problems += [f"{split}: {text}" for text in problems]
        self.notes += [f"{split}: {text}" for text in notes]

    def _count(self, split, findings):
        """Counts pixels by class, and names unknown ids; pixels by id in the files are returned,
        too."""
        classes = self.dataset.num_classes
        pixels, present = np.zeros(classes + 1, "int64"), np.zeros(classes, "int64")
        unknown, seen = collections.defaultdict(list), collections.Counter()
        for finding in findings:
            if finding.ids is None:
                continue
            seen.update(dict(zip(finding.ids.tolist(), finding.pixels.tolist())))
            class_ids = self.dataset.classes_of(finding.ids)
            for file_id in finding.ids[class_ids < 0].tolist():
                unknown[file_id].append(finding.sample.mask)
            known = class_ids >= 0
            columns = np.where(class_ids[known] == VOID, classes, class_ids[known])
            counts = np.bincount(columns, finding.pixels[known], classes + 1).astype("int64")
            pixels += counts
            present += np.where(counts[:-1] > 0, counts.sum(), 0)
        self.pixels[split], self._present[split] = pixels, present
        self.problems += [
            f"{split}: the id {file_id} is no class (known: "
            f"{describe_ids(self.dataset.class_ids)}); it is in {_files(files)}."
            for file_id, files in unknown.items()
        ]
        if unknown and (hint := self._off_by_one(seen)):
            self.problems.append(f"{split}: {hint}")
        return pixels, seen

    def _off_by_one(self, seen):
        """A sentence where all ids would be known if they were one less or one more."""
        total = sum(seen.values())
        ids = {file_id for file_id, pixels in seen.items() if pixels > _STRAY * total} - {VOID}
        classes = {i for i, class_id in self.dataset.class_ids.items() if class_id != VOID}
        if ids <= classes:
            return None
        if {i - 1 for i in ids - {0}} <= classes:
            return "The ids look one too high: 0 seems to be void, and the classes to start at 1."
        if {i + 1 for i in ids} <= classes:
            return "The ids look one too low: 0 seems to be a class, and 255 void."
        return None

    def _compare_splits(self):
        """Notes images that occur twice, and calls it a problem across splits."""
        places = collections.defaultdict(list)
        groups = {split: set(samples) for split, samples in self.dataset.splits.items()}
        for split, findings in self._findings.items():
            if any(groups[split] > other > set() for other in groups.values()):
                continue  # a union of others, as VOC's trainval
            for finding in findings:
                if finding.digest:
                    places[finding.digest].append((split, finding.sample.image))
        for group in places.values():
            splits = sorted({split for split, _ in group})
            text = f"the same image in {' and '.join(splits)}: {_files(f for _, f in group)}."
            if len(splits) > 1:
                self.problems.append(text)
            elif len(group) > 1:
                self.notes.append(text)

        for one, other in itertools.combinations(groups, 2):
            if groups[one] & groups[other]:
                continue  # a union, as above
            pictures = (
                [(f.sample.image, f.thumbnail, f.digest) for f in self._findings[split] if f.digest]
                for split in (one, other)
            )
            self.notes += _duplicates.describe(one, other, *pictures)

    def __str__(self):
        data = self.dataset
        lines = [f"{data.name}, {data.num_classes} classes", ""]
        for split, count, official, sizes in [_SPLIT_TITLES, *self._splits()]:
            lines.append(f"{split:12}{count:>9}{official:>10}   {sizes}")
        titles, rows = self._shares()
        if rows:
            width = max(len(name) for name, *_ in [titles, *rows])
            lines.append("")
            for name, *shares in [titles, *rows]:
                lines.append(f"{name:{width}}" + "".join(f"{share:>10}" for share in shares))
        return "\n".join([*lines, "", *self._findings_in_words()])

    def __repr__(self):
        return (
            f"<Inspection of {self.dataset.name}: {len(self.problems)} problems, "
            f"{len(self.notes)} notes>"
        )

    def _repr_html_(self):
        splits = html_table(_SPLIT_TITLES, self._splits())
        return splits + html_table(*self._shares()) + html_lines(self._findings_in_words())

    def _splits(self):
        """Rows of `_SPLIT_TITLES`."""
        official, rows = self.dataset.counts, []
        for split, findings in self._findings.items():
            sizes = collections.Counter(f.size for f in findings if f.size)
            common = ", ".join(f"{w}x{h} ({n})" for (w, h), n in sizes.most_common(3))
            more = f", {len(sizes) - 3} more" if len(sizes) > 3 else ""
            rows.append((split, len(findings), official.get(split, ""), f"{common}{more}"))
        missing = [split for split in official if split not in self._findings]
        return rows + [(split, 0, official[split], "not there") for split in missing]

    def _shares(self):
        """Titles and rows: percent of the pixels of the labelled splits, by class."""
        labelled = {split: pixels for split, pixels in self.pixels.items() if pixels.any()}
        shares = [100 * pixels / pixels.sum() for pixels in labelled.values()]
        names = [*self.dataset.class_names, "void"] if labelled else []
        rows = [(name, *(f"{s[i]:.2f}" for s in shares)) for i, name in enumerate(names)]
        return ["class, % of pixels", *labelled], rows

    def _findings_in_words(self):
        count = len(self.problems)
        verdict = f"{count} problems: training is not safe" if count else "training would be safe"
        return [
            *(f"note: {note}" for note in self.notes),
            *(f"PROBLEM: {problem}" for problem in self.problems),
            f"{self.dataset.name}: {verdict}.",
        ]


def _drawn(mask):
    """The `DrawnMask` that a mask is, cached or not; None for another."""
    mask = getattr(mask, "source", mask)
    return mask if isinstance(mask, DrawnMask) else None


def _is_bare(mask):
    drawn = _drawn(mask)
    return drawn is not None and not drawn.shapes


def _look(dataset, sample):
    """Decodes a sample and describes it."""
    finding = _Finding(sample)
    try:
        image = open_image(sample.image)
        finding.size = image.size
        finding.orientation, finding.several = peculiarities(sample.image)
        finding.digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        finding.thumbnail = _duplicates.thumbnail(image)
        if sample.mask is None:
            return finding
        mask = open_mask(dataset.mask_of(sample))
        finding.mode, finding.by_color = mask.mode, mask.info.get("colors")
        finding.overlapped = mask.info.get("overlapped", 0)
        ids = np.asarray(mask)
        if mask.size != image.size:
            finding.error = describe_sizes(sample, image.size, mask.size)
        if ids.dtype == np.uint8:  # Pillow's histogram is quicker
            pixels = np.array(mask.histogram())
            finding.ids = np.flatnonzero(pixels)
            finding.pixels = pixels[finding.ids]
        else:
            finding.ids, finding.pixels = np.unique(ids, return_counts=True)
        finding.between = _ids_between(ids)
    except ValueError as error:
        finding.error = str(error)
    except OSError as error:
        finding.error = f"{sample.image}: {error}"
    return finding


def _ids_between(ids):
    """Ids that stand along the class edges of a mask between those of both sides, if many do."""
    edges, found = 0, []
    for turned in (ids, ids.T):
        before, here, after = turned[:, :-2], turned[:, 1:-1], turned[:, 2:]
        rising, falling = (before < here) & (here < after), (before > here) & (here > after)
        edges += np.count_nonzero(before != after)
        found.append(here[rising | falling])
    found = np.concatenate(found)
    if edges < _LEAST_EDGES or found.size <= _BLENDED * edges:
        return frozenset()
    return frozenset(np.unique(found).tolist())


def _thumbnail(array, width):
    """At most (width, 3/4 width), centred on a page of that size."""
    image = Image.fromarray(array)
    image.thumbnail((width, width * 3 // 4))
    page = Image.new("RGB", (width, width * 3 // 4), "white")
    page.paste(image, ((width - image.width) // 2, (page.height - image.height) // 2))
    return np.asarray(page)


def _files(files):
    """The first of some files, in words."""
    files = [*map(str, files)]
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return ", ".join(files[:_SHOWN]) + more
