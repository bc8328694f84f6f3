"""Makes LIBERO, robosuite and MuJoCo importable without questions, downloads or noise.

Call `boot()` before the first import of any of them; it is cheap and may be called again. It decides three things of
the process, which those packages read from the environment at import: where LIBERO's configuration lies (its first
import calls `input()` when there is none), the GL backend, and robosuite's macros.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import hashlib
import importlib
import importlib.util
import io
import logging
import os
import pickle
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from data_pipeline.contract import EnvironmentProblem

GL_REMEDY = (
    "MuJoCo needs OpenGL to draw. On Debian/Ubuntu: `apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri`; or, with "
    "libosmesa6 installed, run with MUJOCO_GL=osmesa"
)
_LOG = logging.getLogger(__name__)
_EGL_PLATFORM_DEVICE = 0x313F
_USER_CONFIG_KEY = "nora_ecot_user_assets"


@functools.cache
def boot() -> None:
    """Prepare this process. Raises EnvironmentProblem where LIBERO or OpenGL is missing."""
    root = libero_root()
    os.environ["LIBERO_CONFIG_PATH"] = str(_private_config(root))
    backend = _choose_gl(os.environ.get("MUJOCO_GL", ""))
    os.environ["MUJOCO_GL"] = backend
    if backend in ("egl", "osmesa"):
        os.environ["PYOPENGL_PLATFORM"] = backend
    os.environ.setdefault("LP_NUM_THREADS", "1")  # software GL: one thread per process, the workers are the parallelism
    logging.getLogger("robosuite_logs").setLevel(logging.ERROR)
    _load_robosuite_macros()
    with quiet():
        importlib.import_module("libero.libero.envs")
        robosuite: Any = importlib.import_module("robosuite")
    robosuite.macros = sys.modules["robosuite.macros"]  # as an import of the submodule would have done
    mujoco: Any = importlib.import_module("mujoco")
    mujoco.set_mju_user_warning(_LOG.warning)  # as shipped: MUJOCO_LOG.TXT in the working directory


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Swallow what LIBERO and robosuite print and warn while they import or build."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def libero_root() -> Path:
    """The folder of the installed `libero.libero` package, found without running its `__init__`."""
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentProblem("LIBERO is not installed in this environment; run `uv sync`")
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


def cache_root() -> Path:
    """The project's folder under the user's cache directory; created. Falls back to the temporary directory."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    for parent in (Path(base), Path(tempfile.gettempdir())):
        root = parent / "nora-ecot"
        with contextlib.suppress(OSError):
            root.mkdir(parents=True, exist_ok=True)
            if os.access(root, os.W_OK):
                return root
    raise EnvironmentProblem(f"cannot write a cache folder below {base} or {tempfile.gettempdir()}; set XDG_CACHE_HOME")


def user_assets_path() -> str:
    """The `assets` entry of the user's own LIBERO config.yaml, or "" where there is none."""
    folder = Path(os.environ.get("LIBERO_CONFIG_PATH") or Path("~/.libero").expanduser())
    config = folder / "config.yaml"
    if not config.is_file():
        return ""
    entries = yaml.safe_load(config.read_text()) or {}
    if _USER_CONFIG_KEY in entries:  # our own file, in this process or inherited by a child
        return str(entries[_USER_CONFIG_KEY])
    return str(entries.get("assets", ""))


def read_init_states(path: Path) -> np.ndarray:
    """One LIBERO init-state file -> float64 [50, S] of flattened MuJoCo states (time, qpos, qvel).

    The files are torch archives holding one numpy pickle; only the four globals that it needs may be named in it.
    """
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        states = _NumpyUnpickler(io.BytesIO(archive.read(name))).load()
    return np.asarray(states, dtype=np.float64)


class _NumpyUnpickler(pickle.Unpickler):
    """Refuses every global but those of a plain numpy array."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("_codecs", "encode"): _latin1,
        }
        if name == "_reconstruct" and module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            return _empty_array
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in an init-state file")
        return allowed[module, name]


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r} has no place in an init-state file")
    return text.encode("latin1")


def _empty_array(kind: type, shape: tuple[int, ...], dtype: bytes) -> np.ndarray:
    return np.ndarray.__new__(kind, shape, dtype.decode())


# ------------------------------------------------------------------ LIBERO's configuration


def _private_config(root: Path) -> Path:
    """A folder with a config.yaml of our own, so that LIBERO never asks and never writes into the user's."""
    entries = {
        "benchmark_root": str(root),
        "bddl_files": str(root / "bddl_files"),
        "init_states": str(root / "init_files"),
        "datasets": str(root.parent / "datasets"),
        "assets": str(root / "assets"),
        _USER_CONFIG_KEY: user_assets_path(),
    }
    text = yaml.safe_dump(entries)
    folder = cache_root() / f"libero-config-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not (folder / "config.yaml").is_file():
        folder.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".config", delete=False) as file:
            file.write(text)
        Path(file.name).replace(folder / "config.yaml")  # several processes may do this: same bytes, atomic
    return folder


# ------------------------------------------------------------------ OpenGL


def _choose_gl(wish: str) -> str:
    """The user's MUJOCO_GL if set, else egl, else osmesa. Raises EnvironmentProblem where neither works."""
    probes: dict[str, Callable[[], bool]] = {"egl": _egl_works, "osmesa": _osmesa_works}
    wish = wish.lower().strip()
    if wish and wish not in probes:
        return wish
    for backend in [wish] if wish else list(probes):
        if probes[backend]():
            return backend
    tried = wish or "egl and osmesa"
    raise EnvironmentProblem(f"no OpenGL here ({tried} tried). {GL_REMEDY}")


def _egl_works() -> bool:
    """Whether an EGL device initialises. Uses ctypes: PyOpenGL cannot change its platform once imported."""
    try:
        egl = ctypes.CDLL(ctypes.util.find_library("EGL") or "libEGL.so.1")
    except OSError:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    query, display_of = (egl.eglGetProcAddress(name) for name in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT"))
    if not query or not display_of:
        return False
    pointer = ctypes.c_void_p
    query_devices = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, pointer, pointer)(query)
    platform_display = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)(display_of)
    egl.eglInitialize.argtypes = [pointer, pointer, pointer]
    devices, count = (pointer * 16)(), ctypes.c_int()
    if not query_devices(16, ctypes.cast(devices, pointer), ctypes.addressof(count)):
        return False
    displays = (platform_display(_EGL_PLATFORM_DEVICE, devices[i], None) for i in range(count.value))
    return any(display and egl.eglInitialize(display, None, None) for display in displays)


def _osmesa_works() -> bool:
    try:
        ctypes.CDLL(ctypes.util.find_library("OSMesa") or "libOSMesa.so.8")
    except OSError:
        return False
    return True


# ------------------------------------------------------------------ robosuite


def _load_robosuite_macros() -> None:
    """Put robosuite's macros in place before robosuite reads them.

    As shipped they open the log file /tmp/robosuite.log, which fails where another user owns it.
    """
    if "robosuite" in sys.modules:
        return
    spec = importlib.util.find_spec("robosuite")
    if spec is None or spec.origin is None:
        raise EnvironmentProblem("robosuite is not installed in this environment; run `uv sync`")
    path = Path(spec.origin).parent / "macros.py"
    macros_spec = importlib.util.spec_from_file_location("robosuite.macros", path)
    if macros_spec is None or macros_spec.loader is None:
        raise EnvironmentProblem(f"robosuite is damaged: {path} cannot be loaded; run `uv sync --reinstall`")
    macros: Any = importlib.util.module_from_spec(macros_spec)
    sys.modules["robosuite.macros"] = macros
    macros_spec.loader.exec_module(macros)
    macros.FILE_LOGGING_LEVEL = None
    macros.MUJOCO_GPU_RENDERING = False  # it would overwrite MUJOCO_GL
