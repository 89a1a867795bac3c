"""The HTML report of an evaluation."""

import base64
import html.parser
import io
import shutil
import subprocess

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sanet import datasets
from keras_sanet.evaluation import Evaluation, evaluate, load, write_report

COLOURS = [(200, 30, 10), (20, 100, 240), (10, 140, 60)]
NAMES = ["road & rail", "sky <blue>", "tree"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a model that says which colour of a pixel is the brightest."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (root / part / "val").mkdir(parents=True)
    for index in range(10):  # the first has no wrong pixel, each one more than the one before
        truth = rng.integers(0, 3, (8, 12))
        predicted = truth.copy()
        predicted[0, :index] = (truth[0, :index] + 1) % 3
        colours = (255 * np.eye(3, dtype="uint8"))[predicted]
        Image.fromarray(colours).save(root / f"images/val/{index}.png")
        Image.fromarray(truth.astype("uint8")).save(root / f"masks/val/{index}.png")
    lines = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip(NAMES, COLOURS)]
    (root / "classes.txt").write_text("\n".join(lines), "utf-8")
    dataset = datasets.load("folder", root)
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(3, 1, use_bias=False, name="logits")(inputs))
    model.set_weights([np.eye(3, dtype="float32")[None, None] / 255])
    evaluate(model, dataset, "val", folder=root / "run")
    path = root / "report.html"
    write_report(str(path), load(root / "run"), model, dataset, "val")
    return path


class Parser(html.parser.HTMLParser):
    """Collects the words, the headings and the pictures; checks that tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.words, self.headings, self.sources = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.sources.append(dict(attributes)["src"])
        elif tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data)


@pytest.fixture(scope="module")
def parsed(page):
    return Parser(page.read_text("utf-8"))


def test_names_are_shown_as_they_are(parsed):
    words = " ".join(parsed.words)
    assert all(name in words for name in NAMES)


def test_the_best_and_the_worst_images_are_shown_in_order(parsed):
    found = [heading.partition(":")[0] for heading in parsed.headings]
    assert found == [
        "Classes", "Confusion", "Best images", "0", "1", "2", "3", "Worst images", "9", "8", "7",
        "6",
    ]  # fmt: skip


def test_each_image_is_shown_with_truth_prediction_and_errors(parsed):
    assert len(parsed.sources) == 8 * 4
    pictures = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))
        for source in parsed.sources[4:8]  # of image 1, in which the first pixel is wrong
    ]
    image, truth, prediction, wrong = (picture.astype(int) for picture in pictures)
    ids = image.argmax(axis=-1)
    np.testing.assert_array_equal(prediction, np.array(COLOURS)[ids])
    assert np.argwhere((truth != prediction).any(axis=-1)).tolist() == [[0, 0]]
    assert np.argwhere((wrong == (255, 0, 0)).all(axis=-1)).tolist() == [[0, 0]]


def test_an_evaluation_of_other_images_is_refused(tmp_path):
    class Data:
        name = "data"

        def samples(self, split):
            return []

    other = Evaluation(["a"], [(0, 0, 0)], "other, val")
    other.add("i", np.array([[1]]))
    with pytest.raises(ValueError, match="is of other, val, whose images are not those of"):
        write_report(tmp_path / "r.html", other, None, Data(), "val")


def test_the_report_needs_no_other_file(page, parsed):
    assert all(source.startswith("data:image/png;base64,") for source in parsed.sources)
    assert "http" not in page.read_text("utf-8")


def test_metrics_are_in_percent(parsed):
    # 0 + 1 + ... + 9 of 10 x 96 pixels are wrong: 1 - 45 / 960
    assert "95.31" in parsed.words


@pytest.mark.slow
def test_a_browser_renders_the_report(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("neither chromium nor google-chrome is installed")
    picture = tmp_path / "page.png"
    subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,2400",
            f"--screenshot={picture}", page.as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )  # fmt: skip
    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3)
    colours = set(map(tuple, pixels.tolist()))
    # White paper, and the colours of the classes in their bars.
    assert {(255, 255, 255), *COLOURS} <= colours
