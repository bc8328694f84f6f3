"""`nora-ecot make_base`: the tiny base that comes with the project, made again.

Demonstrations of all tasks of the tiny preset by the scripted expert, most of them pushed off their way in transit;
then the stage `base` on them, on one core; then the folder that the project ships, with a manifest. What it is made of
is compared with what the shipped one was made of.
"""

from __future__ import annotations

import hashlib
import shutil
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from configs.choices import STUDY
from configs.schema import ExperimentConfig
from data_pipeline.contract import AGENTVIEW
from data_pipeline.whole_files import file_sha256, write_json
from experiment.data_stages import expert_views
from experiment.datasets import data_for
from experiment.settings import choice_of
from experiment.stages import StageNode
from experiment.store import Manifest, Store
from experiment.study import Study, run_study
from training.base_folder import SCRATCH
from training.shipped_base import BASE_FOLDER, MANIFEST, SHIPPED, ShippedBase, base_settings

RECIPE = (
    "preset=tiny",
    f"model.base={SCRATCH}",
    "data.source=expert",
    "env.assets=builtin",
    "data.demos_per_task=50",
    "data.transit_noise=0.4",
    "data.seed=1000",
    "base.steps=40000",
    "base.batch_size=16",
    "base.warmup_steps=100",
    "base.language_every=4",
    "trainer.checkpoint_every=500",
)
"""What differs from the preset; the command's own overrides come after it."""


def make_base(values: Namespace) -> int:
    """Run what is missing, then write `--target`."""
    values.overrides = [*RECIPE, *values.overrides]
    data, prepared = data_for(values, *STUDY)
    node = data.base()
    study = Study(data.places, (node,), tuple(expert_views(data)), title="the tiny base", decisions=prepared.said)
    done = run_study(study, choice_of(values, data.config))
    if done.code or values.dry_run:
        return done.code
    target = Path(values.target).absolute()
    known = next((folder for folder in (target, SHIPPED) if (folder / MANIFEST).is_file()), None)
    before = ShippedBase.read(known).data if known else {}
    export(Store(data.places.store), node, done.manifests[node.key], data.config, target)
    print(f"tiny base: {target}")
    print(compared(before, ShippedBase.read(target).data))
    return 0


def export(store: Store, node: StageNode, made: Manifest, config: ExperimentConfig, target: Path) -> None:
    """Copy a finished base stage to `target` and say there what it is. made: what the store says of it."""
    entry = store.entry(node.stage, node.key) / BASE_FOLDER
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    names = sorted(path.name for path in entry.iterdir())
    for name in names:
        shutil.copyfile(entry / name, target / name)
    manifest = {
        "command": "nora-ecot make_base",
        "recipe": list(RECIPE),
        "commit": made.provenance.get("commit", ""),
        "seed": config.base.seed,
        "steps": config.base.steps,
        "batch_size": config.base.batch_size,
        "minutes": round(made.seconds / 60, 1),
        "data": data_digests(store, node),
        "settings": base_settings(config),
        "files": {name: file_sha256(target / name) for name in names},
    }
    write_json(target / MANIFEST, manifest)


def data_digests(store: Store, node: StageNode) -> dict[str, str]:
    """Of what the base stage learned from: actions and frames of every demonstration, and every chain of thought."""
    from data_pipeline.raw_loader import Hdf5Source

    seen, words = hashlib.sha256(), hashlib.sha256()
    for subset in STUDY:
        demos, annotated = (node.inputs[f"{stage}/{subset.value}"] for stage in ("regenerate", "annotate"))
        source = Hdf5Source(store.entry(demos.stage, demos.key), subset)
        for episode in map(source.open, source.list()):
            seen.update(f"{episode.id} {episode.instruction}\n".encode())
            seen.update(episode.actions.astype(np.float32).tobytes())
            for frame in episode.frames(AGENTVIEW):
                seen.update(frame.tobytes())
        source.close()
        words.update((store.entry(annotated.stage, annotated.key) / "annotations.json").read_bytes())
    return {"demonstrations": seen.hexdigest(), "annotations": words.hexdigest()}


def compared(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """One line per kind of data: its digest, and whether the base that was there had learned from the same."""
    told = [
        f"{name} {digest[:16]}: {'the same as before' if before[name] == digest else f'before {before[name][:16]}'}"
        for name, digest in now.items()
        if name in before
    ]
    return "\n".join(told) or "there was no base to compare the data with"
