"""Rollouts of a trained adapter."""

from experiment.cli import script

if __name__ == "__main__":
    raise SystemExit(script("evaluate"))
