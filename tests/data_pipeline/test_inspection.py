"""What the inspection says of demonstrations, and that each planted fault is named with its value."""

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from configs.choices import Normalization, Subset
from data_pipeline.action_checks import clipped_share
from data_pipeline.action_stats import ActionStatistics
from data_pipeline.contact_sheet import WIDTH, write_sheet
from data_pipeline.contract import AGENTVIEW, EpisodeId
from data_pipeline.data_splitter import Split, load_split
from data_pipeline.inspection import Known, inspect_folder, sheet_steps
from data_pipeline.inspection_charts import runs
from data_pipeline.inspection_checks import run_checks
from data_pipeline.inspection_page import render_page
from data_pipeline.metainfo import Verdict
from data_pipeline.raw_loader import Hdf5Source
from data_pipeline.svg_parts import nice_ticks
from tests.helpers.synthetic import write_split_and_stats, write_synthetic_subset

TASK = "pick_up_the_alphabet_soup_and_place_it_in_the_basket"
VERDICT = Verdict(True, [], 30, 3, "rendered", None, None)
METAINFO = {TASK: {"demo_0": VERDICT, "demo_9": replace(VERDICT, noops_removed=1, dropped="not solved <b>")}}
ATTEMPTS = {"tasks": {TASK: {"demos": {"demo_1": {"distance_to_official_m": 0.004, "failed": [{}, {}]}}}}}


@pytest.fixture(scope="module")
def inspection(tmp_path_factory):
    """Two tasks, four smooth demonstrations each; nothing is wrong with them.

    (Bounds are wide, and images too coarse to show each motion count as different.)
    """
    folder = tmp_path_factory.mktemp("inspect")
    write_synthetic_subset(folder / "demos", Subset.OBJECT)
    split, stats = write_split_and_stats(folder / "demos", folder / "made", Subset.OBJECT)
    statistics = ActionStatistics.load(stats)
    statistics = replace(statistics, unit=statistics.unit + 0.1)
    known = Known("synthetic", load_split(split), statistics, METAINFO, ATTEMPTS, ("made up",))
    found = inspect_folder(Hdf5Source(folder / "demos", Subset.OBJECT), known)
    return replace(found, tasks=tuple(replace(t, demos=tuple(map(sharp, t.demos))) for t in found.tasks))


def sharp(demo):
    pixels = {camera: replace(one, scan=replace(one.scan, repeated=())) for camera, one in demo.pixels.items()}
    return replace(demo, pixels=pixels)


def findings(inspection):
    return {check.name: check.findings for check in run_checks(inspection) if check.findings}


# ------------------------------------------------------------------ facts


def test_counts_and_what_is_known_besides(inspection):
    assert (len(inspection.tasks), len(inspection.demos), inspection.num_steps) == (2, 8, 240)
    assert sorted(demo.split for demo in inspection.tasks[0].demos) == ["test", "train", "train", "train"]
    first, second = inspection.tasks
    assert (first.noops_removed, first.dropped, first.failed_attempts) == (4, (("demo_9", "not solved <b>"),), 2)
    assert (second.noops_removed, second.dropped, second.failed_attempts) == (None, (), None)
    assert [demo.start_distance_m for demo in first.demos] == [None, 0.004, None, None]
    assert inspection.resolutions == ("32 x 32",)
    assert inspection.fingerprints == ({"assets": "synthetic"},)


def test_the_stills_are_those_of_the_typical_demonstration(inspection):
    stills = inspection.tasks[0].stills
    assert [still.step for still in stills] == [0, 5, 11, 17, 23, 29]
    assert stills[0].images[AGENTVIEW].shape == (32, 32, 3)


def test_sheet_steps_of_a_single_step():
    assert sheet_steps(1) == [0] * 6


def test_the_digest_follows_content(inspection):
    task = inspection.tasks[0]
    other = change_demo(inspection, actions=task.demos[0].actions * 0.5)
    assert other.digest != inspection.digest


def test_clipped_share_counts_what_normalising_changes(inspection):
    statistics = inspection.known.statistics
    assert statistics is not None
    actions = inspection.actions
    normal = 2 * (actions[:, :6] - statistics.low[:6]) / (statistics.high[:6] - statistics.low[:6]) - 1
    changed = np.abs(statistics.normalize(actions)[:, :6] - normal) > 1e-5
    np.testing.assert_allclose(clipped_share(actions, statistics)[:6], changed.mean(axis=0), atol=0.005)


def test_normal_statistics_clip_nothing(inspection):
    actions = [demo.actions for demo in inspection.demos]
    proprio = [demo.position for demo in inspection.demos]
    statistics = ActionStatistics.of("libero_object", actions, proprio, mode=Normalization.NORMAL)
    known = replace(inspection.known, statistics=statistics)
    assert not clipped_share(inspection.actions, statistics).any()
    page = page_of(replace(inspection, known=known))
    assert "normalised by mean and std" in page
    assert "not clipped</text>" in page


# ------------------------------------------------------------------ warnings


def test_no_warning_without_a_fault(inspection):
    assert not findings(inspection)


def change_demo(inspection, **changes):
    """The inspection with its first demonstration changed."""
    task = inspection.tasks[0]
    demos = (replace(task.demos[0], **changes), *task.demos[1:])
    return replace(inspection, tasks=(replace(task, demos=demos), *inspection.tasks[1:]))


def with_pixels(inspection, **changes):
    """The inspection with agentview of its first demonstration changed."""
    demo = inspection.tasks[0].demos[0]
    pixels = demo.pixels[AGENTVIEW]
    scan = replace(pixels.scan, **{k: v for k, v in changes.items() if k != "brightness"})
    pixels = replace(pixels, scan=scan, brightness=changes.get("brightness", pixels.brightness))
    return change_demo(inspection, pixels={**demo.pixels, AGENTVIEW: pixels})


def with_column(inspection, column, value, *, everywhere=False):
    """The inspection with one action dimension set to a value."""

    def set_column(demo):
        actions = demo.actions.copy()
        actions[:, column] = value
        return replace(demo, actions=actions)

    tasks = tuple(replace(task, demos=tuple(map(set_column, task.demos))) for task in inspection.tasks)
    if everywhere:
        return replace(inspection, tasks=tasks)
    return change_demo(inspection, actions=tasks[0].demos[0].actions)


def with_length(inspection, times):
    demo = inspection.tasks[0].demos[0]
    return change_demo(
        inspection, actions=np.tile(demo.actions, (times, 1)), position=np.tile(demo.position, (times, 1))
    )


def with_moving_repeat(inspection):
    demo = inspection.tasks[0].demos[0]
    position = demo.position.copy()
    position[10:] += 0.02
    return change_demo(with_pixels(inspection, repeated=(10,)), position=position)


def with_noops(inspection):
    actions = inspection.tasks[0].demos[0].actions.copy()
    actions[3:6, :6] = 0
    return change_demo(inspection, actions=actions)


def with_task(inspection, **changes):
    return replace(inspection, tasks=(replace(inspection.tasks[0], **changes), *inspection.tasks[1:]))


def with_split(inspection, train, test):
    split = Split(*(tuple(EpisodeId.parse(text) for text in part) for part in (train, test)))
    return replace(inspection, known=replace(inspection.known, split=split))


def with_narrow_statistics(inspection):
    statistics = inspection.known.statistics
    narrow = replace(statistics, centre=statistics.centre / 2, unit=statistics.unit / 2)
    return replace(inspection, known=replace(inspection.known, statistics=narrow))


FAULTS = {
    "gripper commands are -1 or +1": (lambda i: with_column(i, 6, 0.5), "object/00/000: 30 steps, e.g. 0.5"),
    "the gripper closes": (lambda i: with_column(i, 6, -1.0), "alphabet soup.*: 1 of 4"),
    "every action dimension moves": (lambda i: with_column(i, 4, 0.002, everywhere=True), "ry: q01 0.0020, q99 0.0020"),
    "at most 5% of a task's actions are clipped": (with_narrow_statistics, r"task 0 dx: \d\d\.\d%"),
    "no no-op steps": (with_noops, "object/00/000: 3 of 30 steps"),
    "no blank or dark images": (lambda i: with_pixels(i, flat=(5, 6)), "agentview: 2 frames, first at step 5"),
    "no frozen images": (with_moving_repeat, "agentview: 1 frame, first at step 10"),
    "one image size": (lambda i: with_pixels(i, size=(64, 64)), "64 x 64"),
    "one environment": (
        lambda i: replace(i, fingerprints=({"look": "light"}, {"look": "official"})),
        r"look: light \| official",
    ),
    "lengths like the task's median": (lambda i: with_length(i, 3), "object/00/000: 4.5 s where the median is 1.5 s"),
    "no longer than an evaluation": (lambda i: with_length(i, 10), "object/00/000: 300 steps"),
    "every demonstration succeeds": (lambda i: change_demo(i, success=False), "object/00/000"),
    "no copies": (
        lambda i: change_demo(i, actions=i.tasks[0].demos[1].actions),
        r"object/00/000 \(\w+\), object/00/001 \(\w+\)",
    ),
    "the split fits": (
        lambda i: with_split(i, [str(d.id) for d in i.demos], ["object/00/003", "object/07/000"]),
        "in train and in test: object/00/003.*in the split and not in the files: object/07/000",
    ),
    "instructions are the evaluation's": (
        lambda i: with_task(i, instruction="pick the soup"),
        "'pick the soup'; evaluation says 'pick up the alphabet soup and place it in the basket'",
    ),
    "every task has its own instruction": (
        lambda i: with_task(i, instruction=i.tasks[1].instruction),
        "cream cheese.*: tasks 0, 1",
    ),
    "starts are not the evaluation's": (lambda i: change_demo(i, start_distance_m=0.0002), "object/00/000: 0.20 mm"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_with_its_value(inspection, name):
    plant, says = FAULTS[name]
    found = findings(plant(inspection))
    assert name in found
    (finding,) = found[name]
    assert re.search(says, "; ".join(finding.where))
    assert finding.remedy


def test_there_is_a_fault_for_every_check(inspection):
    assert {check.name for check in run_checks(inspection)} == set(FAULTS)


def test_copies_across_the_split_are_shown(inspection):
    task = inspection.tasks[0]
    copies = tuple(replace(demo, actions=task.demos[0].actions) for demo in task.demos)
    (finding,) = findings(with_task(inspection, demos=copies))["no copies"]
    (where,) = finding.where
    assert "(train)" in where
    assert "(test)" in where
    assert where.endswith(", 2 more")


def test_dark_images_and_standing_still(inspection):
    assert (
        "mean brightness 3.0"
        in findings(with_pixels(inspection, brightness=3.0))["no blank or dark images"][0].where[0]
    )
    still = change_demo(with_pixels(inspection, repeated=(10,)), position=np.zeros((30, 3), np.float32))
    assert "no frozen images" not in findings(still), "a hand that stands still repeats frames rightly"


def test_what_cannot_be_checked_is_said(inspection):
    bare = replace(inspection, known=Known("a folder"), fingerprints=())
    lacking = {check.name for check in run_checks(change_demo(bare, start_distance_m=None)) if check.lacks}
    assert {"one environment", "the split fits", "at most 5% of a task's actions are clipped"} <= lacking


# ------------------------------------------------------------------ page and sheet


def page_of(inspection):
    return render_page(inspection, run_checks(inspection))


def test_the_page_needs_nothing_beside_it(inspection):
    page = page_of(inspection)
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == 2 * 6 * 2
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    for task in inspection.tasks:
        assert f"<h3>{task.task_id} &ensp;{task.instruction}</h3>" in page


def test_equal_data_give_equal_bytes(inspection, tmp_path):
    assert page_of(inspection) == page_of(inspection)
    for name in ("a.png", "b.png"):
        write_sheet(tmp_path / name, inspection)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").width == WIDTH
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_warnings_come_first_and_text_is_escaped(inspection):
    page = page_of(with_task(inspection, instruction="<i>soup</i> & co"))
    assert page.index("warnings</h2>" if "warnings</h2>" in page else "1 warning</h2>") < page.index("In numbers</h2>")
    assert "<i>soup" not in page
    assert "&lt;i&gt;soup&lt;/i&gt; &amp; co" in page
    assert "not solved &lt;b&gt;" in page


def test_a_page_without_statistics_split_and_notes(inspection):
    page = page_of(replace(inspection, known=Known("a folder"), fingerprints=()))
    assert "not checked: the split fits (no split)" in page
    assert "clipped</text>" not in page


def test_ticks_and_runs():
    assert nice_ticks(-12.3, 30.1, 5) == [-10, 0, 10, 20, 30]
    assert nice_ticks(0, 14, 4) == [0, 5, 10]
    assert runs(np.array([False, False, True, False])) == [(False, 0, 2), (True, 2, 3), (False, 3, 4)]
    assert runs(np.array([True])) == [(True, 0, 1)]
