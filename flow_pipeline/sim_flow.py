"""Backend `sim`: exact flow from recorded simulator states."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from configs.data import EnvConfig
from data_pipeline.contract import Episode
from data_pipeline.image_frame import ImageFrame, convert_flow, convert_image
from data_pipeline.scene import Moment
from flow_pipeline.exact_flow import exact_flow
from flow_pipeline.flow_field import FlowField


class SimEstimator:
    """Exact flow from recorded simulator states; each is rendered once."""

    def __init__(self, env: EnvConfig, k: int, camera: str) -> None:
        from data_pipeline.sim.features import Replayer  # the simulator only where it is needed

        self._replayer, self._k, self._camera = Replayer(env), k, camera

    def episode(self, episode: Episode) -> Iterator[FlowField]:
        """T fields, ROT180. Raises EnvironmentProblem where there are no states."""
        return sim_chain(self._replayer.moments(episode, self._camera), self._k)

    def close(self) -> None:
        """Free the simulator."""
        self._replayer.close()


def sim_chain(moments: Iterable[Moment], k: int) -> Iterator[FlowField]:
    """Exact flow from each moment to the one k steps later, or to the last one. Each moment is rendered once.

    Yields T fields in the ROT180 frame.
    """
    window: list[Moment] = []
    for moment in moments:
        window.append(moment)
        if len(window) > k:
            yield _rot180(exact_flow(window.pop(0), moment))
    while window:
        yield _rot180(exact_flow(window[0], window[-1]))
        window.pop(0)


def _rot180(field: FlowField) -> FlowField:
    valid, occluded = (
        convert_image(mask[..., None], ImageFrame.UPRIGHT, ImageFrame.ROT180)[..., 0]
        for mask in (field.valid, field.occluded)
    )
    flow = convert_flow(field.flow_px, ImageFrame.UPRIGHT, ImageFrame.ROT180)
    return FlowField(flow, valid, occluded, field.provenance)
