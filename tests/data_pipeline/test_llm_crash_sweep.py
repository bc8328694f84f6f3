"""Wherever a rewording dies, a rerun repeats at most the calls in flight, loses no paid reply and gives the same files.

A forked child dies just before or just after its n-th change of the file system, for every n, against a real server.
"""

import shutil
from dataclasses import replace

import pytest

from configs.choices import Subset
from configs.slices import RewordSlice
from data_pipeline.contract import StageContext
from data_pipeline.llm_annotator import ANNOTATIONS, LEDGER, QUALITY, run_reword
from data_pipeline.llm_money import Ledger
from tests.helpers import llm_server as say
from tests.helpers.crash_points import CRASH_EXIT, in_child
from tests.helpers.reasoned import write_reasoned

DEMOS, AT_ONCE, CALL_USD = 4, 2, 150e-6
CONFIG = RewordSlice(Subset.OBJECT, "m", "", "schema", 0, 1, 1.0, 1.0, 20.0, AT_ONCE)


class Run:
    """The stage in a folder of its own."""

    def __init__(self, root, server):
        self.root, self.work = root, root / "work"
        self.config = replace(CONFIG, base_url=server.url, folder=str(root / "cache"))
        self.work.mkdir(parents=True)
        write_reasoned(root / ANNOTATIONS, DEMOS)

    def __call__(self):
        run_reword(self.config, StageContext(self.work, {"annotate": self.root}))

    def results(self):
        return [(self.work / name).read_text().replace(self.config.base_url, "") for name in (ANNOTATIONS, QUALITY)]

    def kept(self):
        return len(list((self.root / "cache").glob("??/*.json")))

    def spent(self):
        return Ledger(self.root / "cache" / LEDGER).spent()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")  # the server's threads wait meanwhile
def test_every_crash_point(tmp_path):
    with say.serving() as server:
        reference = Run(tmp_path / "reference", server)
        code, points = in_child(reference, 0)
        assert (code, len(server.seen)) == (0, DEMOS)
        assert points > 15 * DEMOS
        for crash_at in range(1, points + 1):
            server.seen.clear()
            run = Run(tmp_path / "crash", server)
            code, _ = in_child(run, crash_at)
            assert code == CRASH_EXIT, f"point {crash_at}: exit {code}"
            paid = len(server.seen)
            assert paid - run.kept() <= AT_ONCE, f"point {crash_at}: only what was in flight is lost"
            assert run.spent() >= paid * CALL_USD - 1e-9, f"point {crash_at}: nothing paid is forgotten"
            run()
            assert len(server.seen) <= DEMOS + AT_ONCE, f"point {crash_at}: a reply was paid for again"
            assert run.results() == reference.results(), f"point {crash_at}"
            shutil.rmtree(run.root)
