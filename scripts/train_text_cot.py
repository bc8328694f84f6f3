"""Phase B: a textual chain of thought, then actions."""

from experiment.cli import script

if __name__ == "__main__":
    raise SystemExit(script("train", phase="text_cot"))
