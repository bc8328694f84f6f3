"""Rollouts of a trained adapter, or of a control."""

from experiment.cli import script

if __name__ == "__main__":
    raise SystemExit(script("evaluate"))
