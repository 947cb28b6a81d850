"""Every block of code in the README and the pages runs as it is printed, in a folder with what the pages speak of.

Stand-ins keep it short and here: a small study under the name of the long one, ``pip`` that knows the extras,
``sbatch`` that runs two of the jobs here, a Dask scheduler and a host of this machine for those named.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest

from dlnjax.cli import template
from dlnjax.sweep.config import loading

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(page.stem, language, text, id=f"{page.stem}-{text.splitlines()[0][:40]}")
    for page in PAGES
    for language, text in re.findall(r"^```(sh|python|toml)\n(.*?)^```", page.read_text(), re.M | re.S)
]
#: First words of a block -> the module that runs it.
ELSEWHERE = {
    "./scripts/study": "test_scripts",
    "eval ": "test_completion",
    'pip install "dlnjax[study,slurm]"': "test_cli_engines",  # with cluster=local
    "import jax\nfrom dlnjax import initial": "test_readme",
    "from dlnjax import sweep\n\ncells": "test_readme",
}
#: What the text around a Python block has defined -> a small one of it.
GIVEN = {
    "executor=executor": "from concurrent.futures import ThreadPoolExecutor; executor = ThreadPoolExecutor(1)",
    "workers=8": "from dlnjax import sweep; study = sweep.load('configs/depth_rate.toml')",
    "client = Client": "from dlnjax import sweep; study = sweep.load('configs/depth_rate.toml')",
    "sweep.params(": "from dlnjax import sweep\n"
    "study = sweep.load('configs/depth_rate.toml', ['record.keep_params=true'])\n"
    "sweep.run(study, 'results/my_study'); cell = sweep.read('results/my_study')['cell'][0].as_py()",
}
# The new config is made shorter.
DLNJAX = """#!/bin/sh
"{python}" -m dlnjax "$@" || exit
[ "$1" != new ] || sed -i 's/^seed = .*/seed = [0]/; s/^depth = .*/depth = [2, 4]/; s/"auto"/"reduced"/' "$2"
"""
# Knows extras, installs nothing.
PIP = """#!/bin/sh
exec "{python}" - "$@" <<'end'
import re, sys, tomllib
extras = tomllib.load(open({project!r}, "rb"))["project"]["optional-dependencies"]
for name in re.findall(r"\\[(.*?)\\]", " ".join(sys.argv)):
    assert set(name.split(",")) <= set(extras), sys.argv
end
"""
# Two jobs of the array, one after the other.
SBATCH = """#!/bin/sh
[ "$2" = --wrap ] && sh -c "$3" && sh -c "$3"
"""


#: The study of ``configs/depth_rate.toml``, shortened.
SHORT = loading.grid(
    study="depth_rate", kind="teacher", input_dim=4, output_dim=4, singular_values=[1.0, 0.5], width=2, depth=[2, 4],
    seed=[0], start="haar", step_rule="optimal", step=0.9, engine="reduced", max_steps=500,
)  # fmt: skip


def elsewhere(text):
    return any(text.startswith(words) for words in ELSEWHERE)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder as a reader has it: a short ``configs/depth_rate.toml``, its results, data of one's own."""
    root = tmp_path_factory.mktemp("a folder")
    known = {"python": sys.executable, "project": str(ROOT / "pyproject.toml")}
    for name, text in {"dlnjax": DLNJAX, "pip": PIP, "sbatch": SBATCH}.items():
        tool = root / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(text.format(**known))
        tool.chmod(0o755)
    (root / "configs").mkdir()
    (root / "configs" / "depth_rate.toml").write_text(SHORT.to_toml())
    x = np.random.default_rng(0).standard_normal((40, 8))
    np.savez(root / "my_data.npz", x=x, y=x[:, :3])
    assert run(root, [sys.executable, "-m", "dlnjax", "run", "configs/depth_rate.toml"]).returncode == 0

    def of(page):
        """The folder of a page, the same for all its blocks."""
        if not (folder := root.parent / f"{root.name}, {page}").exists():
            shutil.copytree(root, folder)
        return folder

    return of


def run(root, command):
    paths = f"{root / 'bin'}:{os.environ['PATH']}"
    local = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', ROOT)}"}
    environment = {**os.environ, **local, "PATH": paths}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The address of a Dask scheduler with one worker, processes of their own."""
    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    dask = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard"]
    some = [
        subprocess.Popen(
            [*command, "--scheduler-file", str(file)], stderr=subprocess.DEVNULL, cwd=file.parent
        )
        for command in (dask, worker)
    ]
    for _ in range(300):
        if file.exists() and file.stat().st_size:
            break
        time.sleep(0.1)
    yield json.loads(file.read_text())["address"]
    for process in some:
        process.terminate()
        process.wait(30)


def here(text, request):
    """The text with the machines it names replaced by this one."""
    if found := re.search(r"tcp://\w+:8786", text):
        text = text.replace(found[0], request.getfixturevalue("scheduler"))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return text.replace("host0:1234 2 0", f"localhost:{probe.getsockname()[1]} 1 0")


def smaller(text):
    return (
        text.replace("workers=8", "workers=2").replace("--workers 4", "--workers 2").replace("/shared/", "")
    )


@pytest.mark.parametrize(("page", "language", "text"), [b for b in BLOCKS if not elsewhere(b.values[2])])
def test_block(place, request, page, language, text):
    place = place(page)
    given = here(smaller(text), request)
    if language == "toml":
        configured(place, given)
        return
    named = re.match(r"# (\w+\.py)\n", text)
    if named:  # a file of the reader's
        (place / named[1]).write_text(given)
    before = "".join(f"{code}\n" for word, code in GIVEN.items() if word in text)
    command = ["bash", "-euc", given] if language == "sh" else [sys.executable, "-c", before + given]
    found = run(place, [sys.executable, named[1]] if named else command)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "Traceback" not in found.stderr


def configured(place, text):
    """A config, or the part of one that stands in the place of the same part of a new one."""
    raw = tomllib.loads(text)
    if set(raw) == {"problem"}:
        text = re.sub(
            r"\[problem\]\n.*?(?=\n\[)", lambda _: text, template.text("file", "x", "x.toml"), flags=re.S
        )
    path = place / "printed.toml"
    path.write_text(text)
    assert len(loading.load(path).cells()) > 10


def test_no_block_is_overlooked():
    """Blocks have a language that is run above, or are cells of a notebook, or no code."""
    ways = {word for page in PAGES for word in re.findall(r"^```([^\n]*)", page.read_text(), re.M)}
    code = {word for word in ways if word and not word.startswith("{")}
    assert code == {"sh", "python", "toml"}
    assert {word.split("}")[0] for word in ways - code - {""}} == {
        "{code-cell",
        "{eval-rst",
        "{image",
        "{toctree",
    }
    assert len(BLOCKS) > 20
