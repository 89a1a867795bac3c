"""The package's side of the benchmarks, on the backend of KERAS_BACKEND."""

import keras
import numpy as np

import keras_sanet


def train_step(size, batch_size, num_classes=40):
    model = keras_sanet.SANet(num_classes)
    keras_sanet.training.compile(model, 1000)
    model.compile(model.optimizer, model.loss)  # the peer has no metrics
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch_size, size, size, 3)).astype("uint8")
    labels = rng.integers(0, num_classes, (batch_size, size, size)).astype("uint8")

    return lambda: model.train_on_batch(image, labels)


def prediction(size, batch_size=1, num_classes=40):
    model = keras_sanet.SANet(num_classes)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch_size, size, size, 3)).astype("uint8")

    return lambda: model.predict_on_batch(image).argmax(-1)


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
    batches = keras_sanet.pipeline.make_dataset(data, "all", crop_size, batch_size, loader=loader)
    if loader == "tf.data":
        return lambda: sum(len(images) for images, _ in batches)
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    batches._workers = workers
    adapter = PyDatasetAdapter(batches, shuffle=False)

    def step():
        adapter.on_epoch_begin()
        count = sum(len(images) for images, _ in adapter.get_numpy_iterator())
        adapter.on_epoch_end()
        return count

    return step
