"""Off-screen rendering with MuJoCo, and the check that this machine can do it: `python -m envs.rendering`."""

import dataclasses
import os
import subprocess
import sys
from typing import Any

import numpy as np
from PIL import Image

from tools.errors import UserError

IMAGE_SIZE = 64

PACKAGES = {"egl": "libegl1 libgl1-mesa-dri", "osmesa": "libosmesa6"}
HELP = (
    f"Off-screen rendering does not work here: install the Debian packages {PACKAGES['egl']} (EGL), or "
    f"{PACKAGES['osmesa']} and set MUJOCO_GL=osmesa."
)
CHOICES = f"set it to egl (Debian packages {PACKAGES['egl']}), or to osmesa ({PACKAGES['osmesa']})"
# What MuJoCo raises where it cannot draw depends on the library that is missing, and on MUJOCO_GL.
NO_OPENGL = (AttributeError, ImportError, RuntimeError)
CHECK_TIMEOUT = 120.0  # seconds; a healthy back-end needs two
CHECK_PROGRAM = """
import mujoco
import numpy as np
from envs.rendering import Camera
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom size=".5"/><camera name="c" pos="0 0 3"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
camera = Camera(model, data, 'c', 'full')
image = camera.render()
camera.close()
assert image[32, 32].max() > image[0, 0].max(), 'the picture is empty'
"""


def shrink(picture: np.ndarray) -> np.ndarray:
    """A picture uint8 [H, W, 3] at the size of all others, [64, 64, 3], by averaging areas; as it is where it fits."""
    if picture.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE):
        return picture
    return np.asarray(Image.fromarray(picture).resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX))


@dataclasses.dataclass(frozen=True)
class FreeCamera:
    """A camera on a sphere around a point: angles in degrees, lengths in metres."""

    azimuth: float
    elevation: float
    distance: float
    lookat: tuple[float, float, float]

    @property
    def upside_down(self) -> bool:
        """Whether the camera went over the pole, where its up points down."""
        return abs(self.elevation) > 90.0


class Camera:
    """One camera on a MuJoCo model. The OpenGL context is made at the first picture and reused for all."""

    def __init__(self, model, data, view: FreeCamera | str | int, quality: str, upside_down: bool = False) -> None:
        """Points a camera at a simulation.

        Args:
            model: mujoco.MjModel; its off-screen buffer is resized and, in `fast` quality, its looks are simplified.
            data: mujoco.MjData, drawn as it is at each picture.
            view: a free camera, or the name or number of a camera of the model.
            quality: `full` (as the simulator ships it) or `fast` (no shadows, reflections, multisampling).
            upside_down: the camera is mounted upside down; its picture is turned by 180 degrees.

        Raises:
            UserError: a camera name that the model does not have.
        """
        import mujoco

        self._model, self._data = model, data
        self._view, self._flip = view, upside_down
        if isinstance(view, FreeCamera):
            self._view, self._flip = _free_camera(view), view.upside_down
        elif isinstance(view, str):
            names = [model.camera(index).name for index in range(model.ncam)]
            if view not in names:
                choices = ", ".join(filter(None, names)) or "none with a name"
                raise UserError(f"Unknown camera '{view}': the cameras of this task are {choices}.")
        self._option = mujoco.MjvOption()
        # DM Control draws without these beams, which cover the picture of tasks with rangefinders.
        self._option.flags[mujoco.mjtVisFlag.mjVIS_RANGEFINDER] = False
        model.vis.global_.offwidth = model.vis.global_.offheight = IMAGE_SIZE
        if quality == "fast":
            simplify(model)
        self._renderer: Any = None  # mujoco is imported at the first picture

    def render(self) -> np.ndarray:
        """The picture of the current state, uint8 [64, 64, 3].

        Raises:
            UserError: this machine cannot render off-screen.
        """
        import mujoco

        if self._renderer is None:
            try:
                self._renderer = _renderer(self._model)
            except (*NO_OPENGL, mujoco.FatalError) as error:
                raise no_opengl() from error
        self._renderer.update_scene(self._data, self._view, self._option)
        image = self._renderer.render()
        return np.ascontiguousarray(image[::-1, ::-1]) if self._flip else image

    def model_changed(self) -> None:
        """Tells the renderer of changed height fields, which live on the graphics card."""
        import mujoco

        if self._renderer is not None:
            for index in range(self._model.nhfield):
                mujoco.mjr_uploadHField(self._model, self._renderer._mjr_context, index)

    def close(self) -> None:
        """Frees the OpenGL context; the next picture would make a new one."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def _renderer(model):
    import mujoco

    class Renderer(mujoco.Renderer):
        _gl_context = _mjr_context = None  # `__del__` asks for them, also after a start that failed

    return Renderer(model, IMAGE_SIZE, IMAGE_SIZE)


def no_opengl() -> UserError:
    """The error (returned, not raised) for a machine that cannot draw, or a MUJOCO_GL with which none could."""
    backend = os.environ.get("MUJOCO_GL", "")
    if backend.lower().strip() in PACKAGES:
        return UserError(HELP)
    return UserError(f"Off-screen rendering does not work here with MUJOCO_GL={backend}: {CHOICES}.")


def simplify(model) -> None:
    """Turns off what costs most in software rendering: shadows, reflections and multisampling."""
    model.vis.quality.shadowsize = 0
    model.vis.quality.offsamples = 0
    model.mat_reflectance[:] = 0.0


def _free_camera(view: FreeCamera):
    import mujoco

    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    camera.azimuth, camera.elevation, camera.distance = view.azimuth, view.elevation, view.distance
    camera.lookat[:] = view.lookat
    return camera


def works(backend: str) -> bool:
    """Whether MuJoCo draws a picture with this OpenGL back-end; tried in a process of its own, as drivers may hang."""
    environment = {**os.environ, "MUJOCO_GL": backend}
    command = [sys.executable, "-c", CHECK_PROGRAM]
    try:
        result = subprocess.run(command, env=environment, capture_output=True, timeout=CHECK_TIMEOUT)
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0


def main() -> int:
    """Prints the first OpenGL back-end that works and returns 0, or says what to install and returns 2."""
    for backend in dict.fromkeys([os.environ["MUJOCO_GL"], *PACKAGES]):
        if works(backend):
            print(backend)
            return 0
    print(HELP, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
