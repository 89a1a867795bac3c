"""Keras callbacks of TensorBoard, Weights & Biases and MLflow, imported when asked for."""

import importlib
from pathlib import Path

import keras

# name -> what is imported, and what pip calls the packages
LOGGERS = {
    "tensorboard": (("tensorboard", "tensorflow"), "tensorboard tensorflow"),
    "wandb": (("wandb.integration.keras",), "wandb"),
    "mlflow": (("mlflow.keras",), "mlflow"),
}


def check_logger(logger):
    """Raises where a logger can't be used, before anything is trained.

    Args:
        logger: None or a name of `LOGGERS`.

    Raises:
        ValueError: for an unknown name.
        ImportError: that says what to install, where its package is missing.
    """
    if logger is None:
        return
    if logger not in LOGGERS:
        raise ValueError(
            f"Unknown logger {logger!r}. Known: {', '.join(LOGGERS)}; None for the CSV files alone."
        )
    modules, packages = LOGGERS[logger]
    try:
        for module in modules:
            importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"logger={logger!r} needs a package that can't be imported: {error}. Install it: "
            f"pip install {packages}"
        ) from error


def logger_callbacks(logger, folder, phase):
    """Makes the callbacks that send the metrics of each epoch to a logger.

    A run of Weights & Biases or MLflow that is open takes the metrics; where none is open, one with
    the name of the folder begins. (The second phase counts its epochs from 0 again.)

    Args:
        logger: None or a name of `LOGGERS`.
        folder: of the run; TensorBoard's files go to its "tensorboard/PHASE".
        phase: name of the phase.

    Returns:
        List of Keras callbacks, empty for None.
    """
    check_logger(logger)
    folder = Path(folder)
    if logger == "tensorboard":
        return [keras.callbacks.TensorBoard(folder / "tensorboard" / phase)]
    if logger == "wandb":
        import wandb
        from wandb.integration.keras import WandbMetricsLogger

        if wandb.run is None:
            wandb.init(name=folder.name, dir=folder)
        return [WandbMetricsLogger()]
    if logger == "mlflow":
        import mlflow
        from mlflow.keras import MlflowCallback

        if mlflow.active_run() is None:
            mlflow.start_run(run_name=folder.name)
        return [MlflowCallback()]
    return []
