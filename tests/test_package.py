"""The package's shape: importing it stays light, and its types ship with it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources

PACKAGE = "saliency_wrappers"
OPTIONAL = {
    "cloudpickle",
    "dask",
    "distributed",
    "fsspec",
    "joblib",
    "matplotlib",
    "numcodecs",
    "ray",
    "sb3_contrib",
    "stable_baselines3",
    "starlette",
    "tensorboard",
    "uvicorn",
    "wandb",
    "zarr",
}
SLOW = {"moviepy"}


def test_importing_the_package_loads_nothing_optional_or_slow() -> None:
    program = f"import json, sys, {PACKAGE}; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(run.stdout)}
    assert PACKAGE in loaded
    assert loaded & (OPTIONAL | SLOW) == set()


def test_the_types_ship_with_the_package() -> None:
    assert resources.files(PACKAGE).joinpath("py.typed").is_file()
