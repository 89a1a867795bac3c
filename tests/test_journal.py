"""Journals of evaluations that others made, or damaged."""

import json
import os
import tracemalloc

import pytest

from keras_sanet.evaluation import load
from keras_sanet.evaluation.evaluate import _digest_of

DIGEST = "0123456789abcdef" * 2
HEADER = {
    "class_names": ["road", "sky"],
    "palette": [[1, 2, 3], [4, 5, 6]],
    "source": "set, val",
    "mode": {"scales": [1.0], "flip": False, "window": None, "bucket": None},
    "categories": {"all": [0, 1]},
    "absent_as_zero": False,
    "model": DIGEST,
    "samples": 2,
    "images": _digest_of(["a", "b"]),
    "masks": DIGEST,
    "class_ids": DIGEST,
}
# Of a 3 road pixels right and 1 taken for sky; of b 2 sky pixels right.
LINES = [
    {"image": "a", "cells": [0, 1], "pixels": [3, 1]},
    {"image": "b", "cells": [3], "pixels": [2]},
]
INSTANCES = [[4.0, 3.0, 4.0], [float("nan")] * 3]


def write(folder, *lines):
    """Writes a journal of lines: bytes as they are, else as JSON."""
    path = folder / "images.jsonl"
    path.write_bytes(
        b"".join(
            (line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n"
            for line in lines
        )
    )
    return path


def test_a_journal_by_hand_is_loaded(tmp_path):
    write(tmp_path, HEADER, *LINES)
    assert load(tmp_path).confusion.tolist() == [[3, 1], [0, 2]]
    assert [counts.tolist() for counts in load(tmp_path).counts] == [
        # right, true and predicted of road and sky
        [[3, 0], [4, 0], [3, 1]],
        [[0, 2], [0, 2], [0, 2]],
    ]


def header(**changes):
    return {**HEADER, **changes}


def second(**changes):
    """Header and lines, the second of which differs."""
    return [HEADER, LINES[0], {**LINES[1], **changes}]


def without(name):
    return {key: value for key, value in HEADER.items() if key != name}


CRAFTED = {
    "header is a list": ([[HEADER]], "line 1: it must be a dict"),
    "header is null": ([None], "line 1: it must be a dict"),
    "header is empty": ([{}], "line 1: `class_names` must be"),
    "header is blank": ([b""], "line 1: Expecting value"),
    "header is an entry": ([LINES[0]], "line 1: `class_names` must be a list"),
    **{
        f"header without {name}": ([without(name), *LINES], f"line 1: `{name}` must be .*nothing")
        for name in HEADER
    },
    "no classes": ([header(class_names=[], palette=[])], "line 1: `class_names`"),
    "class name is a number": ([header(class_names=["a", 1])], "line 1: `class_names`"),
    "class names are text": ([header(class_names="ab")], "line 1: `class_names`"),
    "palette is short": ([header(palette=[[1, 2, 3]])], "line 1: `palette` must be 2 lists"),
    "colour of two": ([header(palette=[[1, 2], [4, 5, 6]])], "line 1: `palette`"),
    "colour out of range": ([header(palette=[[1, 2, 256], [4, 5, 6]])], "line 1: `palette`"),
    "colour is text": ([header(palette=["red", "blue"])], "line 1: `palette`"),
    "source is a list": ([header(source=[])], "line 1: `source` must be text"),
    "mode is text": ([header(mode="fast")], "line 1: `mode`"),
    "mode is unknown": ([header(mode={"speed": 1})], "line 1: `mode`"),
    "mode is deep": ([header(mode={"scales": [[[[1.0]]]]})], "line 1: `mode`"),
    "scale is infinite": ([header(mode={"scales": [1e999]})], "line 1: `mode`"),
    "category out of range": ([header(categories={"a": [2]})], "line 1: `categories`"),
    "category of -1": ([header(categories={"a": [-1]})], "line 1: `categories`"),
    "category twice": ([header(categories={"a": [0, 0]})], "line 1: `categories`"),
    "categories are a list": ([header(categories=[[0]])], "line 1: `categories`"),
    "more categories": ([header(categories=dict.fromkeys("abc", [0]))], "line 1: `categories`"),
    "rule is a number": ([header(absent_as_zero=0)], "line 1: `absent_as_zero`"),
    "negative samples": ([header(samples=-1)], "line 1: `samples`"),
    "half a sample": ([header(samples=1.5)], "line 1: `samples`"),
    "true samples": ([header(samples=True)], "line 1: `samples`"),
    "10^12 samples": ([header(samples=10**12)], "line 1: `samples`"),
    "digest is short": ([header(images="ab")], "line 1: `images` must be 32 hex digits"),
    "digest is a dict": ([header(model={})], "line 1: `model`"),
    "entry is a number": ([HEADER, 3], "line 2: it must be a dict. It is: 3"),
    "entry is a list": ([HEADER, [LINES[0]]], "line 2: it must be a dict"),
    "entry is blank": ([HEADER, b"", *LINES], "line 2: Expecting value"),
    "entry without an image": ([HEADER, {"cells": [0], "pixels": [1]}], "line 2: `image`"),
    "entry without cells": ([HEADER, {"image": "a", "pixels": [1]}], "line 2: `cells`"),
    "entry without pixels": ([HEADER, {"image": "a", "cells": [1]}], "line 2: `pixels`"),
    "image is a number": (second(image=3), "line 3: `image` must be a name. It is: 3"),
    "cell out of range": (second(cells=[4]), "line 3: `cells` must be increasing .* below 4"),
    "cell of -1": (second(cells=[-1]), "line 3: `cells`"),
    "cell of 10^30": (second(cells=[10**30]), "line 3: `cells`"),
    "cell is a float": (second(cells=[3.0]), "line 3: `cells`"),
    "cell is true": (second(cells=[True]), "line 3: `cells`"),
    "cell is text": (second(cells=["3"]), "line 3: `cells`"),
    "cells are a slice": (second(cells={"0": 1}), "line 3: `cells`"),
    "cell twice": (second(cells=[3, 3], pixels=[1, 1]), "line 3: `cells`"),
    "cells out of order": (second(cells=[3, 0], pixels=[1, 1]), "line 3: `cells`"),
    "negative pixels": (second(pixels=[-2]), "line 3: `pixels` must be as many positive"),
    "no pixels": (second(pixels=[0]), "line 3: `pixels`"),
    "pixels are a float": (second(pixels=[2.0]), "line 3: `pixels`"),
    "pixels are NaN": (second(pixels=[float("nan")]), "line 3: `pixels`"),
    "pixels are true": (second(pixels=[True]), "line 3: `pixels`"),
    "10^30 pixels": (second(pixels=[10**30]), "line 3: `pixels`"),
    "2^62 pixels": (second(pixels=[2**62]), "line 3: `pixels`"),
    "pixels for two cells": (second(cells=[0, 3]), "line 3: `pixels`"),
    "pixels for no cell": (second(cells=[]), "line 3: `pixels`"),
    "pixels are a number": (second(pixels=2), "line 3: `pixels`"),
    "instances in one alone": (second(instances=INSTANCES), "line 3: `instances` must be absent"),
    "instances are short": (
        [HEADER, {**LINES[0], "instances": [[1.0] * 3]}], "line 2: `instances`"
    ),
    "instances are text": ([HEADER, {**LINES[0], "instances": "NaN"}], "line 2: `instances`"),
    "instances are negative": (
        [HEADER, {**LINES[0], "instances": [[-1.0] * 3] * 2}], "line 2: `instances`"
    ),
    "instances are infinite": (
        [HEADER, {**LINES[0], "instances": [[1e999] * 3] * 2}], "line 2: `instances`"
    ),
    "no JSON": ([HEADER, b"{nonsense"], "line 2: Expecting property name"),
    "no UTF-8": ([HEADER, b'{"image": "\xff"}'], "line 2: 'utf-8' codec can't decode"),
    "nested deep": ([HEADER, b"[" * 100_000], "line 2: .*recursion"),
    "header nested deep": ([b'{"mode": ' + b"[" * 100_000], "line 1: .*recursion"),
    "many digits": ([HEADER, b"9" * 5000], "line 2: Exceeds the limit"),
    "huge line": ([HEADER, b" " * (17 << 20)], "line 2 has more than 16,777,216 bytes"),
    "one image more": ([HEADER, *LINES, LINES[1]], "its images are not the 2 .*, but more"),
    "an image twice": ([HEADER, LINES[0], LINES[0]], "its images are not those that"),
    "another order": ([HEADER, *LINES[::-1]], "its images are not those that"),
    "20,000 classes": (
        [header(class_names=["a"] * 20_000, palette=[[0, 0, 0]] * 20_000)],
        "line 1: the counts of 20000 classes in 0 images ask for 3,200,000,000 bytes",
    ),
    "5,000 classes": (
        [header(class_names=["a"] * 5000, palette=[[0, 0, 0]] * 5000)],
        "line 1: the counts of 5000 classes in 0 images ask for 200,000,000 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_journal_is_named_with_its_line_and_the_way_out(tmp_path, name):
    lines, said = CRAFTED[name]
    path = write(tmp_path, *lines)
    with pytest.raises(ValueError, match=f"images.jsonl is damaged: {said}") as raised:
        load(tmp_path)
    assert str(path) in str(raised.value)
    assert str(raised.value).endswith("Remove it to start again, or give another folder.")


def test_a_journal_takes_little_memory_before_it_is_refused(tmp_path):
    # 3,000 class names are a matrix of 72,000,000 bytes, and each image has 3 x 8 x 3,000 more:
    # 128 MiB hold the matrix and 864 of them.
    names = ["a"] * 3000
    first = header(class_names=names, palette=[[0, 0, 0]] * 3000, samples=1000)
    path = write(tmp_path, first, *LINES[:1] * 1000)
    tracemalloc.start()
    with pytest.raises(ValueError, match="line 866: the counts of 3000 classes in 865 images ask"):
        load(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (136 << 20) + 100 * path.stat().st_size


@pytest.mark.parametrize("what", ["folder", "link", "link to nothing", "pipe"])
def test_what_is_no_file_in_the_place_of_a_journal_is_named(tmp_path, what):
    path, other = tmp_path / "images.jsonl", tmp_path / "other"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("this system has no named pipes")
        os.mkfifo(path)
    else:
        if what == "link":
            write(tmp_path, HEADER, *LINES).rename(other)
        path.symlink_to(other)
    with pytest.raises(ValueError, match="images.jsonl must be a file by itself"):
        load(tmp_path)


def test_a_journal_with_instances_is_loaded(tmp_path):
    lines = [{**line, "instances": INSTANCES} for line in LINES]
    write(tmp_path, HEADER, *lines)
    # 4 + 4 pixels of instances, 3 + 3 right; a pixel of sky taken for road there is none
    assert load(tmp_path).instance_iou_per_class[0] == pytest.approx(6 / 8)
