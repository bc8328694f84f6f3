"""Files outside the store that stages read: found, and known by their content wherever they lie."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from configs.choices import Subset
from configs.data import FlowConfig
from configs.slices import RaftSlice
from data_pipeline.contract import EnvironmentProblem
from data_pipeline.libero_utils import demo_file
from data_pipeline.whole_files import file_sha256, write_synced
from experiment.devices import cuda_devices
from experiment.resolve import DataSource
from experiment.stages import canonical_json


def official_files(
    source: DataSource, subset: Subset, tasks: Iterable[int], store: Path
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Of the chosen tasks: (official name, sha256) of each file, and where it lies.

    Raises EnvironmentProblem that names the missing ones.
    """
    from data_pipeline.hdf5_reading import task_files  # h5py and scipy: only where files are read

    assert source.folder is not None
    found, chosen = task_files(source.folder, subset), tuple(tasks)
    missing = [demo_file(source.folder, subset, task) for task in chosen if task not in found]
    if missing:
        raise EnvironmentProblem(
            f"{missing[0]} is missing ({len(missing)} of {len(chosen)} files of the chosen tasks); complete the "
            f"download, choose tasks with data.tasks.{subset.value}=[...], or use data.source=expert"
        )
    digests = _DigestCache(store)
    files = tuple((demo_file(source.folder, subset, task).name, digests.of(found[task])) for task in chosen)
    digests.save()
    return files, tuple(str(found[task]) for task in chosen)


def raft_choice(flow: FlowConfig, store: Path) -> RaftSlice:
    """Which RAFT: weights from a path are known by their content, bf16 is for a CUDA device alone.

    Raises EnvironmentProblem where there is no file.
    """
    bf16 = flow.raft_bf16 and cuda_devices() > 0
    if not flow.raft_weights:
        return RaftSlice(flow.raft_model, bf16, "")
    path = Path(flow.raft_weights).absolute()
    if not path.is_file():
        raise EnvironmentProblem(
            f"flow.raft_weights={flow.raft_weights} is no file; name {flow.raft_model.value}'s state dict, leave it "
            "out for torchvision's own download, or use flow.backend=sim or flow.backend=dis_chain"
        )
    digests = _DigestCache(store)
    choice = RaftSlice(flow.raft_model, bf16, digests.of(path), str(path))
    digests.save()
    return choice


class _DigestCache:
    """sha256 of large files, remembered in the store by path, size and modification time."""

    def __init__(self, store: Path) -> None:
        self.path = store / "file_digests.json"
        self.known: dict[str, str] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else {}
        self.changed = False

    def of(self, path: Path) -> str:
        """Digest of a file's bytes."""
        status = path.stat()
        identity = f"{path.resolve()}:{status.st_size}:{status.st_mtime_ns}"
        if identity not in self.known:
            self.known[identity] = file_sha256(path)
            self.changed = True
        return self.known[identity]

    def save(self) -> None:
        """Keep what was computed."""
        if self.changed:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_synced(self.path, canonical_json(self.known) + "\n")
