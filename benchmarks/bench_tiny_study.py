"""Does the tiny study learn? Success per task, training seed and phase, beside the replay baseline.

usage: python benchmarks/bench_tiny_study.py [--phases baseline] [--seeds 0,1,2] [--trials 10] [--perturb layout:2]
                                             [--output_dir DIR] [--out FILE]

Runs the study's own commands (what is stored already is not run again) from official initial states, which no
demonstration starts from, plain and perturbed. Prints one JSON line per adapter, task and mode, then a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import keep
from configs.choices import STUDY

ROOT = Path(__file__).resolve().parents[1]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", default="baseline", help="several with commas")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--trials", type=int, default=10, help="official initial states per task")
    parser.add_argument("--perturb", default="", help="a second evaluation of the same adapters, e.g. layout:2")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/tiny_study"))
    parser.add_argument("--out", type=Path, help="also append the lines to this file")
    arguments = parser.parse_args(argv)
    for perturb in filter(None, ("none", arguments.perturb)):
        for phase in arguments.phases.split(","):
            run(arguments, phase, "" if perturb == "none" else perturb)
    lines = [line for line in counted(arguments.output_dir / "eval_results") if line["episodes"] == arguments.trials]
    for line in lines:
        keep(line, arguments.out)
    print("\n" + table(lines))
    return 0


def run(arguments: argparse.Namespace, phase: str, perturb: str) -> None:
    """One phase on every subset with every seed."""
    flags = ["--phase", phase, "--all-subsets", "--seeds", arguments.seeds, "--mode", "no_think"]
    flags += ["--num_trials", str(arguments.trials), "--output_dir", str(arguments.output_dir)]
    flags += ["--perturb", perturb] if perturb else []
    words = ["preset=tiny", "eval.videos=0", "env.assets=builtin", "data.source=expert"]
    subprocess.run([sys.executable, str(ROOT / "scripts" / "run_experiment.py"), *flags, *words], check=True, cwd=ROOT)


def counted(results: Path) -> Iterator[dict[str, Any]]:
    """A line per published row, task and mode."""
    for path in sorted(results.glob("*/*/episodes.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        seen = Counter((row["task_id"], row["mode"]) for row in rows)
        solved = Counter((row["task_id"], row["mode"]) for row in rows if row["outcome"] == "success")
        subset, _, perturb = path.parent.name.partition("@")
        names = {row["task_id"]: row["task_name"] for row in rows}
        for (task, mode), episodes in sorted(seen.items()):
            yield {
                "row": path.parent.parent.name,
                "subset": subset,
                "perturb": perturb,
                "task": task,
                "name": names[task],
                "mode": mode,
                "successes": solved[task, mode],
                "episodes": episodes,
            }


def table(lines: list[dict[str, Any]]) -> str:
    """A row per task, a column per adapter, the replay baseline last."""
    columns = sorted(dict.fromkeys(line["row"] for line in lines), key=lambda row: (row.startswith("replay"), row))
    out = ["| task | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    cells = {(line["subset"], line["perturb"], line["task"], line["row"]): line for line in lines}
    order = [subset.value for subset in STUDY]
    for perturb, subset, task in sorted(
        {(p, s, t) for s, p, t, _ in cells}, key=lambda key: (key[0], order.index(key[1]), key[2])
    ):
        own = [cells.get((subset, perturb, task, row)) for row in columns]
        shown = [f"{line['successes']}/{line['episodes']}" if line else "-" for line in own]
        out.append(f"| {subset}/{task}{f' {perturb}' if perturb else ''} | " + " | ".join(shown) + " |")
    return "\n".join(out)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
