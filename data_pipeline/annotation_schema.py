"""What annotations.json may hold, as pydantic models: docs/annotations.schema.json is made of them, and a file that a
user gives is checked by them, so that a slip of the pen is named with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from configs.checks import ConfigError
from configs.choices import Component
from data_pipeline.contract import POINT_GRID

Cell = Annotated[int, Field(ge=0, lt=POINT_GRID)]
Point = tuple[Cell, Cell]
Box = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], str, tuple[Cell, Cell, Cell, Cell]],
    Field(description="visible share of its silhouette, name, x0 y0 x1 y1 inclusive"),
]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="allow")  # a superset of ours stays readable, as ours is one of embodied-CoT's


class Metadata(_Entry):
    """Of one episode."""

    format: Literal["nora-ecot annotations 2"]
    episode_id: Annotated[str, Field(pattern=r"^[a-z0-9]+/\d+/\d+$", description="object/03/017")]
    n_steps: Annotated[int, Field(ge=0)]
    reasoned_steps: Annotated[int, Field(ge=0, description="entries of `reasoning`")]
    absent: Annotated[list[Component], Field(description="components of which its author says nothing")]
    points: str


Step = Annotated[int, Field(ge=0)]
Event = Annotated[
    tuple[Step, Literal["grasp", "lift", "release", "joint starts", "holds", "no longer holds"], str],
    Field(description="step, what happens, to which BDDL object, part or predicate"),
]


class Segment(_Entry):
    """Steps start <= t < stop with one subtask."""

    start: Step
    stop: Step
    kind: str
    goal: Annotated[int, Field(ge=0, description="number in `goals`")]
    subtask: str


class Goal(_Entry):
    """A predicate of the BDDL goal, or one that it implies: a drawer that has to be opened first."""

    implied: Annotated[bool, Field(description="not part of the BDDL goal itself")] = False
    predicate: Annotated[list[str], Field(description="its name, then what it is about")]
    holds: Annotated[list[tuple[Step, Step]], Field(description="stretches start <= t < stop before action t")]


class Features(_Entry):
    """Lists with an entry per step, but for events, segments and goals. What nobody measured has no key."""

    move_primitive: list[str]
    bboxes: list[list[Box]] | None = None
    gripper_future: list[list[Point]] | None = Field(default=None, description="0.2, 0.4, 0.6, 0.8 and 1 s ahead")
    gripper_future_visible: list[list[bool]] | None = Field(default=None, description="of each of the five")
    gripper_position: list[Point] | None = Field(default=None, description="now; embodied-CoT's key")
    gripper_visible: list[bool] | None = Field(default=None, description="now: nothing is in front of it")
    state_3d: list[tuple[float, float, float]] | None = Field(default=None, description="grip site, m, world")
    events: list[Event] | None = None
    segments: list[Segment] | None = Field(
        default=None, description="the episode's subtasks, in order: what remains at step t is those with stop > t"
    )
    goals: list[Goal] | None = Field(default=None, description="progress of the task: which predicates hold when")


class Reasoning(_Entry):
    """The words of one step, under embodied-CoT's keys."""

    task: str
    plan: str
    subtask_reason: str
    subtask: str
    move_reason: str
    move: str


class Episode(_Entry):
    """One demonstration."""

    metadata: Metadata
    source: Annotated[
        dict[str, str],
        Field(
            description="field -> who wrote it: rules, sim, proprioception, instruction, llm:<model>, embodied-CoT; "
            "or absent, and why"
        ),
    ]
    features: Features
    reasoning: Annotated[dict[str, Reasoning], Field(description="step -> words; a step without any has no entry")]


class Annotations(RootModel[dict[str, dict[str, Episode]]]):
    """annotations.json: HDF5 file -> number of the demonstration -> entry."""


def check_annotations(path: Path, tree: Any) -> None:
    """Raise ConfigError that names the first place where a tree of JSON values is no annotations.json."""
    try:
        Annotations.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = " > ".join(map(str, first["loc"]))
        raise ConfigError(
            f"{path}: {place or 'the top level'}: {first['msg']}; see docs/annotations.schema.json"
        ) from None
