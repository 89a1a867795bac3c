"""Files of presets on the Hugging Face Hub and on Kaggle."""

import importlib
from pathlib import Path


def from_hugging_face(address, file):
    """Downloads a file of "hf://owner/name@revision" into huggingface_hub's cache.

    Returns:
        The path of the file. It comes from the cache where there is no network.

    Raises:
        ValueError: for a wrong or unknown address.
        ConnectionError: where the hub can't be reached and the cache does not have the file.
        ImportError: where huggingface_hub is not installed.
    """
    hub = _import("huggingface_hub", address)
    name, _, revision = address.removeprefix("hf://").partition("@")
    if name.count("/") != 1:
        raise ValueError(f"{address} must be hf://owner/name, or hf://owner/name@revision.")
    try:
        return Path(hub.hf_hub_download(name, file, revision=revision or None))
    except hub.errors.LocalEntryNotFoundError as error:
        raise _unreachable(address, "HF_HOME") from error
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError) as error:
        raise ValueError(f"{address} can't be loaded: {error}") from error


def from_kaggle(address, file):
    """Downloads a file of "kaggle://owner/model/framework/variation"; see `from_hugging_face`."""
    kagglehub = _import("kagglehub", address)
    requests = _import("requests", address)  # kagglehub's own
    try:
        return Path(kagglehub.model_download(address.removeprefix("kaggle://"), path=file))
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _unreachable(address, "KAGGLEHUB_CACHE") from error
    except Exception as error:  # kagglehub's have no common class
        raise ValueError(f"{address} can't be loaded: {error}") from error


def _unreachable(address, variable):
    return ConnectionError(
        f"{address} can't be reached, and is not in the cache. With a network, load it once there "
        f"and bring the cache along (the environment variable {variable} says where it is); or "
        "download the folder and give its path."
    )


def _import(package, address):
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"Loading {address} needs `pip install {package}`.") from error
