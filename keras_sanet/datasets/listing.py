"""What is in a folder: its images, the masks that belong to them, and what is left out."""

import os
import re
import unicodedata
import warnings
from pathlib import Path

from keras_sanet.datasets.dataset import Sample
from keras_sanet.datasets.files import (
    HEIC,
    HEIC_SUFFIXES,
    MAKE_FRAMES,
    MASK_SUFFIXES,
    VIDEO_SUFFIXES,
    by_number,
    image_suffixes,
)

UNUSED = "masks without an image"
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")
# What tools add to a name to say which kind of file it is, as in x_mask, mask_x and x_gt_labelIds.
_MASK_WORDS = (
    "mask|masks|label|labels|labelids|labeltrainids|trainids|ids|gt|gtfine|gtcoarse|groundtruth|"
    "seg|segm|segmentation|semantic|semseg|annotation|annotations|anno"
)
_IMAGE_WORDS = "image|images|img|leftimg8bit|rgb|sat|photo"
_WORDS = f"{_MASK_WORDS}|{_IMAGE_WORDS}"
_SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "dev": "val", "test": "test", "testing": "test",
}  # fmt: skip
MASK_FOLDERS = ("masks", "labels", "annotations")  # beside images/
_MASK_FOLDER_ENDS = ("_labels", "_masks", "_label", "_mask", "_annotations", "_gt", "annot")
_MASK_AT_END = re.compile(rf"(?<=.)[-_. ]({_MASK_WORDS}|l)$")
_MASK_AT_START = re.compile(rf"^({_MASK_WORDS})[-_. ](?=.)")
_AT_END = re.compile(rf"(?<=.)[-_. ]({_WORDS}|l)$")
_AT_START = re.compile(rf"^({_WORDS})([-_. ]|(?=[0-9]))(?=.)")


class LeftOutWarning(UserWarning):
    """What was found in a folder and is not read."""


def find_images(folder, left_out=None):
    """Lists the image files of a folder, sorted by name, 2 before 10.

    Args:
        folder: the folder.
        left_out: dict from a reason to paths, which gets the other files but hidden ones; if None,
            a warning names them.

    Raises:
        FileNotFoundError: where there are none.
    """
    others = {}
    found = _list(folder, image_suffixes(), others)
    if not found:
        there = f" It holds {'; '.join(describe(others))}." if others else ""
        raise FileNotFoundError(f"{folder} holds no image ({', '.join(image_suffixes())}).{there}")
    if left_out is None:
        warn(folder, others)
    else:
        _add(others, left_out)
    return found


def _list(folder, suffixes, left_out):
    """Files of a folder with one of some suffixes, sorted by name; others go to `left_out`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder}.")
    found = []
    with os.scandir(folder) as entries:  # knows what its entries are: 100,000 in a second
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()
            if _is_hidden(entry.name):
                continue
            if entry.is_dir():
                reason = "folders, which are not searched"
            elif suffix in suffixes and (entry.is_file() or entry.is_symlink()):
                found.append(entry.name)
                continue
            elif suffix in VIDEO_SUFFIXES:
                reason = f"videos, which are not decoded ({MAKE_FRAMES.format('VIDEO')})"
            elif suffix in HEIC_SUFFIXES:
                reason = f"pictures in {HEIC}"
            else:
                reason = "files of kinds that are not read"
            left_out.setdefault(reason, []).append(folder / entry.name)
    return [folder / name for name in sorted(found, key=by_number)]


def _is_hidden(name):
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def visible_files(folder):
    """The files of a folder and of those in it."""
    return {
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(map(_is_hidden, path.relative_to(folder).parts))
    }


def outside(folder, parts, left_out):
    """Adds what a folder holds beside its sub-folders `parts` to `left_out`."""
    others = {}
    found = _list(folder, image_suffixes(), others)
    beside = [path for paths in others.values() for path in paths if path.name not in parts]
    _add({f"files or folders beside {', '.join(parts)}": found + beside}, left_out)


def _add(others, left_out):
    for reason, paths in others.items():
        if paths:
            left_out.setdefault(reason, []).extend(paths)


def describe(left_out):
    """Texts of what was left out: how many, why, and the first names."""
    texts = []
    for reason, paths in left_out.items():
        shown = sorted(paths, key=by_number)[:3]
        names = [p if isinstance(p, str) else f"{p.parent.name}/{p.name}" for p in shown]
        texts.append(f"{len(paths)} {reason}: {', '.join(names)}{', ...' * (len(paths) > 3)}")
    return texts


def warn(source, left_out):
    """A warning of what was left out, if anything was."""
    if left_out:
        text = f"Left out of {source}: {'; '.join(describe(left_out))}."
        warnings.warn(text, LeftOutWarning, stacklevel=3)


def folders_of(folder):
    """The folders in a folder, sorted by name, but hidden ones and those that can't be opened."""
    there = folder.iterdir() if folder.is_dir() else ()
    there = (path for path in there if path.is_dir() and not path.name.startswith("."))
    return sorted(path for path in there if os.access(path, os.R_OK | os.X_OK))


def mask_folder(folder):
    """The folder of the masks of `train/` beside it, such as `train_labels/`, or None."""
    there = (folder.with_name(f"{folder.name}{end}") for end in _MASK_FOLDER_ENDS)
    return next((path for path in there if path.is_dir()), None)


def split_name(folder):
    """The split that a folder or list of this name is: "Valid" is "val"."""
    return _SPLITS.get(folder.lower(), folder)


def find_split(names):
    """The split that the first of some names that names one is; None where none does."""
    return next((split_name(name) for name in names if name.lower() in _SPLITS), None)


def pair(images, masks, left_out, suffixes=MASK_SUFFIXES):
    """Pairs the images of a folder with their masks in another.

    The mask of x.jpg is x.png, or another lossless file of the same name. Where there is none it is
    what differs in capitals or in what tools add to a name: x_mask.png, mask_x.png, x.jpg.png,
    x_gtFine_labelIds.png and the like.

    Args:
        images: the folder of the images.
        masks: the folder of the masks.
        left_out: dict from a reason to paths, which gets the files that are in no sample.
        suffixes: of the files that may be masks.

    Returns:
        List of `Sample`.

    Raises:
        FileNotFoundError: for an image without a mask.
        ValueError: where several masks would do, or one for several images.
    """
    image_files = find_images(images, left_out)
    unread = {}
    mask_files = _list(masks, suffixes, unread)
    found = _match(image_files, mask_files)
    missing = [image for image in image_files if image not in found]
    if missing:
        raise FileNotFoundError(
            _not_found(missing, len(image_files), images, masks, unread, mask_files)
        )
    _add(unread, left_out)
    used = set(found.values())
    _add({UNUSED: [mask for mask in mask_files if mask not in used]}, left_out)
    return [Sample(image, found[image]) for image in image_files]


def pair_beside(folder, left_out, suffixes=MASK_SUFFIXES):
    """Pairs the images of a folder with their masks beside them.

    Masks are x_mask.png, mask_x.png and the like of x.jpg; where there are none, x.png of x.jpg.

    Args:
        folder: the folder.
        left_out: as for `pair`.
        suffixes: likewise.

    Returns:
        List of `Sample`; empty where the folder holds no mask.

    Raises:
        FileNotFoundError: for an image without a mask, where others have one.
        ValueError: as `pair`.
    """
    others = {}
    files = _list(folder, image_suffixes(), others)
    masks = _masks_among(files, suffixes)
    if not masks:
        return []
    images = [path for path in files if path not in set(masks)]
    found = _match(images, masks)
    missing = [image for image in images if image not in found]
    if missing:
        raise FileNotFoundError(_not_found(missing, len(images), folder, folder, {}, masks))
    _add(others, left_out)
    used = set(found.values())
    _add({UNUSED: [mask for mask in masks if mask not in used]}, left_out)
    return [Sample(image, found[image]) for image in images]


def has_masks_beside(folder):
    """Whether `pair_beside` finds a mask."""
    return bool(_masks_among(_list(folder, image_suffixes(), {}), MASK_SUFFIXES))


def _masks_among(files, suffixes):
    """The files of a folder that are masks of others, told by their names."""
    stems = {stem for path in files for stem in _forms(path.stem, path.name)}
    masks = []
    for path in files:
        stem = path.stem.casefold()
        forms = {_MASK_AT_END.sub("", stem), _MASK_AT_START.sub("", stem)} - {stem}
        if path.suffix.lower() in suffixes and forms & stems:
            masks.append(path)
    if not masks:
        lossy = {path.stem for path in files if path.suffix.lower() not in MASK_SUFFIXES}
        masks = [p for p in files if p.suffix.lower() in MASK_SUFFIXES and p.stem in lossy]
    return masks


def pair_names(file, names, images, masks, suffixes=MASK_SUFFIXES):
    """Pairs the images and masks that a list names, without their suffixes.

    Args:
        file: the list, for messages.
        names: its names, with folders, if any.
        images: the folder of the images.
        masks: the folder of the masks.
        suffixes: of the files that may be masks.

    Returns:
        List of `Sample`.

    Raises:
        FileNotFoundError: a file is not there; it says whether images or masks are missing.
    """
    if not names:
        raise FileNotFoundError(f"{file} lists no image: it has the name of an image a line.")
    if not images.is_dir():
        raise FileNotFoundError(
            f"There is no folder {images}, with the images that {file} lists. Export them too: "
            'in CVAT with "save images".'
        )
    found = []
    for folder, allowed in ((images, image_suffixes()), (masks, suffixes)):
        there = {}
        for path in sorted(visible_files(folder)):
            if path.suffix.lower() in allowed:
                name = path.relative_to(folder).with_suffix("").as_posix()
                if there.setdefault(name, path) != path and name in names:
                    raise ValueError(
                        f"{there[name]} and {path} are both {name!r}. Keep one of them."
                    )
        if missing := [name for name in names if name not in there]:
            raise FileNotFoundError(
                f"{len(missing)} of {len(names)} files that {file} lists are not in {folder}: "
                f"{', '.join(map(repr, missing[:3]))}."
            )
        found.append([there[name] for name in names])
    return [Sample(*paths) for paths in zip(*found)]


def divide(samples):
    """The splits of samples that come without: every fifth is "val", the others "train"."""
    return {
        "train": [sample for i, sample in enumerate(samples) if i % 5 != 4],
        "val": samples[4::5],
    }


def _match(images, masks):
    """Dict from an image to its mask, of the images that have one."""
    found, taken, loosely = {}, {}, set()  # image -> mask, mask -> image, images
    for exact, candidates in _rounds(images, masks):
        chosen = {}
        for image in images:
            if image in found and image not in loosely:
                continue
            free = [mask for mask in dict.fromkeys(candidates(image)) if mask not in taken]
            several = [found[image], *free] if image in found else free
            if len(several) > 1:
                raise ValueError(
                    f"{image} has several masks in {free[0].parent}: "
                    f"{', '.join(mask.name for mask in several)}. Keep one of them, or name it "
                    f"{image.stem}.png."
                )
            if free:
                chosen.setdefault(free[0], []).append(image)
        for mask, claimants in chosen.items():
            if len(claimants) > 1:
                raise ValueError(_shared(claimants, mask))
            found[claimants[0]], taken[mask] = mask, claimants[0]
            if not exact:
                loosely.add(claimants[0])
        if len(found) == len(images) and not loosely:
            break
    missing = [image for image in images if image not in found]
    for _, candidates in _rounds(missing, masks) if missing else ():
        for image in missing:
            for mask in candidates(image):
                raise ValueError(_shared([taken[mask], image], mask))
    return found


def _rounds(images, masks):
    """Pairs of whether names must be the same, and a function from an image to the masks that fit
    it; each fits less well than those before."""
    by_name, by_stem = {mask.name: [mask] for mask in masks}, {}
    for mask in masks:
        by_stem.setdefault(mask.stem, []).append(mask)
    yield True, lambda image: by_stem.get(image.name, ())
    yield True, lambda image: by_name.get(f"{image.stem}.png", ())
    yield True, lambda image: by_stem.get(image.stem, ())
    by_form = {}
    for mask in masks:
        for form, words in _forms(mask.stem).items():
            by_form.setdefault((form, words), []).append(mask)
    forms = {image: _forms(image.stem, image.name) for image in images}
    most = max((words for _, words in by_form), default=0)
    most += max(max(words.values()) for words in forms.values())
    for words in range(most + 1):

        def fitting(image, words=words):
            """Masks of the same name but for so many words of both, and for capitals."""
            for form, own in forms[image].items():
                yield from by_form.get((form, words - own), ())

        yield words == 0, fitting


def _shared(images, mask):
    names = " and ".join(image.name for image in images)
    return (
        f"{names} of {images[0].parent} would share the mask {mask}. Rename one of them, and give "
        "it a mask of its name."
    )


def _forms(*names):
    """Dict from the forms of a name, whatever its capitals and the way it writes accents, with
    fewer and fewer words of tools, to how many words are gone."""
    found = {unicodedata.normalize("NFC", name).casefold(): 0 for name in names}
    queue = list(found)
    for form in queue:
        for shorter in (_AT_END.sub("", form), _AT_START.sub("", form)):
            if shorter not in found:
                found[shorter] = found[form] + 1
                queue.append(shorter)
    return found


def _not_found(missing, count, images, masks, unread, mask_files=()):
    """The text of an error."""
    image = missing[0]
    text = (
        f"{len(missing)} of {count} images of {images} have no mask of the same name and .png in "
        f"{masks}. The first: {image.name} (looked for {masks / f'{image.stem}.png'} and the like)."
    )
    if mask_files:
        names = ", ".join(path.name for path in mask_files[:3])
        text += f" The masks there are {names}{', ...' * (len(mask_files) > 3)}."
    others = [path for paths in unread.values() for path in paths]
    lossy = [path for path in others if path.suffix.lower() in image_suffixes()]
    if lossy:
        text += (
            f" {lossy[0]} and other files there are of lossy formats, which change the ids at "
            "edges: write masks as PNG from where they were made."
        )
    elif others:
        text += f" There are {len(others)} files of other kinds, such as {others[0].name}."
    return text
