"""What is installed: sdist and wheel are whole, and the library works with nothing but what it declares."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytest.importorskip("build", reason="needs build (group dev)")
pytest.importorskip("setuptools", reason="needs setuptools")

TEN_LINES = """
import jax, sys
from dlnjax import initial, network, optim, problem, scales, train
from dlnjax.theory import rates
teacher = initial.teacher(jax.random.key(0), (4, 2, 4), [1.0, 0.5])
start = initial.perturb(jax.random.key(1), teacher, 0.01)
task = problem.whitened(network.end_to_end(teacher))
_, trace = train.train(start, task, optim.rgd(0.2, scales=scales.discrepant(teacher)), num_steps=20)
assert trace.distance[-1] < trace.distance[0]
assert rates.closed_form([1.0, 0.5], dims=(4, 2, 4), step_size=0.2).factor < 1
wanted = {"pyarrow", "matplotlib", "pandas", "xarray", "diffrax", "tqdm", "sklearn", "plotly"}
assert not wanted & set(sys.modules), wanted & set(sys.modules)
from dlnjax import analysis
try:
    analysis.write("nowhere")
except ImportError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """``(sdist, wheel)``, the wheel from the sdist; built with the setuptools that is here, without a network."""
    out = tmp_path_factory.mktemp("dist")
    found = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)],
        capture_output=True, text=True, timeout=200, cwd=out,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    return next(out.glob("*.tar.gz")), next(out.glob("*.whl"))


def sources():
    return {str(path.relative_to(ROOT)) for path in (ROOT / "dlnjax").rglob("*.py")} | {"dlnjax/py.typed"}


def test_wheel_holds_the_package_and_nothing_else(built):
    names = zipfile.ZipFile(built[1]).namelist()
    assert {name for name in names if ".dist-info/" not in name} == sources()
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_sdist_holds_the_package_and_its_license(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert sources() | {"LICENSE", "README.md", "pyproject.toml"} <= names


def core(name="dlnjax", found=None):
    """The distributions that ``name`` needs without any extra, by name."""
    found = {} if found is None else found
    for line in metadata.requires(name) or []:
        needed = re.split(r"[^A-Za-z0-9_.-]", line)[0]
        if ";" not in line and needed.lower() not in found:
            found[needed.lower()] = metadata.distribution(needed)
            core(needed, found)
    return found


@pytest.mark.slow
def test_library_runs_with_its_core_dependencies_alone(built, tmp_path):
    """A folder of the wheel and links to the declared dependencies is all the interpreter sees."""
    zipfile.ZipFile(built[1]).extractall(tmp_path / "site")
    for distribution in core().values():
        for file in distribution.files or []:
            top = Path(file.parts[0])
            link = tmp_path / "site" / top
            if top.name not in ("..", "__pycache__") and not link.exists():
                link.symlink_to(Path(str(distribution.locate_file(top))))
    found = subprocess.run(
        [sys.executable, "-S", "-c", TEN_LINES],
        capture_output=True, text=True, timeout=100, cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr[-2000:]
    assert 'pyarrow is not installed; pip install "dlnjax[study]"' in found.stdout


@pytest.mark.slow
def test_every_public_type_is_known_to_a_strict_checker(tmp_path):
    """What a user's pyright in strict mode sees of the package: no name without a type, none ambiguous."""
    pytest.importorskip("pyright", reason="needs pyright (group dev)")
    found = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "dlnjax", "--ignoreexternal", "--outputjson"],
        capture_output=True, text=True, timeout=200, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    told = json.loads(found.stdout)["typeCompleteness"]
    assert told["packageRootDirectory"] == str(ROOT / "dlnjax")
    wrong = [
        f"{symbol['name']}: {diagnostic['message']}"
        for symbol in told["symbols"]
        for diagnostic in symbol["diagnostics"]
        if diagnostic["severity"] == "error"
    ]
    assert wrong == []
    assert told["completenessScore"] == 1
    assert told["exportedSymbolCounts"]["withKnownType"] > 1000
