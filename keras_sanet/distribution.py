"""One model on several devices."""

import keras


def synchronize_batch_norm(model, synchronized=True):
    """Makes batch normalisation take its statistics over the batch of all replicas, or not.

    Under `tf.distribute.MirroredStrategy`, instead of each replica's own share. It is a property of
    the run: saved files do not hold it, for other backends would refuse them. (The stock layer
    `keras.layers.BatchNormalization` of a foreign backbone does write it: switch it off before
    saving.)

    Args:
        model: any model; layers inside layers are switched too. Call it before `fit`, or compile
            again.
        synchronized: False to switch it off.
    Returns: the number of layers switched.
    Raises: ValueError on other backends than TensorFlow. (With `keras.distribution` on JAX
        statistics are those of the whole batch anyway.)
    """
    backend = keras.backend.backend()
    if synchronized and backend != "tensorflow":
        raise ValueError(
            f"`synchronized` needs TensorFlow. Received: synchronized=True on {backend}, where "
            "`keras.distribution` (JAX) has statistics of the whole batch without it."
        )
    found = [
        layer
        for layer in model._flatten_layers()  # inside layers too, which `model.layers` has not
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in found:
        layer.synchronized = synchronized
    return len(found)
