"""Optical flow of one subset, as discrete tokens."""

from experiment.cli import script

if __name__ == "__main__":
    raise SystemExit(script("preprocess_flow"))
