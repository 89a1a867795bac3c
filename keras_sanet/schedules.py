"""Learning-rate schedule (paper, section IV-C, after Chen et al., DeepLab)."""

import keras


def poly_decay(learning_rate, decay_steps, *, power=0.9):
    """`learning_rate * (1 - step / decay_steps) ** power`, down to 0.

    Args:
        learning_rate: rate of the first step.
        decay_steps: number of steps (batches, not epochs) until 0.
        power: exponent.

    Returns:
        `keras.optimizers.schedules.PolynomialDecay` with end 0; its own default end, 1e-4, lies
        above the paper's initial rate of 1e-5.

    Raises:
        ValueError: where `decay_steps` is less than 1, or `learning_rate` negative, infinite or
            NaN.
    """
    if not 0 <= learning_rate < float("inf"):
        raise ValueError(
            f"`learning_rate` must be a number, 0 or more. Received: learning_rate={learning_rate}."
        )
    if decay_steps < 1:
        raise ValueError(f"`decay_steps` must be at least 1. Received: decay_steps={decay_steps}.")
    return keras.optimizers.schedules.PolynomialDecay(
        learning_rate, decay_steps, end_learning_rate=0.0, power=power
    )
