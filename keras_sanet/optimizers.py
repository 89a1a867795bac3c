"""AdamW and SGD with a learning rate of its own for groups of variables, as PyTorch's parameter
groups; the average of a model's weights."""

import contextlib

import keras
import numpy as np
from keras import ops


class _RateMultiples:
    """Factors on the learning rate, one a variable; AdamW's weight decay goes with the rate."""

    def __init__(self, *args, rate_multiples=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.rate_multiples = None if rate_multiples is None else [float(m) for m in rate_multiples]
        self._multiple = 1.0  # of the group at work

    def build(self, variables):
        given = self.rate_multiples
        if given is not None and len(given) != len(variables):
            raise ValueError(
                "`rate_multiples` must be a number for each trainable variable. Received: "
                f"{len(given)} numbers, {len(variables)} variables. Compile again after freezing "
                "or thawing layers."
            )
        super().build(variables)

    def _groups(self, variables, *others):
        """Multiple, variables and what comes with them, of each group that is there."""
        multiples = self.rate_multiples or [1.0] * len(self._trainable_variables)
        groups = {}
        for row in zip(variables, *others):
            groups.setdefault(multiples[self._get_variable_index(row[0])], []).append(row)
        for multiple, rows in groups.items():
            yield multiple, *(list(column) for column in zip(*rows))

    def _get_current_learning_rate(self):
        rate = super()._get_current_learning_rate()
        return rate if self._multiple == 1 else rate * self._multiple

    def _apply_weight_decay(self, variables):
        for multiple, group in self._groups(variables):
            self._multiple = multiple
            super()._apply_weight_decay(group)
        self._multiple = 1.0

    def _backend_update_step(self, grads, trainable_variables, learning_rate):
        for multiple, group, gradients in self._groups(trainable_variables, grads):
            super()._backend_update_step(gradients, group, learning_rate * multiple)

    def get_config(self):
        return {**super().get_config(), "rate_multiples": self.rate_multiples}


def _backend_class(optimizer):
    """The class that Keras puts in an optimizer's place: PyTorch's updates all variables at once.
    (Not so for classes derived from the optimizer.)"""
    return type(optimizer.__new__(optimizer))


@keras.saving.register_keras_serializable(package="keras_sanet")
class AdamW(_RateMultiples, _backend_class(keras.optimizers.AdamW)):
    """`keras.optimizers.AdamW` with factors on the learning rate and so on the weight decay.

    Args:
        rate_multiples: list, a number for each trainable variable in the order of `build`; None
            for 1.
        args: of `keras.optimizers.AdamW`.
        kwargs: likewise.

    Raises:
        ValueError: in `build`, where there are more or fewer numbers than variables.
    """


@keras.saving.register_keras_serializable(package="keras_sanet")
class SGD(_RateMultiples, keras.optimizers.SGD):
    """`torch.optim.SGD`: weight decay is part of the gradient, the rate no part of the momentum.

        g = gradient + weight_decay x w,  m = momentum x m + g,  w = w - rate x m

    (Of Keras: m = momentum x m - rate x gradient, w = w + m, and the weights decay apart, which is
    another path where the rate changes.)

    Args:
        rate_multiples: see `AdamW`.
        args: of `keras.optimizers.SGD`, with `momentum` above 0, without `nesterov`.
        kwargs: likewise.

    Raises:
        ValueError: for a momentum of 0, or `nesterov`.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.momentum == 0 or self.nesterov:
            raise ValueError(
                "`momentum` must be above 0 and `nesterov` False. Received: "
                f"momentum={self.momentum}, nesterov={self.nesterov}."
            )

    def update_step(self, gradient, variable, learning_rate):
        momentum = self.momentums[self._get_variable_index(variable)]
        gradient = ops.cast(gradient, variable.dtype)
        if self.weight_decay:
            gradient = gradient + self.weight_decay * variable
        self.assign(momentum, self.momentum * momentum + gradient)
        self.assign_sub(variable, ops.cast(learning_rate, variable.dtype) * momentum)

    def _apply_weight_decay(self, variables):
        pass  # in `update_step`


@contextlib.contextmanager
def averaged_weights(model):
    """Context in which a model compiled with `ema_momentum` has the average of its weights.

    For what shall see the average, as validation or saving the model; at its end the model has the
    trained weights again, from which a run resumes. (The statistics of batch norms are averages
    already. At the end of `fit`, Keras itself leaves the average in the model.)

    Args:
        model: any model; others stay as they are.
    """
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of mixed_float16
    if not getattr(optimizer, "use_ema", False):
        yield
        return
    trained, averages = (
        # Copies: PyTorch's arrays share the memory of variables, and JAX's steps give it back.
        [np.array(ops.convert_to_numpy(variable)) for variable in variables]
        for variables in (model.trainable_variables, optimizer._model_variables_moving_average)
    )
    for variable, value in zip(model.trainable_variables, averages):
        variable.assign(value)
    try:
        yield
    finally:
        for variable, value in zip(model.trainable_variables, trained):
            variable.assign(value)


class AveragedValidation(keras.callbacks.Callback):
    """Validates the average of the weights in `fit` (see `averaged_weights`)."""

    def on_test_begin(self, logs=None):
        self._average = contextlib.ExitStack()
        self._average.enter_context(averaged_weights(self.model))

    def on_test_end(self, logs=None):
        self._average.close()
