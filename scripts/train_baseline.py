"""Phase A: actions only."""

from experiment.cli import script

if __name__ == "__main__":
    raise SystemExit(script("train", phase="baseline"))
