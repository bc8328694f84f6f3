"""Off-screen pictures of a MuJoCo model: colour, metric depth, geom ids, and the camera they were taken with.

The renderer does what robosuite's does (same scene, same geom groups, same buffers), so that the `official` look is
pixel for pixel robosuite's; the other looks leave out what costs most. Pictures are bottom-up (ImageFrame.GL).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from OpenGL import GL

from configs.choices import Look
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.sim.boot import GL_REMEDY

_MAX_GEOMS = 1000  # robosuite's
_COLLISION_GROUP, _VISUAL_GROUP, HIDDEN_GROUP = 0, 1, 3
_ROBOT_PREFIXES = ("robot0", "gripper0", "mount0")
_LIGHT_ROBOT_RGBA = (0.85, 0.85, 0.87, 1.0)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. A world point p is, in camera coordinates, rotation.T @ (p - position); the camera looks
    along -z, x to the right and y up (OpenGL). Its pixel in the UPRIGHT frame is
    (width / 2 - focal_px * x / z, height / 2 + focal_px * y / z)."""

    position: np.ndarray  # float64 [3], m, world
    rotation: np.ndarray  # float64 [3, 3], columns are the camera's axes in the world
    focal_px: float
    size: tuple[int, int]  # (height, width)


class Renderer:
    """Draws one model at one resolution in one look. Holds a GL context; call `close` before the interpreter ends."""

    def __init__(self, model: mujoco.MjModel, look: Look, resolution: int) -> None:
        self._model, self._resolution = model, resolution
        self._samples = model.vis.quality.offsamples if look is Look.OFFICIAL else 0
        self._context = _gl_context(resolution)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        if look is not Look.OFFICIAL:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._perturb = mujoco.MjvPerturb()
        self._options = _options()
        self._ids_options = _options()
        self._ids_options.sitegroup[:] = 0
        self._colour = self._buffers(self._samples)
        self._ids: mujoco.MjrContext | None = None
        self._viewport = mujoco.MjrRect(0, 0, resolution, resolution)

    def colour(self, data: mujoco.MjData, camera_id: int) -> np.ndarray:
        """uint8 [R, R, 3]."""
        self._update(data, camera_id, self._options)
        image = np.empty((self._resolution, self._resolution, 3), np.uint8)
        mujoco.mjr_render(self._viewport, self._scene, self._colour)
        mujoco.mjr_readPixels(image, None, self._viewport, self._colour)
        return image

    def depth_and_ids(self, data: mujoco.MjData, camera_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Planar depth float32 [R, R] in metres, and the geom seen int32 [R, R] (-1 where none is)."""
        self._update(data, camera_id, self._ids_options)
        context = self._ids_context()
        image = np.empty((self._resolution, self._resolution, 3), np.uint8)
        buffer = np.empty((self._resolution, self._resolution), np.float32)
        flags = self._scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        mujoco.mjr_render(self._viewport, self._scene, context)
        mujoco.mjr_readPixels(image, buffer, self._viewport, context)
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 0
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._colour)
        return self._metres(buffer), self._geom_ids(image)

    def device(self) -> str:
        """Who draws: GL vendor, renderer and version."""
        self._context.make_current()
        names = (GL.GL_VENDOR, GL.GL_RENDERER, GL.GL_VERSION)
        return " | ".join((GL.glGetString(name) or b"?").decode() for name in names)

    def close(self) -> None:
        """Give the GL context back."""
        self._context.make_current()
        self._colour.free()
        if self._ids is not None:
            self._ids.free()
        self._context.free()

    def _buffers(self, samples: int) -> mujoco.MjrContext:
        """GL buffers for this model; the model's own quality settings are put back afterwards."""
        self._context.make_current()
        visual = self._model.vis
        kept = visual.global_.offwidth, visual.global_.offheight, visual.quality.offsamples
        visual.global_.offwidth = visual.global_.offheight = self._resolution
        visual.quality.offsamples = samples
        try:
            context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_150)
        except mujoco.FatalError as problem:
            raise EnvironmentProblem(f"OpenGL cannot draw ({problem}). {GL_REMEDY}") from problem
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, context)
        visual.global_.offwidth, visual.global_.offheight, visual.quality.offsamples = kept
        return context

    def _ids_context(self) -> mujoco.MjrContext:
        """Buffers without multisampling: blended ids and depths at edges would belong to nothing."""
        if self._samples == 0:
            return self._colour
        if self._ids is None:
            self._ids = self._buffers(0)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._ids)
        return self._ids

    def _update(self, data: mujoco.MjData, camera_id: int, options: mujoco.MjvOption) -> None:
        self._context.make_current()
        self._camera.fixedcamid = camera_id
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, data, options, self._perturb, self._camera, everything, self._scene)

    def _metres(self, buffer: np.ndarray) -> np.ndarray:
        """Depth buffer in [0, 1] -> distance along the viewing axis."""
        extent, clip = self._model.stat.extent, self._model.vis.map
        near, far = clip.znear * extent, clip.zfar * extent
        return (near / (1.0 - buffer * (1.0 - near / far))).astype(np.float32)

    def _geom_ids(self, image: np.ndarray) -> np.ndarray:
        """Colours written under IDCOLOR are segment id + 1."""
        segments = image.astype(np.int32) @ np.array([1, 1 << 8, 1 << 16], np.int32)
        table = np.full(self._scene.ngeom + 1, -1, np.int32)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.segid >= 0 and geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                table[geom.segid + 1] = geom.objid
        return table[segments]


def apply_look(model: mujoco.MjModel, look: Look) -> None:
    """`light`: draw the robot by its collision meshes. Call once, before a Renderer is made for the model."""
    if look is not Look.LIGHT:
        return
    for geom in range(model.ngeom):
        if not model.body(model.geom_bodyid[geom]).name.startswith(_ROBOT_PREFIXES):
            continue
        if model.geom_group[geom] == _VISUAL_GROUP:
            model.geom_group[geom] = HIDDEN_GROUP
        elif model.geom_group[geom] == _COLLISION_GROUP:
            model.geom_group[geom] = _VISUAL_GROUP
            model.geom_rgba[geom] = _LIGHT_ROBOT_RGBA
            model.geom_matid[geom] = -1


def camera(model: mujoco.MjModel, data: mujoco.MjData, camera_id: int, resolution: int) -> Camera:
    """The pose and focal length of a camera now."""
    focal_px = 0.5 * resolution / np.tan(np.deg2rad(model.cam_fovy[camera_id]) / 2)
    rotation = data.cam_xmat[camera_id].reshape(3, 3).copy()
    return Camera(data.cam_xpos[camera_id].copy(), rotation, float(focal_px), (resolution, resolution))


def _options() -> mujoco.MjvOption:
    options = mujoco.MjvOption()
    options.geomgroup[_COLLISION_GROUP] = 0
    options.geomgroup[_VISUAL_GROUP] = 1
    return options


def _gl_context(resolution: int) -> Any:
    """A context of the backend that `boot` chose, whether or not mujoco was imported before."""
    try:
        context = _context_class()(resolution, resolution)
        context.make_current()
    except (ImportError, RuntimeError, AttributeError) as problem:  # what mujoco raises depends on the backend
        raise EnvironmentProblem(f"no OpenGL context ({problem}). {GL_REMEDY}") from problem
    return context


def _context_class() -> Any:
    match os.environ.get("MUJOCO_GL"):
        case "egl":
            from mujoco.egl import GLContext
        case "osmesa":
            from mujoco.osmesa import GLContext
        case _:
            from mujoco import GLContext
    return GLContext
