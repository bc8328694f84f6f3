"""The real simulator with a GL context that is taken away once, for tests. Imported by simulator processes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from data_pipeline.sim.environment import LiberoEnv


class LosesContext(LiberoEnv):
    """Loses its EGL context before the second picture, unless the file $LOSE_CONTEXT_ONCE tells that it happened."""

    _pictures = 0

    def render(self, camera: str) -> np.ndarray:
        self._pictures += 1
        note = Path(os.environ["LOSE_CONTEXT_ONCE"])
        if self._pictures != 2 or note.exists():
            return super().render(camera)
        from mujoco import egl
        from OpenGL import EGL
        from OpenGL.error import Error

        EGL.eglMakeCurrent(egl.EGL_DISPLAY, EGL.EGL_NO_SURFACE, EGL.EGL_NO_SURFACE, EGL.EGL_NO_CONTEXT)
        EGL.eglDestroyContext(egl.EGL_DISPLAY, self._renderer._context._context)
        try:
            return super().render(camera)
        except Error as problem:
            note.write_text(repr(problem))
            raise
