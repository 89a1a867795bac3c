import warnings

import keras

from keras_sanet import _backend, models
from keras_sanet._arguments import integer
from keras_sanet.inference import gives_probabilities
from keras_sanet.losses import LovaszSoftmax, SegmentationLoss
from keras_sanet.metrics import CrossEntropy, MeanAccuracy, MeanIoU, PixelAccuracy
from keras_sanet.optimizers import SGD, AdamW
from keras_sanet.schedules import poly_decay

_AUXILIARY_WEIGHT = 0.4  # PSPNet


def compile(
    model,
    decay_steps,
    *,
    learning_rate=1e-4,
    weight_decay=0.01,
    loss="cross_entropy",
    ignore_class=255,
    optimizer="adamw",
    head_learning_rate_multiple=1.0,
    gradient_accumulation_steps=1,
    global_clipnorm=None,
    ema_momentum=None,
    freeze_batch_norm=False,
    **kwargs,
):
    """Compiles a model with the paper's recipe.

    Args:
        model: images to logits (or probabilities, as its last layer tells), or to {"logits",
            "auxiliary"} (whose targets are then a dict too).
        decay_steps: steps (batches, accumulated or not) until the learning rate is 0, epochs x
            steps an epoch.
        learning_rate: of the first step. 1e-4 suits short runs from pretrained weights; networks
            from scratch need some 1e-3. The paper's long runs have 1e-5.
        weight_decay: on all weights; 0.01 is PyTorch's default for AdamW (Keras's is 0.004).
        loss: "cross_entropy", "lovasz", or a `keras.losses.Loss`.
        ignore_class: label of void pixels.
        optimizer: "adamw" (the paper's), or "sgd" with momentum 0.9 as PyTorch's (semseg's).
        head_learning_rate_multiple: factor on the rate of all that is not the layer "backbone";
            semseg's is 10.
        gradient_accumulation_steps: batches whose mean gradient makes one update. (Batch norms see
            each batch by itself, and what is left over at the end makes no update.)
        global_clipnorm: largest norm of all gradients together, as in Pascanu et al. (2013). (Under
            `MirroredStrategy` Keras clips each replica's share.)
        ema_momentum: of an average of the trained weights, moved on after each batch (Polyak and
            Juditsky, 1992); see `averaged_weights`.
        freeze_batch_norm: whether the backbone's batch norms keep their statistics, scales and
            shifts, and use them in training too, as DeepLab's do for small batches. They stay so.
        kwargs: for `model.compile`.

    Raises:
        ValueError: for an unknown loss or optimizer, where an argument is out of its range, and
            where a loss has `from_logits` other than the model.
    """
    if optimizer not in ("adamw", "sgd"):
        raise ValueError(f"Unknown optimizer {optimizer!r}. Known: adamw, sgd.")
    accumulated = integer("gradient_accumulation_steps", gradient_accumulation_steps)
    for name, value in (
        ("head_learning_rate_multiple", head_learning_rate_multiple),
        ("global_clipnorm", global_clipnorm),
    ):
        if value is not None and not value > 0:
            raise ValueError(f"`{name}` must be above 0. Received: {name}={value!r}.")
    probabilities = gives_probabilities(model)
    if probabilities is None:  # can't be told: as the loss reads them
        probabilities = not getattr(loss, "from_logits", True)
    read = {"ignore_class": ignore_class, "from_logits": not probabilities}
    losses = {
        "cross_entropy": SegmentationLoss(lovasz_weight=0.0, **read),
        "lovasz": LovaszSoftmax(**read),
    }
    if isinstance(loss, str):
        if loss not in losses:
            raise ValueError(f"Unknown loss {loss!r}. Known: {', '.join(losses)}.")
        loss = losses[loss]
    elif getattr(loss, "from_logits", read["from_logits"]) != read["from_logits"]:
        raise ValueError(
            f"The model gives {'logits' if read['from_logits'] else 'probabilities'}: pass a loss "
            f"with from_logits={read['from_logits']}. Received: loss={loss.name}, with from_logits="
            f"{loss.from_logits}."
        )
    num_classes = models.without_auxiliary(model).output.shape[-1]
    named = [layer for layer in model.layers if layer.name == "logits"]
    class_names = getattr(named[0], "class_names", None) if named else None
    metrics = [
        CrossEntropy(**read),
        PixelAccuracy(num_classes, **read),
        MeanAccuracy(num_classes, **read),
        MeanIoU(num_classes, class_names=class_names, **read),
    ]
    if isinstance(model.output, dict):
        kwargs = {"loss_weights": {"logits": 1.0, "auxiliary": _AUXILIARY_WEIGHT}, **kwargs}
        loss, metrics = {"logits": loss, "auxiliary": loss}, {"logits": metrics}
    on_cpu = keras.backend.backend() != "jax" and _backend.runs_on_cpu()
    if on_cpu and any(layer.compute_dtype == "float16" for layer in model._flatten_layers()):
        warnings.warn(
            "A CPU takes several times as long in float16 as in float32. Before you make the model "
            'call keras.config.set_dtype_policy("mixed_bfloat16"), or "float32".',
            stacklevel=2,
        )
    if freeze_batch_norm:
        for layer in model.get_layer("backbone")._flatten_layers():  # inside layers too
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False  # which is inference mode too, in Keras
    multiples = None
    if head_learning_rate_multiple != 1:
        slow = {id(variable) for variable in model.get_layer("backbone").trainable_variables}
        variables = model.trainable_variables
        multiples = [1 if id(v) in slow else head_learning_rate_multiple for v in variables]
    accumulated = accumulated if accumulated > 1 else None
    settings = {
        "learning_rate": poly_decay(learning_rate, decay_steps),
        "weight_decay": weight_decay,
        "rate_multiples": multiples,
        "gradient_accumulation_steps": accumulated,
        "global_clipnorm": global_clipnorm,
        "use_ema": ema_momentum is not None,
        "ema_momentum": ema_momentum or 0.0,
    }
    if optimizer == "adamw":
        optimizer = AdamW(epsilon=1e-8, **settings)
    else:
        optimizer = SGD(momentum=0.9, **settings)
    strategy = getattr(optimizer, "_distribution_strategy", None)  # TensorFlow's
    if accumulated and strategy and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            "`gradient_accumulation_steps` above 1 does not run under MirroredStrategy: TensorFlow "
            "can't exchange gradients in some steps alone. Received: gradient_accumulation_steps="
            f"{accumulated} on {strategy.num_replicas_in_sync} devices. Take one device, or JAX."
        )
    model.compile(optimizer, loss, metrics=metrics, **kwargs)
    # Else TensorFlow creates the optimizer's variables inside the step, and traces it twice.
    model.optimizer.build(model.trainable_variables)
