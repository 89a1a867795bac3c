"""Checks of arguments that many functions have. Integers are those of NumPy too; True is none."""

import operator

import numpy as np


def integer(name, value, least=1, most=None):
    """An argument as Python's integer.

    Raises:
        ValueError: it is no integer, or out of its range; names the argument.
    """
    number = as_integer(value)
    if number is None or number < least or (most is not None and number > most):
        rule = "a positive integer" if least == 1 else f"an integer, {least} or more"
        rule += "" if most is None else f" and at most {most}"
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={value!r}.")
    return number


def integers(name, values):
    """A list of positive integers as a tuple.

    Raises:
        ValueError: it is none; names the argument.
    """
    numbers = _positive_integers(values)
    if numbers is None:
        raise ValueError(f"`{name}` must be positive integers. Received: {name}={values!r}.")
    return numbers


def sides(name, size):
    """(height, width), of which one number may stand for both.

    Raises:
        ValueError: it is none; names the argument.
    """
    pair = _positive_integers(size if np.iterable(size) else [size, size])
    if pair is None or len(pair) != 2:
        raise ValueError(
            f"`{name}` must be one or two positive integers. Received: {name}={size!r}."
        )
    return pair


def _positive_integers(values):
    """A tuple, or None."""
    numbers = tuple(map(as_integer, values)) if np.iterable(values) else (None,)
    return None if any(n is None or n < 1 for n in numbers) else numbers


def as_integer(value):
    """An integer of any kind as Python's, or None."""
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
