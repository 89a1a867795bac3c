"""What every test starts from, and checkpoints with random weights."""

import contextlib
import functools
import os
import random

import keras
import numpy as np
import pytest

# Tests on JAX spend their time compiling; less optimised machine code halves it. Here and in the
# processes that tests start; JAX_DISABLE_MOST_OPTIMIZATIONS=0 in the environment says otherwise.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if keras.backend.backend() == "jax":
    import jax

    jax.config.update(
        "jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
    )

# blocks a stage, channels of the stem, groups, whether a block is a bottleneck
_RESNETS = {
    "resnet_tiny": ((1, 1, 1, 1), 16, 1, False),
    "resnext50": ((3, 4, 6, 3), 64, 32, True),
}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Initialisers and dropout draw their seeds from `random`; fixtures of a module too."""
    random.seed(0)


@pytest.fixture(autouse=True)
def float32_policy():
    """Leaves the dtype policy as it was, float32."""
    keras.config.set_dtype_policy("float32")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def full_disk():
    """bytes -> context in which no file can be longer: what is written beyond fails, as on a full
    disk, but with EFBIG."""
    resource = pytest.importorskip("resource", reason="Windows has no limits on files")

    @contextlib.contextmanager
    def limited(size):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def compiled():
    """layer -> the same as a function; on JAX one graph, where each new shape of each operation
    would compile by itself (0.1 s)."""
    return _compiled


def _compiled(layer):
    if keras.backend.backend() != "jax":
        return layer

    @functools.partial(jax.jit, static_argnames="arguments")
    def compute(trainable, non_trainable, inputs, arguments):
        return layer.stateless_call(trainable, non_trainable, *inputs, **dict(arguments))[0]

    def call(*inputs, **arguments):
        trainable = [variable.value for variable in layer.trainable_variables]
        non_trainable = [variable.value for variable in layer.non_trainable_variables]
        return compute(trainable, non_trainable, inputs, tuple(arguments.items()))

    return call


@pytest.fixture(scope="session")
def timm():
    """The package; RuntimeError is of a torchvision built for another PyTorch."""
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm is not to be imported: {error}")
    return timm


@pytest.fixture(scope="session")
def random_checkpoint():
    """variant -> random state dict with the names and shapes of torchvision, as NumPy arrays."""
    return _random_checkpoint


def _random_checkpoint(variant):
    rng = np.random.default_rng(0)
    blocks, stem, groups, bottleneck = _RESNETS[variant]
    state = {}

    def convolution(name, filters, channels, size):
        scale = (2 / (channels * size * size)) ** 0.5
        kernel = scale * rng.standard_normal((filters, channels, size, size))
        state[f"{name}.weight"] = kernel.astype("float32")

    def normalization(name, channels):
        for key, low, high in (
            ("weight", 0.5, 1.0),
            ("bias", -0.2, 0.2),
            ("running_mean", -0.2, 0.2),
            ("running_var", 0.5, 1.5),
        ):
            state[f"{name}.{key}"] = rng.uniform(low, high, channels).astype("float32")

    convolution("conv1", stem, 3, 7)
    normalization("bn1", stem)
    channels = stem
    for stage in range(4):
        planes = stem * 2**stage
        width, filters = (2 * planes, 4 * planes) if bottleneck else (planes, planes)
        for index in range(blocks[stage]):
            name = f"layer{stage + 1}.{index}"
            if bottleneck:
                kernels = ((width, channels, 1), (width, width // groups, 3), (filters, width, 1))
            else:
                kernels = ((width, channels, 3), (filters, width, 3))
            for number, (out, depth, size) in enumerate(kernels, start=1):
                convolution(f"{name}.conv{number}", out, depth, size)
                normalization(f"{name}.bn{number}", out)
            if channels != filters:
                convolution(f"{name}.downsample.0", filters, channels, 1)
                normalization(f"{name}.downsample.1", filters)
            channels = filters
    convolution("fc", 10, channels, 1)  # left out by `load_checkpoint`
    state["fc.weight"] = state["fc.weight"][:, :, 0, 0]
    state["fc.bias"] = np.zeros(10, "float32")
    return state
