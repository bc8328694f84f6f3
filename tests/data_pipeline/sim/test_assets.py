"""Which assets are used, the built-in set as files, and booting LIBERO without questions."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from configs.checks import ConfigError
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.sim import assets, boot, builtin_assets, builtin_shapes
from data_pipeline.sim.builtin_looks import STRETCHED, TURNED

ROOT = Path(__file__).parents[3]


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home directory without LIBERO's configuration, downloads or caches."""
    for name in ("LIBERO_ASSETS_PATH", "LIBERO_CONFIG_PATH", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def fake_official(root: Path) -> Path:
    table = assets.facts()
    for group in ("objects", "arenas"):
        for entry in table[group].values():
            file = root / entry["source"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("<mujoco/>")
    return root


# ------------------------------------------------------------------ resolving


def test_official_assets_that_are_absent_are_asked_for_with_both_remedies(bare_machine: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"nora-ecot download --assets --use-hub.*env\.assets=builtin"):
        assets.resolve("official")
    assert assets.resolve("auto").kind == "builtin"


def test_an_unknown_kind_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="allowed: auto, official, builtin"):
        assets.resolve("offical")


def test_a_wrong_path_stops_and_does_not_fall_back(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LIBERO_ASSETS_PATH", str(tmp_path / "nowhere"))
    with pytest.raises(EnvironmentProblem, match="nowhere does not hold"):
        assets.resolve("auto")
    assert assets.resolve("builtin").kind == "builtin"


def test_the_variable_wins_over_the_configuration_and_that_over_the_hub(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = bare_machine / ".cache/huggingface/hub/datasets--lerobot--libero-assets/snapshots/abc"
    assert assets.find_official() is None
    fake_official(hub)
    assert assets.find_official() == hub
    configured = fake_official(bare_machine / "configured")
    (bare_machine / ".libero").mkdir()
    (bare_machine / ".libero/config.yaml").write_text(f"assets: {configured}\n")
    assert assets.find_official() == configured
    named = fake_official(bare_machine / "named")
    monkeypatch.setenv("LIBERO_ASSETS_PATH", str(named))
    found = assets.resolve("auto")
    assert (found.kind, found.path) == ("official", named)


# ------------------------------------------------------------------ the built-in set


def test_generation_is_deterministic_and_complete() -> None:
    files = builtin_assets.generate(assets.facts())
    assert files == builtin_assets.generate(assets.facts())
    for group in ("objects", "arenas"):
        for entry in assets.facts()[group].values():
            assert entry["source"] in files
    assert sum(map(len, files.values())) < 4e6


def test_figures_keep_five_decimals() -> None:
    """With four, spatial task 5 drifts by 6 mm."""
    text = builtin_assets.generate(assets.facts())["stable_scanned_objects/akita_black_bowl/akita_black_bowl.xml"]
    box = assets.facts()["objects"]["akita_black_bowl"]["bodies"][0]["bodies"][0]["collision_boxes"][0]
    written = " ".join(f"{value:g}" for value in box["size"])
    assert all(len(str(value).split(".")[1]) <= 5 for value in box["size"])
    assert f'size="{written}"' in text.decode()


def test_many_processes_may_publish_at_once_and_a_torn_attempt_does_not_count(tmp_path: Path) -> None:
    table = {**assets.facts(), "objects": {"plate": assets.facts()["objects"]["plate"]}}
    (tmp_path / ".assets-dead-beef").mkdir()
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda _: builtin_assets.ensure(table, tmp_path), range(8)))
    assert len(set(results)) == 1
    folder, digest = results[0]
    on_disk = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert builtin_assets.digest_of(on_disk) == digest
    assert sorted(p.name for p in tmp_path.iterdir()) == [".assets-dead-beef", folder.name]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    table = {**assets.facts(), "objects": {}}
    with pytest.raises(EnvironmentProblem, match="XDG_CACHE_HOME"):
        builtin_assets.ensure(table, tmp_path / "absent")


@pytest.mark.parametrize("name", [*TURNED, *STRETCHED])
def test_turned_meshes_are_closed_and_face_outwards(name: str) -> None:
    profile = TURNED[name].profile if name in TURNED else STRETCHED[name]
    mesh = builtin_shapes.lathe(profile, 16)
    edges = [tuple(face[[i, (i + 1) % 3]]) for face in mesh.faces for i in range(3)]
    assert len(set(edges)) == len(edges)  # each directed edge once ...
    assert {(b, a) for a, b in edges} == set(edges)  # ... and its opposite in the neighbouring face
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() > 0  # six times the volume


def test_png_is_read_back_by_others() -> None:
    image = np.random.default_rng(0).integers(0, 256, (200, 150, 3), dtype=np.uint8)  # more than one stored block
    data = np.frombuffer(builtin_shapes.png_bytes(image), np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    np.testing.assert_array_equal(decoded[..., ::-1], image)


# ------------------------------------------------------------------ booting


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.sim
def test_the_first_import_asks_nothing_prints_nothing_and_stays_out_of_the_home(tmp_path: Path) -> None:
    """Also: no torch, and folders with spaces and Chinese characters."""
    home = tmp_path / "家 目录"
    home.mkdir()
    code = (
        "import sys\n"
        "from configs.choices import Subset\n"
        "from configs.data import EnvConfig\n"
        "from data_pipeline.sim.environment import LiberoEnv\n"
        "env = LiberoEnv(Subset.GOAL, 7, EnvConfig(assets='builtin', resolution=64))\n"
        "env.reset(seed=0)\n"
        "assert env.render('agentview').std() > 15\n"
        "assert not {'torch', 'peft', 'triton', 'bitsandbytes', 'transformers'} & set(sys.modules)"
    )  # ends without closing, which must not crash either
    done = run_python(code, HOME=str(home))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (home / ".libero").exists()
    kept = sorted(path.name.split("-")[0] for path in (home / ".cache/nora-ecot").iterdir())
    assert kept == ["assets", "libero"]


@pytest.mark.sim
def test_a_machine_without_opengl_is_told_what_to_install(tmp_path: Path) -> None:
    code = (
        "import ctypes\n"
        "def absent(*args, **kwargs): raise OSError('no such library')\n"
        "ctypes.CDLL = absent\n"
        "from data_pipeline.contract import EnvironmentProblem\n"
        "from data_pipeline.sim.boot import boot\n"
        "try: boot()\n"
        "except EnvironmentProblem as problem: print(problem)"
    )
    done = run_python(code, HOME=str(tmp_path))
    assert "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri" in done.stdout, done.stderr
    assert "MUJOCO_GL=osmesa" in done.stdout


def test_init_state_files_may_not_run_code(tmp_path: Path) -> None:
    file = tmp_path / "evil.pruned_init"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(print))
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.print has no place"):
        boot.read_init_states(file)


def test_every_init_state_file_of_the_four_suites_is_read() -> None:
    for suite in ("libero_spatial", "libero_object", "libero_goal", "libero_10"):
        files = sorted((boot.libero_root() / "init_files" / suite).glob("*.pruned_init"))
        assert len(files) == 10
        for file in files:
            states = boot.read_init_states(file)
            assert states.shape[0] == 50
            assert np.isfinite(states).all()
