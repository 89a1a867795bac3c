"""Checks of arguments that many functions have. Integers are those of NumPy too; True is none."""

import operator

import numpy as np


def integer(name, value, least=1, most=None):
    """An argument as Python's integer.

    Raises: ValueError that names the argument where it is no integer, or out of its range.
    """
    number = as_integer(value)
    if number is None or number < least or (most is not None and number > most):
        rule = "a positive integer" if least == 1 else f"an integer, {least} or more"
        rule += "" if most is None else f" and at most {most}"
        raise ValueError(f"`{name}` must be {rule}. Received: {name}={value!r}.")
    return number


def integers(name, values):
    """A list of positive integers as a tuple.

    Raises: ValueError that names the argument.
    """
    numbers = [as_integer(n) for n in values] if np.iterable(values) else [None]
    if not all(n is not None and n > 0 for n in numbers):
        raise ValueError(f"`{name}` must be positive integers. Received: {name}={values!r}.")
    return tuple(numbers)


def sides(name, size):
    """(height, width), of which one number may stand for both.

    Raises: ValueError that names the argument.
    """
    pair = list(size) if np.iterable(size) else [size, size]
    if len(pair) != 2 or not all(as_integer(n) is not None and as_integer(n) > 0 for n in pair):
        raise ValueError(
            f"`{name}` must be one or two positive integers. Received: {name}={size!r}."
        )
    return tuple(map(as_integer, pair))


def as_integer(value):
    """An integer of any kind as Python's, or None."""
    if isinstance(value, (bool, np.bool_)):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None
