"""The rewording stage on a small annotation file, against a server of tests/helpers/llm_server.py, with quick waits."""

import asyncio

from configs.choices import Subset
from configs.slices import RewordSlice
from data_pipeline.contract import StageContext
from data_pipeline.llm_annotator import LEDGER, demos_of, reword
from data_pipeline.llm_client import ChatClient
from data_pipeline.llm_money import Ledger
from data_pipeline.llm_pace import Clock
from tests.helpers.reasoned import write_reasoned

KEY = "sk-canary-0123456789"
ASK = {"json_mode": "schema", "thinking_tokens": 0, "prompt_version": 1}


class QuickClock(Clock):
    """Waiting costs nothing and is written down."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    async def sleep(self, seconds):
        self.time += seconds
        await asyncio.sleep(0.0005)


class Study:
    """One annotation file, one configuration, runs of the stage on it."""

    def __init__(self, tmp_path, server, demos=1, **settings):
        self.folder = tmp_path
        self.tree = write_reasoned(tmp_path / "annotations.json", demos)
        self.demos = demos_of(self.tree)
        self.clock = QuickClock()
        self.stop = False
        known = {"usd_per_mtok_in": 1.0, "usd_per_mtok_out": 1.0, "max_usd": 20.0, "concurrency": 4, "timeout_s": 60.0}
        self.config = RewordSlice(
            Subset.OBJECT, "m", server.url, folder=str(tmp_path / "cache"), **{**ASK, **known, **settings}
        )

    @property
    def ledger(self):
        return Ledger(self.folder / "cache" / LEDGER)

    def kept(self):
        return sorted((self.folder / "cache").glob("??/*.json"))

    def run(self, key=KEY):
        context = StageContext(self.folder, {}, stop_requested=lambda: self.stop)

        async def session():
            client = ChatClient(self.config, key)
            try:
                return await reword(self.config, context, self.demos, client, self.clock)
            finally:
                await client.close()

        return asyncio.run(session())


def worded(outcomes):
    return {item: text for outcome in outcomes for item, text in outcome.wordings.items()}


def kinds(outcomes):
    return {problem.kind for outcome in outcomes for problem in outcome.problems.values()}
