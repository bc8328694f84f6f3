"""The report: a pure function of files, honest about what is missing, safe against what models write."""

from __future__ import annotations

import csv
import json
import math
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from configs.checks import ConfigError
from configs.choices import Subset
from configs.slices import ReportSlice
from data_pipeline.contract import StageContext
from evaluation.episodes import NOTHING_DONE, EpisodeKey, EpisodeResult, Outcome, Protocol
from evaluation.identity import Identity
from evaluation.ledger import Finished
from evaluation.records import film_name, summarise, write_records
from evaluation.report import read_record, run_report, to_markdown
from evaluation.story import tell
from evaluation.thoughts import parts

PHASES = (("plain", "LoRA_B (Baseline)"), ("words", "LoRA_T (Text CoT)"), ("flow", "LoRA_TF (Text+Flow CoT)"))
SUBSETS = ("spatial", "object", "goal", "long")
NASTY = 'TASK: <script>alert(1)</script> & MOVE: "left" </p><img src=x onerror=alert(1)>'
LIMITS = {"spatial": 220, "object": 280, "goal": 300, "long": 520, "90": 400}


def write_run(
    root: Path,
    phase: str,
    label: str,
    subset: str,
    *,
    think: bool,
    errors: int = 0,
    look: str = "light",
    settle_steps: int = 10,
    base: str = "tiny:abc",
    computed: str = "cpu float32",
    latency_s: float = 0.1,
    control: bool = False,
    execute: int = 4,
) -> None:
    rng = np.random.default_rng([ord(c) for c in phase + subset])
    folder = root / "evaluate" / phase / subset
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    card = (
        {"phase": {"name": phase, "label": label}}
        if control
        else {"base": base, "computed": computed, "phase": {"name": phase, "label": label, "segments": []}}
    )
    protocol = Protocol("standard", settle_steps, LIMITS[subset], execute, True, 4, 280)
    environment, computed = {"look": look, "mujoco": "3.3.2"}, "" if control else computed
    identity = Identity(
        subset, f"{phase}-{subset}-digest", card.get("base", ""), protocol, environment, computed=computed
    )
    keys = [EpisodeKey(task, trial, 0, "no_think") for task in (0, 3) for trial in range(3)]
    keys += [EpisodeKey(task, 0, 0, "think") for task in (0, 3)] if think else []
    results = []
    for number, key in enumerate(keys):
        won = bool(rng.random() < 0.5)
        outcome = Outcome.ERROR if number < errors else Outcome.SUCCESS if won else Outcome.FAILURE
        reason = {Outcome.ERROR: "simulator died", Outcome.FAILURE: "step limit", Outcome.SUCCESS: ""}[outcome]
        text = NASTY if key.mode == "think" else ""
        steps = int(rng.integers(80, LIMITS[subset]))
        results.append(
            EpisodeResult(
                key,
                f"task_{key.task_id}",
                "pick up the soup",
                outcome,
                steps,
                reason,
                40,
                500,
                38,
                text,
                fingerprint=identity.fingerprint,
                timing={"latency_s": [latency_s, latency_s and latency_s + 0.2], "tokens": [12, 13]},
            )
        )
    films = [film_name(EpisodeKey(0, 0, 0, mode)) for mode in (("no_think", "think") if think else ("no_think",))]
    for name in films:
        (folder / "videos" / name).write_bytes(b"film " + name.encode())
    summary = {
        **identity.columns,
        "card": card,
        "fingerprint": identity.environment,
        "protocol": protocol.__dict__,
        "modes": {m: summarise([r for r in results if r.key.mode == m]) for m in sorted({k.mode for k in keys})},
        "videos": films,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    write_records(folder, identity, [Finished(r, NOTHING_DONE) for r in sorted(results, key=lambda r: r.key)])
    train = root / "train" / phase / subset
    train.mkdir(parents=True, exist_ok=True)
    rows = [
        {"step": s, "loss": 2.0, "loss_action": 5 * math.exp(-s / 20) + 0.5, "loss_text": 3.0 / s if think else None}
        for s in range(1, 61)
    ]
    (train / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def context(root: Path, work: Path) -> StageContext:
    work.mkdir()
    inputs = {
        f"{kind}/{p}/{s}": root / kind / p / s for kind in ("evaluate", "train") for p, _ in PHASES for s in SUBSETS
    }
    return StageContext(work, {name: path for name, path in inputs.items() if path.is_dir()})


def runs(root: Path) -> tuple[str, ...]:
    return tuple(f"{p}/{s}" for p, _ in PHASES for s in SUBSETS if (root / "evaluate" / p / s).is_dir())


def report(root: Path, work: Path, title: str = "Tiny preset: a check of the machinery") -> StageContext:
    made = context(root, work)
    outputs = run_report(ReportSlice(runs(root), title, "tiny"), made)
    assert outputs == ["results.md", "results.csv", "results.html", "videos"]
    assert {p.name for p in work.iterdir()} == set(outputs)
    return made


@pytest.fixture
def full(tmp_path: Path) -> Path:
    for phase, label in PHASES:
        for subset in SUBSETS:
            write_run(tmp_path, phase, label, subset, think=phase != "plain")
    return tmp_path


def test_the_same_files_give_the_same_bytes(full: Path) -> None:
    for name in ("a", "b"):
        report(full, full / name)
    for file in ("results.md", "results.csv", "results.html"):
        assert (full / "a" / file).read_bytes() == (full / "b" / file).read_bytes()


def test_the_table_has_a_row_per_phase_and_mode(full: Path) -> None:
    report(full, full / "a")
    lines = [x for x in (full / "a/results.md").read_text().splitlines() if x.startswith("| LoRA_") and "think" in x]
    table = [line for line in lines if "·" in line]
    assert [line.split("|")[1].strip() for line in table] == [
        *(label for _, label in PHASES),
        *(label for _, label in PHASES[1:]),
    ]
    assert "/24 · " in table[0]
    with (full / "a/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5 * 5
    first = rows[0]
    assert (first["phase"], first["mode"], first["subset"], first["trials"]) == ("plain", "no_think", "spatial", "6")
    assert float(first["low95"]) <= float(first["rate"]) <= float(first["high95"])
    assert first["adapter"] == "plain-spatial-digest"


def test_phases_are_compared_in_order_and_controls_are_not(full: Path) -> None:
    inputs = context(full, full / "a").inputs
    records = [read_record(slug, inputs) for slug in runs(full)]
    write_run(full / "b", "blind", "Replay", "goal", think=False, control=True)
    records.append(read_record("blind/goal", {"evaluate/blind/goal": full / "b/evaluate/blind/goal"}))
    found = tell(records, "").comparisons
    names = [(c.first.phase, c.second.phase, c.first.mode) for c in found]
    assert names == [("plain", "words", "no_think"), ("words", "flow", "no_think"), ("words", "flow", "think")]
    assert found[2].adjusted == found[2].p_value, "one comparison in its mode: nothing to correct for"


def test_missing_cells_are_dashes_and_errors_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", "Plain", "object", think=False, errors=1)
    report(tmp_path, tmp_path / "a")
    line = next(x for x in (tmp_path / "a/results.md").read_text().splitlines() if x.startswith("| Plain"))
    spatial, found, goal, long, average = [cell.strip() for cell in line.split("|")[3:8]]
    assert {spatial, goal, long, average} == {"–"}
    assert "n=5/6 (1 error)" in found
    assert "/5 · " in found
    page = (tmp_path / "a/results.html").read_text()
    assert "n=5/6 (1 error)" in page
    assert "simulator died: 1" in page


@pytest.mark.parametrize(
    "changed", [{"look": "official"}, {"settle_steps": 0}, {"base": "other"}, {"computed": "cuda bfloat16"}]
)
def test_different_conditions_never_share_a_table(full: Path, changed: dict[str, object]) -> None:
    write_run(full, "flow", "LoRA_TF (Text+Flow CoT)", "goal", think=True, **changed)
    with pytest.raises(ConfigError, match="plain/spatial and flow/goal cannot share a table"):
        report(full, full / "a")


def _edit_row(folder: Path, **changed: object) -> None:
    first, *rest = (folder / "episodes.jsonl").read_text().splitlines()
    row = json.loads(first) | changed
    (folder / "episodes.jsonl").write_text("\n".join([json.dumps(row), *rest]) + "\n")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"fingerprint": "0123"}, "fingerprint: '0123' and '"),
        ({"protocol": "nora"}, "protocol: 'nora' and 'standard'"),
        ({"base": "another"}, "base: 'another' and 'tiny:abc'"),
        ({"run": "0123"}, "run: '0123' and '"),
        ({"outcome": "success", "reason": ""}, "disagree on successes"),
    ],
)
def test_a_row_that_is_not_of_its_summary_is_refused(tmp_path: Path, changed: dict[str, object], named: str) -> None:
    write_run(tmp_path, "plain", "Plain", "object", think=False, errors=1)
    folder = tmp_path / "evaluate/plain/object"
    _edit_row(folder, **changed)
    with pytest.raises(ConfigError, match=named):
        read_record("plain/object", {"evaluate/plain/object": folder})


def test_rows_of_another_evaluation_are_refused(tmp_path: Path) -> None:
    """Two files put together by hand, and the same file twice."""
    write_run(tmp_path, "plain", "Plain", "object", think=False)
    write_run(tmp_path, "words", "Words", "object", think=False)
    folder, other = (tmp_path / f"evaluate/{phase}/object" for phase in ("plain", "words"))
    mine = (folder / "episodes.jsonl").read_text()
    for added, named in (
        ((other / "episodes.jsonl").read_text(), "adapter: 'words-object-digest' and 'plain"),
        (mine, "6 episodes stand there twice"),
    ):
        (folder / "episodes.jsonl").write_text(mine + added)
        with pytest.raises(ConfigError, match=named):
            read_record("plain/object", {"evaluate/plain/object": folder})


def test_a_changed_summary_does_not_make_rows_another_environments(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", "Plain", "object", think=False)
    folder = tmp_path / "evaluate/plain/object"
    summary = json.loads((folder / "summary.json").read_text())
    summary["fingerprint"]["look"] = "official"
    (folder / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ConfigError, match="fingerprint: '"):
        read_record("plain/object", {"evaluate/plain/object": folder})


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_success_stands_beside_latency(full: Path) -> None:
    write_run(full, "plain", "LoRA_B (Baseline)", "goal", think=False, latency_s=0.7)
    write_run(full, "blind", "Replay", "goal", think=False, control=True, latency_s=0.0)
    inputs = {f"evaluate/{p}/goal": full / f"evaluate/{p}/goal" for p in ("plain", "words", "blind")}
    found = tell([read_record(f"{p}/goal", inputs) for p in ("plain", "words", "blind")], "").speeds
    assert [(s.label, s.mode, s.latency_s["p50"], s.trials) for s in found] == [
        ("LoRA_B (Baseline)", "no_think", 0.8, 6),
        ("LoRA_T (Text CoT)", "no_think", 0.2, 6),
        ("LoRA_T (Text CoT)", "think", 0.2, 2),
    ], "a control computes nothing"
    report(full, full / "a")
    page = (full / "a/results.html").read_text()
    assert "Success against latency" in page
    assert '<td class="nowrap">200 ms</td>' in page


def test_what_a_model_writes_stays_text_and_every_link_is_a_copied_video(full: Path) -> None:
    report(full, full / "a", title="A <b>title</b>")
    tags = Tags()
    page = (full / "a/results.html").read_text()
    tags.feed(page)
    assert not tags.seen & {"script", "img", "iframe"}
    assert "&lt;script&gt;alert(1)" in page
    assert "<h1>A &lt;b&gt;title&lt;/b&gt;</h1>" in page
    assert tags.links
    for link in tags.links:
        assert (full / "a" / link).is_file()
    assert "http" not in "".join(tags.links)


def test_published_numbers_are_labelled(full: Path) -> None:
    report(full, full / "a")
    for file in ("results.md", "results.html"):
        text = (full / "a" / file).read_text()
        assert text.index("not measured here") < text.index("OpenVLA-OFT")


def test_a_variant_and_a_missing_training_do_not_stop_the_report(tmp_path: Path) -> None:
    write_run(tmp_path, "words@prob0.3", "Words", "object", think=True)
    made = StageContext(tmp_path / "w", {"evaluate/words@prob0.3/object": tmp_path / "evaluate/words@prob0.3/object"})
    made.work.mkdir()
    run_report(ReportSlice(("words@prob0.3/object",), "t", "tiny"), made)
    assert "Words @prob0.3" in (made.work / "results.md").read_text()
    assert Subset.OBJECT.value in (made.work / "results.csv").read_text()


def test_a_thought_is_cut_at_its_tags_and_flow_codes_are_counted() -> None:
    text = "TASK: put it in SUBTASK REASONING: far away SUBTASK: reach FLOW: <flow_1><flow_22><flow_3>"
    assert parts(text) == [
        ("TASK", "put it in"),
        ("SUBTASK REASONING", "far away"),
        ("SUBTASK", "reach"),
        ("FLOW", "3 codes"),
    ]
    assert parts("MASK: no tag") == [("", "MASK: no tag")]
    assert parts("") == []


def test_a_control_may_have_its_own_steps_per_query_which_is_printed_and_a_phase_may_not(tmp_path: Path) -> None:
    write_run(tmp_path, "plain", "Plain", "object", think=False)
    slugs = ("other/object", "plain/object")
    made = StageContext(tmp_path / "w", {f"evaluate/{slug}": tmp_path / "evaluate" / slug for slug in slugs})
    made.work.mkdir()
    write_run(tmp_path, "other", "Expert", "object", think=False, control=True, execute=1)
    run_report(ReportSlice(slugs, "t", "tiny"), made)
    text = (made.work / "results.md").read_text()
    assert "4 executed per query, success" in text
    assert "Expert: 1 executed per query." in text
    shutil.rmtree(tmp_path / "evaluate/other")
    shutil.rmtree(tmp_path / "train/other")
    write_run(tmp_path, "other", "Other", "object", think=False, execute=1)
    with pytest.raises(ConfigError, match=r"steps per query differs \(1 and 4\)"):
        run_report(ReportSlice(slugs, "t", "tiny"), made)


def test_libero_90_is_a_column_where_it_was_run_and_no_part_of_the_average(full: Path) -> None:
    inputs = context(full, full / "a").inputs
    records = [read_record(slug, inputs) for slug in runs(full)]
    assert "LIBERO-90" not in to_markdown(tell(records, ""))
    write_run(full / "b", "plain", "Plain", "90", think=False)
    with_90 = [*records, read_record("plain/90", {"evaluate/plain/90": full / "b/evaluate/plain/90"})]
    before, after = (tell(found, "").rows[0] for found in (records, with_90))
    assert before.cells["average"] == after.cells["average"]
    assert after.cells["90"].trials == 6
    head = next(line for line in to_markdown(tell(with_90, "")).splitlines() if line.startswith("|  | mode"))
    assert head.split(" | ")[2:] == ["Spatial", "Object", "Goal", "Long", "LIBERO-90", "Average |"]
