"""Gradients of dense convolutions by matrix products, for JAX on the CPU.

XLA computes the gradient of a kernel as a convolution whose window is the whole map, up to four
times slower than this. The only module that imports JAX at its top.
"""

import functools

import jax
from keras import ops


@jax.custom_vjp
def multiply(x, matrix):
    """(batch, height, width, channels) times (channels, filters)."""
    return ops.matmul(x, matrix)


def _multiply_forward(x, matrix):
    return ops.matmul(x, matrix), (x, matrix)


def _multiply_backward(residuals, gradient):
    x, matrix = residuals
    # Without the barrier XLA computes what comes before once more, in transposed order.
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    return ops.matmul(gradient, ops.transpose(matrix)), _product(x, gradient)


multiply.defvjp(_multiply_forward, _multiply_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x, kernel, dilation_rate):
    """'same' convolution with an odd kernel."""
    return ops.conv(x, kernel, 1, "same", "channels_last", dilation_rate)


def _convolve_forward(x, kernel, dilation_rate):
    return convolve(x, kernel, dilation_rate), (x, kernel)


def _convolve_backward(dilation_rate, residuals, gradient):
    x, kernel = residuals
    x, gradient = jax.lax.optimization_barrier((x, gradient))
    mirrored = ops.transpose(kernel[::-1, ::-1], (0, 1, 3, 2))
    (rows, columns), (down, right) = kernel.shape[:2], dilation_rate
    _, height, width, _ = x.shape
    border_rows, border_columns = rows // 2 * down, columns // 2 * right
    padded = ops.pad(
        x, ((0, 0), (border_rows, border_rows), (border_columns, border_columns), (0, 0))
    )
    products = [
        _product(padded[:, i * down : i * down + height, j * right : j * right + width], gradient)
        for i in range(rows)
        for j in range(columns)
    ]
    kernel_gradient = ops.reshape(ops.stack(products), kernel.shape)
    return convolve(gradient, mirrored, dilation_rate), kernel_gradient


convolve.defvjp(_convolve_forward, _convolve_backward)


def _product(x, gradient):
    """Sum over all cells of channel times channel, (channels of x, channels of the gradient)."""
    x, gradient = (ops.reshape(map, (-1, map.shape[-1])) for map in (x, gradient))
    return ops.matmul(ops.transpose(x), gradient)
