"""Pictures of masks and errors, plots, and what the aggregator does with each tap."""

import sys

import keras
import numpy as np
import pytest

from keras_sanet.models import FCN, PSPNet, SANet
from keras_sanet.visualization import (
    aggregator_gates,
    color_mask,
    errors,
    legend,
    overlay,
    palette,
    plot_bands,
    plot_confusion_matrix,
    plot_gates,
    plot_intervals,
    plot_training_curves,
    save_plot,
    sheet,
)

PALETTE = [(10, 20, 30), (200, 100, 0)]
MASK = np.array([[0, 1, 255]], "uint8")


@pytest.fixture
def plt():
    """pyplot without a window; closes what was drawn."""
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


# Colours


def test_a_palette_has_the_voc_colours_from_1_on():
    # 1 = 0b001 is the highest bit of red, 2 of green, 3 of both, 4 of blue.
    assert palette(4) == [(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]


def test_the_largest_palette_has_255_distinct_colours_none_of_them_black():
    assert len({*palette(255), (0, 0, 0)}) == 256


@pytest.mark.parametrize("num_classes", [0, 256])
def test_a_palette_of_more_classes_than_a_mask_has_ids_is_refused(num_classes):
    with pytest.raises(ValueError, match=f"must be 1 to 255.*num_classes={num_classes}"):
        palette(num_classes)


def test_color_mask_gives_the_colours_of_the_classes_and_void_black():
    coloured = color_mask(MASK, PALETTE)
    assert coloured.dtype == "uint8"
    assert coloured.tolist() == [[[10, 20, 30], [200, 100, 0], [0, 0, 0]]]


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_color_mask_takes_any_integer(dtype):
    assert color_mask(MASK.astype(dtype), PALETTE)[0, 1].tolist() == [200, 100, 0]


def test_overlay_mixes_by_alpha_and_leaves_void_as_it_is():
    image = np.full((1, 3, 3), 100, "uint8")
    mixed = overlay(image, MASK, PALETTE, alpha=0.25)
    # 0.75 x 100 + 0.25 x (10, 20, 30) = (77.5, 80, 82.5), halves to even; 75 + (50, 25, 0).
    assert mixed.dtype == "uint8"
    assert mixed.tolist() == [[[78, 80, 82], [125, 100, 75], [100, 100, 100]]]


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 100), (1.0, 200)])
def test_overlay_runs_from_the_image_to_the_colour(alpha, expected):
    image = np.full((1, 3, 3), 100, "uint8")
    assert overlay(image, MASK, PALETTE, alpha=alpha)[0, 1, 0] == expected


# Errors


def test_errors_are_red_right_pixels_dim_grey_and_void_black():
    image = np.array([[[0, 0, 0], [200, 200, 200], [9, 9, 9], [200, 200, 200]]], "uint8")
    truth, mask = np.array([[1, 1, 1, 255]]), np.array([[1, 1, 0, 0]])
    # Grey is 48 + brightness / 2: 48 and 148.
    expected = [[[48, 48, 48], [148, 148, 148], [255, 0, 0], [0, 0, 0]]]
    picture = errors(image, truth, mask)
    assert picture.dtype == "uint8"
    assert picture.tolist() == expected


def test_the_grey_of_errors_is_the_brightness_of_itu_r_601():
    image = np.array([[[255, 0, 0], [0, 255, 0], [255, 255, 255]]], "uint8")
    # 0.299 x 255 = 76, 0.587 x 255 = 150, 255; halves 38, 75, 127, and 48.
    assert errors(image, MASK * 0, MASK * 0)[0, :, 0].tolist() == [86, 123, 175]


def test_errors_name_the_sizes_that_differ():
    image = np.zeros((1, 3, 3), "uint8")
    with pytest.raises(ValueError, match=r"\(1, 3, 3\), \(1, 3\), \(1, 2\)"):
        errors(image, MASK, MASK[:, :2])


# Sheets


def test_a_sheet_has_its_pictures_in_rows_above_a_legend():
    # 2 rows of 3 pictures of 20 x 40: 40 x 120, one line of legend below.
    pictures = [[np.full((20, 40, 3), 10 * (3 * r + c), "uint8") for c in range(3)] for r in (0, 1)]
    page = np.asarray(sheet(pictures, ["a", "b"], PALETTE))
    assert page.shape == (40 + 6 + 18 + 6, 120, 3)
    np.testing.assert_array_equal(page[20:40, 40:80], pictures[1][1])


def test_the_legend_of_a_sheet_shows_each_colour_and_ink_for_the_names():
    page = np.asarray(sheet([[np.full((20, 120, 3), 255, "uint8")]], ["a", "b"], PALETTE))
    legend = {tuple(colour) for colour in page[20:].reshape(-1, 3).tolist()}
    assert {*PALETTE, (0, 0, 0)} <= legend


def test_a_legend_wider_than_the_sheet_goes_on_in_the_next_line():
    picture = np.zeros((10, 60, 3), "uint8")
    names, palette = ["long name"] * 3, [(1, 1, 1)] * 3
    # Each entry is wider than half of the 60 pixels: one a line.
    assert sheet([[picture]], names, palette).height == 10 + 6 + 3 * 18 + 6


def test_titles_stand_in_a_line_of_18_pixels_above_the_pictures():
    pictures = [np.full((20, 60, 3), value, "uint8") for value in (10, 20)]
    plain = sheet([pictures], ["a"], PALETTE)
    page = np.asarray(sheet([pictures], ["a"], PALETTE, titles=["image", "truth"]))
    np.testing.assert_array_equal(page[18:], np.asarray(plain))
    for column in (page[:18, :60], page[:18, 60:]):
        ink = column.min(axis=(0, 2))
        assert ink.min() < 128
        # Centred: as much white on the left as on the right, within the pixel that halves leave.
        left, right = np.argmax(ink < 255), np.argmax(ink[::-1] < 255)
        assert abs(left - right) <= 2


def test_a_title_wider_than_its_column_leaves_the_next_one_alone():
    pictures = [np.zeros((4, 30, 3), "uint8")] * 2
    page = np.asarray(sheet([pictures], ["a"], PALETTE, titles=["wide " * 9, ""]))
    assert page[:18, :30].min() < 128
    assert page[:18, 30:].min() == 255


def test_the_number_of_titles_is_the_number_of_columns():
    with pytest.raises(ValueError, match=r"one entry a column, 1. Received: titles=\['a', 'b'\]"):
        sheet([[np.zeros((4, 4, 3), "uint8")]], ["a"], PALETTE, titles=["a", "b"])


@pytest.mark.parametrize(
    "sizes", [[(4, 5), (4, 6)], [(4, 5), (3, 5)], [(4, 5)], []], ids=["width", "height", "few", "0"]
)
def test_a_row_whose_pictures_do_not_fit_is_named(sizes):
    rows = [[(4, 5), (4, 5)], [(9, 5), (9, 5)], sizes]  # rows may differ in height
    rows = [[np.zeros((*size, 3), "uint8") for size in row] for row in rows]
    with pytest.raises(ValueError, match=r"\[5, 5\], as row 0. Received: row 2 with"):
        sheet(rows, ["a"], PALETTE)


@pytest.mark.parametrize("rows", [[], [[]]])
def test_a_sheet_without_pictures_is_refused(rows):
    with pytest.raises(ValueError, match="`rows` must hold a row of one picture at least"):
        sheet(rows, ["a"], PALETTE)


def test_letters_beyond_ascii_are_drawn_as_letters_and_not_as_boxes(plt):
    # Boxes would all be the same. matplotlib carries a font that has both.
    pages = [np.asarray(legend([name], PALETTE, 60)) for name in ("\u0436", "\u0448")]
    assert (pages[0] != pages[1]).any()


# Curves (Figure 3)


def write_log(path, rows, columns=("loss", "val_mean_iou")):
    lines = [",".join(("epoch", *columns)), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def points(ax):
    """label -> [(x, y), ...] of the curves."""
    return {
        line.get_label(): list(zip(*map(np.ndarray.tolist, line.get_data()))) for line in ax.lines
    }


def test_figure3_a_curve_is_in_percent_over_epochs_from_1(plt, tmp_path):
    log = write_log(tmp_path / "log.csv", [(0, 2.0, 0.25), (1, 1.5, 0.5)])
    ax = plot_training_curves(log)
    assert points(ax) == {str(log): [(1, 25), (2, 50)]}
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "validation mean IoU (%)")


def test_a_loss_is_not_in_percent(plt, tmp_path):
    log = write_log(tmp_path / "log.csv", [(0, 2.0, 0.25), (1, 1.5, 0.5)])
    ax = plot_training_curves(str(log), "loss")
    assert points(ax) == {str(log): [(1, 2.0), (2, 1.5)]}
    assert ax.get_ylabel() == "loss"


def test_logs_of_a_list_are_curves_of_their_own_on_the_axes_given(plt, tmp_path):
    logs = [write_log(tmp_path / f"{n}.csv", [(0, 1, n / 4)]) for n in (1, 2)]
    ax = plt.subplots()[1]
    assert plot_training_curves(logs, ax=ax) is ax
    assert points(ax) == {str(logs[0]): [(1, 25)], str(logs[1]): [(1, 50)]}


def test_logs_under_one_label_follow_each_other(plt, tmp_path):
    first = write_log(tmp_path / "cross_entropy.csv", [(0, 1, 0.25), (1, 1, 0.5), (2, 1, "NA")])
    second = write_log(tmp_path / "lovasz.csv", [(0, 1, 0.75)])
    ax = plot_training_curves({"SANet": [first, second], "FCN": second})
    assert points(ax) == {"SANet": [(1, 25), (2, 50), (4, 75)], "FCN": [(1, 75)]}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["SANet", "FCN"]


def test_of_an_epoch_that_a_resumed_training_wrote_twice_the_later_row_counts(plt, tmp_path):
    rows = [(0, 1, 0.25), (1, 1, 0.5), (1, 1, 0.75), (2, 1, 1.0)]
    ax = plot_training_curves({"run": write_log(tmp_path / "log.csv", rows)})
    assert points(ax) == {"run": [(1, 25), (2, 75), (3, 100)]}


def test_epochs_without_validation_are_left_out_of_the_log_of_keras(plt, tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    logger.set_model(keras.Sequential())
    logger.on_train_begin()
    logger.on_epoch_end(0, {"loss": 2.0, "val_mean_iou": 0.25})
    logger.on_epoch_end(1, {"loss": 1.0})
    logger.on_epoch_end(2, {"loss": 1.0, "val_mean_iou": 0.5})
    logger.on_train_end()
    ax = plot_training_curves({"run": tmp_path / "log.csv"})
    assert points(ax) == {"run": [(1, 25), (3, 50)]}


def test_a_figure_that_a_log_lacks_is_told_with_the_file_and_what_it_has(plt, tmp_path):
    log = write_log(tmp_path / "log.csv", [(0, 1, 0.25)])
    with pytest.raises(ValueError, match="log.csv has no metric 'iou'. It has: loss, val"):
        plot_training_curves(log, "iou")


@pytest.mark.parametrize("text", ["", "epoch,loss\n"])
def test_a_log_without_an_epoch_is_named(text, plt, tmp_path):
    (tmp_path / "log.csv").write_text(text, "utf-8")
    with pytest.raises(ValueError, match="log.csv holds no epoch"):
        plot_training_curves(tmp_path / "log.csv")


def test_no_log_at_all_is_refused(plt):
    with pytest.raises(ValueError, match=r"`logs` must hold one CSV file at least.*logs=\{\}"):
        plot_training_curves([])


# Repeated trainings


def test_repeated_curves_have_a_band_from_low_to_high(plt):
    ax = plot_bands({"SANet": ([1, 2], [0.5, 1], [1.5, 3])}, "mean accuracy (%)")
    assert points(ax) == {"SANet": [(1, 1), (2, 2)]}
    (band,) = ax.collections
    corners = band.get_paths()[0].vertices.tolist()
    assert all(corner in corners for corner in ([1, 0.5], [2, 1], [1, 1.5], [2, 3]))
    assert ax.get_ylabel() == "mean accuracy (%)"


def test_an_interval_is_a_line_with_a_dot_at_the_mean_first_row_above(plt):
    ax = plot_intervals({"PSP": (1, 0, 2), "SANet": (3, np.nan, np.nan)}, "points")
    line, dot, _, other, zero = ([list(row) for row in line.get_data()] for line in ax.lines)
    assert (line, dot, other) == ([[0, 2], [0, 0]], [[1], [0]], [[3], [1]])
    assert zero[0] == [0, 0]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["PSP", "SANet"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


def test_a_saved_plot_is_closed(plt, tmp_path):
    save_plot(plot_intervals({"PSP": (1, 0, 2)}, "points"), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert plt.get_fignums() == []


def test_the_label_below_intervals_is_whole_beside_long_ones(plt):
    differences = {"concatenation, three convolutions": (1, 0, 2)}
    ax = plot_intervals(differences, "mean IoU less FCN + PSP + aggregation (SANet)'s, points")
    ax.figure.canvas.draw()
    label, picture = ax.xaxis.label.get_window_extent(), ax.figure.bbox
    assert picture.x0 <= label.x0 and label.x1 <= picture.x1


# Confusion matrices


def test_a_confusion_matrix_is_in_percent_of_its_rows(plt):
    ax = plot_confusion_matrix([[3, 1], [6, 4]], ["cat", "dog"])
    # 3 of 4 pixels, 1 of 4; 6 of 10, 4 of 10.
    np.testing.assert_allclose(ax.images[0].get_array(), [[75, 25], [60, 40]])
    assert [text.get_text() for text in ax.texts] == ["75", "25", "60", "40"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["cat", "dog"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted class", "true class")


def test_a_class_that_is_not_in_the_truth_has_a_blank_row(plt):
    ax = plot_confusion_matrix(np.array([[1, 3], [0, 0]]), ["cat", "dog"])
    np.testing.assert_array_equal(
        np.ma.getmaskarray(ax.images[0].get_array()), [[False] * 2, [True] * 2]
    )
    assert [text.get_text() for text in ax.texts] == ["25", "75"]


@pytest.mark.parametrize(
    ("classes", "texts", "names"), [(20, 400, 20), (21, 0, 21), (60, 0, 60), (61, 0, None)]
)
def test_many_classes_go_without_percents_and_then_without_names(classes, texts, names, plt):
    ax = plt.subplots()[1]
    labels = [f"class {n}" for n in range(classes)]
    assert plot_confusion_matrix(np.eye(classes, dtype=int), labels, ax=ax) is ax
    assert len(ax.texts) == texts
    shown = [text.get_text() for text in ax.get_xticklabels()]
    assert shown == labels if names else "class 0" not in shown


def test_a_confusion_matrix_of_other_classes_is_refused(plt):
    with pytest.raises(ValueError, match=r"must be \(3, 3\).*Received: shape \(2, 2\)"):
        plot_confusion_matrix(np.eye(2), ["a", "b", "c"])


# Gates (Eqs 2-8)


def tiny_sanet(taps, filters=2):
    """A SANet whose backbone halves the image; its taps are multiples of that. The head does not
    matter."""
    image = keras.Input((None, None, 3))
    x = keras.layers.AveragePooling2D(2)(keras.layers.Rescaling(1 / 255)(image))
    features = {f"s{n}": keras.layers.Rescaling(n - 1.5)(x) for n in range(4)}
    return SANet(
        2,
        keras.Model(image, features),
        aggregator_filters=filters,
        taps=taps,
        bins=None,
        pyramid_filters=2,
    )


def constant_gates(model, i, f, g, o):
    """Biases alone, so that no gate depends on the image."""
    layer = model.get_layer("aggregator")
    kernel, recurrent_kernel, _ = layer.get_weights()
    bias = np.repeat([i, f, g, o], layer.filters).astype("float32")  # stored as i, f, c, o
    layer.set_weights([0 * kernel, 0 * recurrent_kernel, bias])
    return model


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_eqs_2_to_4_gates_are_their_means_over_channels_on_the_grid_of_the_aggregator():
    model = tiny_sanet(("s0", "s1", "s2"))
    layer = model.get_layer("aggregator")
    kernel, recurrent_kernel, _ = layer.get_weights()
    # Two channels a gate: i, i, f, f, g, g, o, o.
    bias = np.array([0, 1, 2, 3, 0, 0, -1, -2], "float32")
    layer.set_weights([0 * kernel, 0 * recurrent_kernel, bias])
    gates = aggregator_gates(model, np.zeros((8, 12, 3), "uint8"))
    assert list(gates) == ["input", "forget", "output", "contribution"]
    expected = {"input": (0, 1), "forget": (2, 3), "output": (-1, -2)}
    for name, (a, b) in expected.items():
        assert gates[name].dtype == "float32"
        values = np.full((3, 4, 6), (sigmoid(a) + sigmoid(b)) / 2)
        np.testing.assert_allclose(gates[name], values, rtol=1e-6)


def test_contributions_of_a_constant_cell_by_hand():
    # i = f = o = 1/2, so a tap writes a = tanh(1) / 2, and half of it stays for the next step:
    # c_1 = a, c_2 = a + a/2 = 3a/2. y = 1/2 (h_1 + h_2), h_s = tanh(c_s) / 2; of h_2 a third is
    # the first tap's and two thirds are the second's.
    model = constant_gates(tiny_sanet(("s0", "s1")), 0, 0, 1, 0)
    a = np.tanh(1) / 2
    h_1, h_2 = np.tanh(a), np.tanh(1.5 * a)
    first, second = h_1 + h_2 / 3, 2 * h_2 / 3
    shares = aggregator_gates(model, np.zeros((4, 4, 3), "uint8"))["contribution"]
    np.testing.assert_allclose(shares[0], np.full((2, 2), first / (first + second)), rtol=1e-6)
    np.testing.assert_allclose(shares[1], np.full((2, 2), second / (first + second)), rtol=1e-6)


def test_a_tap_that_later_steps_forget_contributes_its_own_term_of_eq_8_alone():
    # f = sigmoid(-100) = 0, so every h_t is of its tap, and all are equal.
    model = constant_gates(tiny_sanet(("s0", "s1", "s2")), 0, -100, 1, 0)
    shares = aggregator_gates(model, np.zeros((4, 4, 3), "uint8"))["contribution"]
    np.testing.assert_allclose(shares, np.full((3, 2, 2), 1 / 3), rtol=1e-6)


def test_contributions_are_equal_where_nothing_is_written():
    model = constant_gates(tiny_sanet(("s0", "s1")), 0, 0, 0, 0)  # g = tanh(0) = 0
    shares = aggregator_gates(model, np.zeros((4, 4, 3), "uint8"))["contribution"]
    np.testing.assert_array_equal(shares, np.full((2, 2, 2), 0.5))


@pytest.mark.parametrize("size", [(6, 8), (5, 9)])
def test_contributions_are_the_parts_of_eqs_2_to_8_place_by_place(size, rng):
    taps, filters = ("s3", "s0", "s2"), 2
    model = tiny_sanet(taps, filters)
    layer = model.get_layer("aggregator")
    kernel, recurrent_kernel = np.zeros((3, 3, 2, 8)), np.zeros((3, 3, 2, 8))
    # Kernels with nothing but their middle, so that a place is on its own.
    w_x = kernel[1, 1] = 2 * rng.standard_normal((2, 8))
    w_h = recurrent_kernel[1, 1] = 2 * rng.standard_normal((2, 8))
    bias = rng.standard_normal(8)
    layer.set_weights([kernel, recurrent_kernel, bias])
    image = rng.integers(0, 256, (*size, 3), dtype="uint8")
    maps = [model.get_layer(f"adapter_{tap}").output for tap in taps]
    *maps, aggregate = (
        array[0] for array in keras.Model(model.input, [*maps, layer.output]).predict(image[None])
    )

    height, width = size[0] // 2, size[1] // 2
    expected = np.zeros((3, height, width))
    for place in np.ndindex(height, width):
        h, c, steps = np.zeros(filters), np.zeros(filters), []
        for x in maps:
            z_i, z_f, z_g, z_o = np.split(x[place] @ w_x + h @ w_h + bias, 4)
            i, f, g, o = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)  # 2-5
            c = f * c + i * g  # 6
            h = o * np.tanh(c)  # 7
            steps.append((i * g, f, c, o))
        parts = np.zeros((3, filters))  # y_t
        for t in range(3):
            for s in range(t, 3):
                kept = np.prod([steps[r][1] for r in range(t + 1, s + 1)], axis=0)
                _, _, c, o = steps[s]
                parts[t] += o * np.tanh(c) / c * kept * steps[t][0] / 3
        np.testing.assert_allclose(parts.sum(axis=0), aggregate[place], rtol=0, atol=1e-5)  # 8
        sizes = np.abs(parts).sum(axis=1)
        expected[(slice(None), *place)] = sizes / sizes.sum()

    shares = aggregator_gates(model, image)["contribution"]
    assert shares.dtype == "float32"
    np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(shares.sum(axis=0), np.ones((height, width)), rtol=1e-6)


def test_the_only_tap_contributes_everything():
    shares = aggregator_gates(tiny_sanet(("s1",)), np.full((4, 6, 3), 200, "uint8"))["contribution"]
    np.testing.assert_array_equal(shares, np.ones((1, 2, 3)))


def test_gates_of_mixed_precision_are_float32_and_shares_still_add_up_to_1(rng):
    keras.config.set_dtype_policy("mixed_bfloat16")
    image = rng.integers(0, 256, (6, 6, 3), dtype="uint8")
    gates = aggregator_gates(tiny_sanet(("s0", "s3")), image)
    assert {gate.dtype for gate in gates.values()} == {np.dtype("float32")}
    np.testing.assert_allclose(gates["contribution"].sum(axis=0), np.ones((3, 3)), rtol=1e-6)


@pytest.mark.parametrize("build", [PSPNet, FCN])
def test_a_model_without_an_aggregator_is_refused(build):
    model = build(2, "resnet_tiny")
    with pytest.raises(ValueError, match=f"must have a ConvLSTMAggregator.*{model.name!r} with"):
        aggregator_gates(model, np.zeros((16, 16, 3), "uint8"))


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8, 3), (8, 8, 4), (0, 8, 3)])
def test_what_is_not_one_rgb_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"`image` must be \(height, width, 3\). Received: shape"):
        aggregator_gates(tiny_sanet(("s0",)), np.zeros(shape, "uint8"))


def test_plotted_gates_are_rows_of_taps_in_the_order_they_are_read(plt, rng):
    model = tiny_sanet(("s3", "s0"))
    image = rng.integers(0, 256, (6, 8, 3), dtype="uint8")
    gates = aggregator_gates(model, image)
    axes = np.array(plot_gates(model, image).axes[:12]).reshape(4, 3)  # colour bars come after
    assert [ax.get_title() for ax in axes[0]] == ["image", "s3", "s0"]
    assert [ax.get_ylabel() for ax in axes[:, 1]] == list(gates)
    np.testing.assert_array_equal(axes[0, 0].images[0].get_array(), image)
    for name, row in zip(gates, axes):
        for t in (0, 1):
            drawn = np.ma.filled(row[1 + t].images[0].get_array(), np.nan)
            blank = name == "forget" and t == 0  # f_1 has nothing to forget
            expected = np.full((3, 4), np.nan) if blank else gates[name][t]
            np.testing.assert_array_equal(drawn, expected)


def test_the_panels_of_a_row_share_a_colour_scale(plt, rng):
    model = tiny_sanet(("s3", "s0"))
    image = rng.integers(0, 256, (6, 8, 3), dtype="uint8")
    shares = aggregator_gates(model, image)["contribution"]
    axes = np.array(plot_gates(model, image).axes[:12]).reshape(4, 3)
    limits = {ax.images[0].get_clim() for ax in axes[3, 1:]}
    assert limits == {(shares.min(), shares.max())}


def test_the_gates_of_a_single_tap_are_plotted_too(plt):
    figure = plot_gates(tiny_sanet(("s1",)), np.zeros((8, 4, 3), "uint8"))
    figure.canvas.draw()
    assert [ax.get_title() for ax in figure.axes[:2]] == ["image", "s1"]


@pytest.mark.parametrize(
    ("plot", "arguments"),
    [
        (plot_training_curves, ("log.csv",)),
        (plot_confusion_matrix, ([[1]], ["a"])),
        (plot_gates, (None, None)),
    ],
    ids=["curves", "confusion", "gates"],
)
def test_plots_without_matplotlib_say_what_to_install(plot, arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # as if it were not there
    with pytest.raises(ImportError, match=r"pip install keras-sanet\[plots\]"):
        plot(*arguments)
