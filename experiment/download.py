"""`nora-ecot download`: where LIBERO's official files come from and where they belong; `--use-hub` fetches them.

The addresses are those of hf-libero 0.1.4, `libero/libero/utils/download_utils.py`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from configs.checks import check
from configs.choices import STUDY, Subset
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.libero_utils import NUM_TASKS, SUITE_OF, demo_file, parse_subset
from data_pipeline.sim.assets import ASSETS_VARIABLE, DOWNLOAD_FOLDER, HUB_REPOSITORY, find_official
from experiment.flags import Parser

DATA_REPOSITORY = "yifengzhu-hf/LIBERO-datasets"
"""The Hugging Face data set that the authors of LIBERO upload to: one folder per suite, one HDF5 file per task."""

ARCHIVES = {
    Subset.SPATIAL: "https://utexas.box.com/shared/static/04k94hyizn4huhbv5sz4ev9p2h1p6s7f.zip",
    Subset.OBJECT: "https://utexas.box.com/shared/static/avkklgeq0e1dgzxz52x488whpu8mgspk.zip",
    Subset.GOAL: "https://utexas.box.com/shared/static/iv5e4dos8yy2b212pkzkpxu9wbdgjfeg.zip",
    Subset.LONG: "https://utexas.box.com/shared/static/cv73j8zschq8auh9npzt876fdc1akvmk.zip",  # libero_90 and libero_10
}
"""The original zip files. LIBERO itself says that these links may expire."""


def main(argv: Sequence[str]) -> int:
    """Print where the files come from and what is here; with `--use-hub`, fetch what is missing."""
    parser = Parser(prog="nora-ecot download", description=__doc__, allow_abbrev=False)
    parser.flag("subset", help="spatial, object, goal, long; default: all four")
    parser.flag("assets", action="store_true", help="the official assets (meshes, textures) instead of demonstrations")
    parser.flag("use-hub", action="store_true", help="fetch from the Hugging Face hub; resumes, skips what is here")
    parser.flag("data_dir", help="demonstrations go to <data_dir>/libero_<suite>/; default: ./data")
    values = parser.parse(argv)
    check(not (values.assets and values.subset), "--assets are the same for every subset: leave --subset out")
    check(
        not (values.assets and values.data_dir),
        f"--assets go to {DOWNLOAD_FOLDER}, not to --data_dir {values.data_dir}; leave it out. "
        f"{ASSETS_VARIABLE} names a set elsewhere",
    )
    data_dir = Path(values.data_dir or "./data")
    if values.assets:
        print(_about_assets())
        if values.use_hub and find_official() is None:
            fetch(HUB_REPOSITORY, None, Path(DOWNLOAD_FOLDER).expanduser())
        print(f"found: {find_official() or 'no complete set on this machine'}")
        return 0
    for subset in [parse_subset(values.subset)] if values.subset else STUDY:
        print(_about_demonstrations(subset, data_dir))
        if values.use_hub:
            fetch(DATA_REPOSITORY, f"{SUITE_OF[subset]}/*.hdf5", data_dir)
        print(f"found: {_inventory(data_dir, subset)}\n")
    if not values.use_hub:
        print("`nora-ecot download --assets` says the same of the official assets.")
    return 0


def _about_demonstrations(subset: Subset, data_dir: Path) -> str:
    suite = SUITE_OF[subset]
    folder = data_dir / suite
    names = "\n".join(f"  {demo_file(folder, subset, task)}" for task in range(NUM_TASKS))
    inside = "; it holds libero_90 too, keep libero_10" if subset is Subset.LONG else ""
    return (
        f"{suite}: {NUM_TASKS} files, one per task, 50 demonstrations each:\n{names}\n"
        f"from the hub:    {_url(DATA_REPOSITORY)}/tree/main/{suite}\n"
        f"                 nora-ecot download --subset {subset.value} --use-hub   (says the size first)\n"
        f"or by hand:      {_by_hand(DATA_REPOSITORY, data_dir, f'{suite}/*')}\n"
        f"or the archive:  {ARCHIVES[subset]} (may have expired), unpacked in {data_dir}{inside}\n"
        f"Other names than these are fine: a file's attributes say which task it is of."
    )


def _about_assets() -> str:
    return (
        f"The official assets (env.assets=official) are a data set of the hub: {_url(HUB_REPOSITORY)}\n"
        f"here:            nora-ecot download --assets --use-hub   (says the size first)\n"
        f"or by hand:      {_by_hand(HUB_REPOSITORY, Path(DOWNLOAD_FOLDER))}\n"
        f"They belong in {DOWNLOAD_FOLDER}, or anywhere that {ASSETS_VARIABLE} names."
    )


def _url(repository: str) -> str:
    return f"{os.environ.get('HF_ENDPOINT', 'https://huggingface.co')}/datasets/{repository}"


def _by_hand(repository: str, target: Path, pattern: str = "") -> str:
    include = f" --include '{pattern}'" if pattern else ""
    return f"hf download {repository} --repo-type dataset{include} --local-dir {target}"


def _inventory(data_dir: Path, subset: Subset) -> str:
    """Tasks and demonstrations that are here. Raises what is wrong with their files."""
    from data_pipeline.hdf5_reading import list_demos, task_files

    names = (SUITE_OF[subset], f"libero_{subset.value}")
    folder = next((data_dir / name for name in names if any((data_dir / name).glob("*.hdf5"))), data_dir / names[0])
    files = task_files(folder, subset)
    demos = sum(len(list_demos(path)) for path in files.values())
    return f"{len(files)} of {NUM_TASKS} tasks, {demos} demonstrations in {folder}"


def fetch(repository: str, pattern: str | None, target: Path) -> None:
    """Bring a data set's files (of a pattern) into a folder; what is there whole is not fetched again.

    Raises EnvironmentProblem where the hub cannot be reached or the disk is too small, with the manual way.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        plan = snapshot_download(
            repository, repo_type="dataset", allow_patterns=pattern, local_dir=target, dry_run=True
        )
        missing = [file for file in plan if file.will_download]
        size = sum(file.file_size or 0 for file in missing)
        print(f"fetching {len(missing)} of {len(plan)} files, {size / 1e9:.2f} GB, into {target}", flush=True)
        _check_space(target, size)
        snapshot_download(repository, repo_type="dataset", allow_patterns=pattern, local_dir=target)
    except (HTTPError, OSError) as error:
        raise EnvironmentProblem(
            f"cannot fetch {_url(repository)}: {error}\nThe same command resumes. By hand, where there is a network: "
            f"{_by_hand(repository, target, pattern or '')}; then copy the folder here"
        ) from error


def _check_space(target: Path, size: int) -> None:
    existing = next(path for path in (target.absolute(), *target.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < size:
        raise EnvironmentProblem(
            f"{target} needs {size / 1e9:.1f} GB and {existing} has {free / 1e9:.1f} GB free; free some, or name "
            "another --data_dir"
        )
