"""scripts/generate_ecot.py as a process of its own: every stage a toy, except the rewording."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiment.cli import script
from experiment.stages import STAGES
from tests.helpers import toy_study
from tests.helpers.reasoned import write_reasoned

DEMOS = 4


def annotate(config, context):
    write_reasoned(context.work / "annotations.json", DEMOS)
    return ["annotations.json"]


if __name__ == "__main__":
    reword = STAGES["reword"]
    with pytest.MonkeyPatch.context() as patch:
        toy_study.install(patch)
        STAGES["reword"] = reword
        STAGES["annotate"] = replace(STAGES["annotate"], function=f"tests.helpers.{Path(__file__).stem}:annotate")
        raise SystemExit(script("generate_ecot"))
    sys.exit(1)
