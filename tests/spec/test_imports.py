"""Imports run one way; what is heavy or unsafe is imported only where it belongs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAY_IMPORT = {
    "configs": set(),
    "data_pipeline": {"configs"},
    "flow_pipeline": {"configs", "data_pipeline"},
    "training": {"configs", "data_pipeline"},
    "evaluation": {"configs", "data_pipeline", "training"},
    "experiment": {"configs", "data_pipeline", "flow_pipeline", "training", "evaluation"},
    "scripts": {"experiment"},
}
ONLY_IN = {
    "hydra": {"experiment/compose.py"},
    "omegaconf": {"experiment/compose.py"},
    "libero": {"data_pipeline/sim/"},
    "robosuite": {"data_pipeline/sim/"},
    "mujoco": {"data_pipeline/sim/"},
    "openai": {"data_pipeline/llm_client.py"},
    "ray": {"experiment/executors.py"},
}


def sources():
    return [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def imported(path):
    """Top-level names that a file imports anywhere, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_one_way(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        wrong = (imported(path) & set(MAY_IMPORT)) - MAY_IMPORT[package] - {package}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


@pytest.mark.parametrize("library", ONLY_IN)
def test_library_stays_where_it_belongs(library):
    for path in sources():
        name = path.relative_to(ROOT).as_posix()
        if library in imported(path):
            assert any(name.startswith(place) for place in ONLY_IN[library]), f"{name} imports {library}"


def test_simulator_modules_name_no_model_library():
    for path in sorted((ROOT / "data_pipeline").rglob("*.py")):
        wrong = imported(path) & {"torch", "peft", "triton", "bitsandbytes", "transformers"}
        assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def loaded_by(code):
    """Top-level packages that a fresh process has loaded after running code."""
    probe = f"{code}\nimport sys\nprint(' '.join(sorted({{n.partition('.')[0] for n in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    ["experiment.cli", "experiment.commands", "experiment.worker", "experiment.study", "data_pipeline.contract"],
)
def test_the_driver_is_light(module):
    heavy = {"torch", "transformers", "peft", "mujoco", "robosuite", "libero", "h5py", "cv2", "matplotlib", "scipy"}
    assert not loaded_by(f"import {module}") & heavy


@pytest.mark.sim
def test_simulator_processes_never_load_model_libraries():
    """Software GL and triton or peft in one process crash."""
    code = """
import data_pipeline.ecot_annotator, data_pipeline.libero_regenerator, data_pipeline.sim.demos
import evaluation.sim_worker, flow_pipeline.raft_processor
from configs.choices import Look, Subset
from configs.data import EnvConfig
from data_pipeline.sim.environment import LiberoEnv
env = LiberoEnv(Subset.OBJECT, 0, EnvConfig(assets="builtin", look=Look.LIGHT, resolution=64))
env.reset(seed=0, init_state=0)
env.render("agentview")
env.close()
"""
    assert not loaded_by(code) & {"torch", "triton", "peft", "bitsandbytes", "transformers"}


def test_packages_are_those_of_this_checkout():
    for package in set(MAY_IMPORT) - {"scripts"}:
        spec = __import__("importlib.util").util.find_spec(package)
        assert Path(spec.submodule_search_locations[0]).resolve() == ROOT / package
