"""The package's side of the benchmarks, on the backend of KERAS_BACKEND."""

import math

import keras
import numpy as np

import keras_sanet
from keras_sanet.pipeline import pillow


def train_step(size, batch_size, num_classes=40, taps=5):
    """`taps`: how many maps are aggregated."""
    model = keras_sanet.SANet(num_classes, taps=("s0", "s1", "s2", "s3", "s4")[-taps:])
    keras_sanet.training.compile(model, 1000)
    model.compile(model.optimizer, model.loss)  # the peer has no metrics
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch_size, size, size, 3)).astype("uint8")
    labels = rng.integers(0, num_classes, (batch_size, size, size)).astype("uint8")

    return lambda: model.train_on_batch(image, labels)


def prediction(size, batch_size=1, num_classes=40, fold=False):
    """`fold`: with the backbone's batch norms folded into its convolutions."""
    backbone = keras_sanet.backbones.ResNeXt50(name="backbone")
    model = keras_sanet.SANet(num_classes, folded(backbone) if fold else backbone)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch_size, size, size, 3)).astype("uint8")

    def step():
        return model.predict_on_batch(image).argmax(-1)

    step.macs = batch_size * count(keras_sanet.SANet(num_classes, input_shape=(size, size, 3)))
    return step


class Unchanged(keras.layers.Layer):
    def call(self, x, training=None, mask=None):
        return x


def folded(backbone):
    """The backbone with each batch norm as a factor and a bias of the convolution before it."""

    def clone(layer):
        if isinstance(layer, keras_sanet.layers.BatchNormalization):
            return Unchanged(name=layer.name)
        config = layer.get_config()
        if isinstance(layer, keras_sanet.layers.Conv2D):
            config["use_bias"] = True
        return layer.__class__.from_config(config)

    clone_of = keras.models.clone_model(backbone, clone_function=clone)
    for layer in backbone.layers:
        if isinstance(layer, keras_sanet.layers.BatchNormalization):
            convolution = layer.input._keras_history.operation
            gamma, beta, mean, variance = layer.get_weights()
            factor = gamma / np.sqrt(variance + layer.epsilon)
            kernel = convolution.get_weights()[0] * factor
            clone_of.get_layer(convolution.name).set_weights([kernel, beta - factor * mean])
    return clone_of


def deeplab(size, batch_size=1, num_classes=40):
    """Prediction of keras-hub's DeepLabV3+ with ResNet-50, of a multiple of 32 pixels."""
    import keras_hub

    resnet = keras_hub.models.ResNetBackbone(
        [64],
        [7],
        [64, 128, 256, 512],
        [3, 4, 6, 3],
        [1, 2, 2, 2],
        "bottleneck_block",
        image_shape=(None, None, 3),
    )
    backbone = keras_hub.models.DeepLabV3Backbone(
        resnet, "P5", 8, [6, 12, 18], low_level_feature_key="P2", image_shape=(size, size, 3)
    )
    model = keras_hub.models.DeepLabV3ImageSegmenter(backbone, num_classes)
    image = np.random.default_rng(0).standard_normal((batch_size, size, size, 3)).astype("float32")

    def step():
        return model.predict_on_batch(image).argmax(-1)

    step.macs = batch_size * count_convolutions(model, size)
    return step


def count_convolutions(model, size):
    """Multiplications of a model's `keras.layers.Conv2D` for one image of a square size."""
    macs = 0
    call = keras.layers.Conv2D.call

    def counting(layer, inputs):
        nonlocal macs
        outputs = call(layer, inputs)
        macs += math.prod(outputs.shape[1:3]) * math.prod(layer.kernel.shape)
        return outputs

    keras.layers.Conv2D.call = counting
    model(np.zeros((1, size, size, 3), "float32"))
    keras.layers.Conv2D.call = call
    return macs


def count(model):
    """Multiplications of the kernels for one image, of a model of known size."""
    macs = 0
    for layer in model._flatten_layers():
        if isinstance(layer, keras_sanet.layers.PyramidPooling):
            cells = math.prod(layer.output.shape[1:3])
            spread = sum(n * n for n in layer.bins)
            macs += cells * 9 * layer.input.shape[-1] * layer.filters
            macs += spread * (layer.input.shape[-1] + 9 * layer.filters) * layer.filters
        elif isinstance(layer, keras_sanet.layers.ConvLSTMAggregator):
            cells, maps = math.prod(layer.output.shape[1:3]), len(layer.input)
            macs += cells * math.prod(layer.kernel.shape) * maps
            macs += cells * math.prod(layer.recurrent_kernel.shape) * (maps - 1)
        elif hasattr(layer, "kernel") and len(getattr(layer, "_inbound_nodes", ())):
            macs += math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
    return macs


def lovasz_softmax(size, batch_size, num_classes, num_bins=None):
    """Value and gradient, compiled by jax.jit and tf.function; PyTorch runs eagerly."""
    rng = np.random.default_rng(0)
    shape = (batch_size, size, size)
    labels = keras.ops.convert_to_tensor(rng.integers(0, num_classes, shape).astype("int32"))
    logits = keras.ops.convert_to_tensor(
        2 * rng.standard_normal((*shape, num_classes), dtype="float32")
    )
    compute = value_and_gradient(
        lambda x: keras_sanet.losses.lovasz_softmax(labels, x, num_bins=num_bins)
    )
    return lambda: [keras.ops.convert_to_numpy(x) for x in compute(logits)]


def mean_iou(size, batch_size, num_classes):
    """One update of the metric."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, (batch_size, size, size)).astype("int32")
    logits = rng.standard_normal((batch_size, size, size, num_classes), dtype="float32")
    labels, logits = keras.ops.convert_to_tensor(labels), keras.ops.convert_to_tensor(logits)
    metric = keras_sanet.metrics.MeanIoU(num_classes)

    def step():
        metric.update_state(labels, logits)
        return metric.confusion_matrix()

    return step


def value_and_gradient(function):
    """Function of a tensor to (value, gradient), compiled where the backend compiles."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(jax.value_and_grad(function))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function
        def compute(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = function(x)
            return value, tape.gradient(value, x)

        return compute
    import torch

    def compute(x):
        x = x.detach().requires_grad_(True)
        value = function(x)
        return value.detach(), torch.autograd.grad(value, x)[0]

    return compute


def aggregation(kind, grid, filters=256, maps=5):
    """Gradient by the inputs and the weights of the sum of the result."""
    rng = np.random.default_rng(0)
    count = 2 * maps - 1 if kind == "one convolution" else maps
    x = rng.standard_normal((1, count, grid, grid, filters)).astype("float32")
    if kind == "ConvLSTMAggregator":
        layer = keras_sanet.layers.ConvLSTMAggregator(filters)
        call = lambda x: layer(keras.ops.unstack(x, axis=1))  # noqa: E731
    elif kind == "ConvLSTM2D":
        layer = keras.layers.ConvLSTM2D(filters, 3, padding="same", dilation_rate=2)
        call = layer
    else:
        layer = keras.layers.Conv2D(4 * filters, 3, padding="same", dilation_rate=2)
        call = lambda x: layer(x[0])  # noqa: E731
    x = keras.ops.convert_to_tensor(x)
    call(x)  # builds
    kernels = [v.value for v in layer.trainable_variables]
    if keras.backend.backend() == "jax":
        import jax

        def total(kernels, x):
            mapping = list(zip(layer.trainable_variables, kernels))
            with keras.StatelessScope(mapping):
                return keras.ops.mean(call(x) ** 2)

        gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
        return lambda: jax.block_until_ready(gradient(kernels, x))
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function
        def gradient(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                total = keras.ops.mean(call(x) ** 2)
            return tape.gradient(total, [x, *kernels])

        return lambda: gradient(x)[0].numpy()
    import torch

    def gradient():
        inputs = x.detach().requires_grad_()
        return torch.autograd.grad((call(inputs) ** 2).mean(), [inputs, *kernels])

    return gradient


def epoch(root, repeats, crop_size, batch_size, workers, loader):
    """Loads all images of a folder, `repeats` times, as `fit` does."""
    data = keras_sanet.datasets.load("folder", root)
    data.splits["all"] = repeats * sum(data.splits.values(), [])
    batches = keras_sanet.pipeline.make_dataset(
        data, "all", crop_size=crop_size, batch_size=batch_size, loader=loader
    )
    if loader == "tf.data":
        return lambda: sum(len(images) for images, _ in batches)
    batches = pillow.PillowDataset(batches.plan, workers)

    def step():
        count = sum(len(batches[i][0]) for i in range(len(batches)))
        batches.on_epoch_end()
        return count

    return step
