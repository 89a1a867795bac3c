"""What importing the package imports, and that imports point down."""

import ast
import graphlib
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_sanet

PACKAGE = Path(keras_sanet.__file__).parent
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text("utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}
# Each may import those before it, and what is in its own folder.
ORDER = (
    "version", "_arguments", "_tables", "_progress", "_duplicates", "_backend", "_files", "_labels",
    "layers",
    "summary", "_untrusted", "saving", "distribution", "losses", "schedules", "optimizers",
    "metrics",
    "datasets", "recipes", "weights", "visualization", "inspection", "backbones", "models",
    "presets", "pipeline", "inference", "evaluation", "export", "training", "measurement",
    "experiments", "cli", "__main__",
)  # fmt: skip


def imported(tree, top=False):
    """Dotted names of the modules that a source imports; at its top level alone if `top`."""
    found = []
    for node in tree.body if top else ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module == "keras_sanet":  # its submodules, or names of its __init__
                found += [f"keras_sanet.{alias.name}" for alias in node.names]
            else:  # a module's names, or a folder's modules
                found += {
                    own if (own := f"{node.module}.{alias.name}")[12:] in SOURCES else node.module
                    for alias in node.names
                }
    return found


def parts(name):
    """Parts of the package that a source imports: "keras_sanet.layers.output" is "layers"."""
    return [m.split(".")[1] for m in imported(SOURCES[name]) if m.startswith("keras_sanet.")]


def others(name, top=False):
    """Packages outside of the standard library and this one that a source imports."""
    packages = {module.partition(".")[0] for module in imported(SOURCES[name], top)}
    return packages - sys.stdlib_module_names - {"keras_sanet"}


def run(code, **environment):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )


SUBMODULES = [name for name in SOURCES if name != "__init__"]
FOLDERS = {name.partition(".")[0] for name in SUBMODULES if "." in name}


def test_every_module_has_its_place_in_the_order():
    assert {name.partition(".")[0] for name in SUBMODULES} == set(ORDER)


@pytest.mark.parametrize("name", SUBMODULES)
def test_imports_point_down(name):
    own = name.partition(".")[0]
    below = ORDER[: ORDER.index(own)]
    assert set(parts(name)) <= {*below, *([own] if own in FOLDERS else [])}


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        name.removesuffix(".__init__"): {
            found.removeprefix("keras_sanet.") for found in imported(source, top=True)
        }
        for name, source in SOURCES.items()
        if name != "__init__"
    }
    list(graphlib.TopologicalSorter(graph).static_order())  # or CycleError, which names them


@pytest.mark.parametrize("name", SUBMODULES)
def test_nothing_imports_the_names_of_the_package(name):
    # `from keras_sanet import metrics` is a submodule; `import keras_sanet` or
    # `from keras_sanet import SANet` would be its __init__.
    assert "keras_sanet" not in imported(SOURCES[name])
    assert set(parts(name)) <= set(ORDER)


@pytest.mark.parametrize(
    "name",
    [n for n in SUBMODULES if n.partition(".")[0] in ("_labels", "layers", "losses", "schedules")],
)
def test_layers_losses_and_schedules_import_keras_and_their_own(name):
    backends = {"tensorflow", "jax", "torch"}  # inside functions
    assert others(name) <= {"keras", "numpy", *backends}
    assert set(parts(name)) <= {name.partition(".")[0], "_arguments", "_backend", "_labels"}


def test_metrics_import_keras_numpy_and_the_losses():
    assert others("metrics") <= {"keras", "numpy"}
    assert set(parts("metrics")) <= {"losses", "_labels", "_arguments", "_backend"}


@pytest.mark.parametrize(
    ("package", "modules"),
    [
        ("tensorflow", ["pipeline.tf_data"]),
        ("jax", ["layers.convolution_jax"]),
        ("torch", []),
    ],
)
def test_a_backend_is_imported_at_the_top_only_by_modules_of_its_own(package, modules):
    assert [name for name in SOURCES if package in others(name, top=True)] == modules


MATPLOTLIB = ["visualization.drawing", "visualization.plots"]


def test_matplotlib_is_imported_by_functions_that_plot_alone():
    assert [name for name in SOURCES if "matplotlib" in others(name)] == MATPLOTLIB
    assert not [name for name in MATPLOTLIB if "matplotlib" in others(name, top=True)]


@pytest.mark.slow
def test_importing_the_package_imports_tensorflow_on_its_backend_alone():
    ran = run("import sys, keras_sanet, keras_sanet.cli; print('tensorflow' in sys.modules)")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == str(keras.backend.backend() == "tensorflow")


@pytest.mark.slow
def test_package_and_command_run_without_docstrings():
    code = "from keras_sanet import cli; cli.main(['--help'])"
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-OO", "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    assert "evaluate" in ran.stdout


@pytest.mark.slow
def test_importing_the_package_imports_no_matplotlib_beyond_keras():
    # Keras itself imports it where it is installed.
    ran = run(
        "import json, sys, keras\n"
        "before = {name for name in sys.modules if name.startswith('matplotlib')}\n"
        "import keras_sanet, keras_sanet.cli\n"
        "after = {name for name in sys.modules if name.startswith('matplotlib')}\n"
        "print(json.dumps(sorted(after - before)))"
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == []


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_backend_that_is_not_installed_is_named_with_the_way_out(backend):
    hide = f"""
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {backend!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hide())
import keras_sanet
"""
    ran = run(hide, KERAS_BACKEND=backend)
    assert ran.returncode == 1
    error = ran.stderr.strip().splitlines()[-1]
    assert error.startswith(f"ImportError: Keras is set to the backend {backend}")
    assert f"keras-sanet[{backend}]" in error and "KERAS_BACKEND" in error


def test_public_names_are_there_and_no_others_are_shown():
    assert [name for name in keras_sanet.__all__ if not hasattr(keras_sanet, name)] == []
    assert dir(keras_sanet) == sorted(keras_sanet.__all__)
