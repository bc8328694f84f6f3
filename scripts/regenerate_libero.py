"""Replay demonstrations in the simulator: sharper images, no no-ops, no failures."""

from experiment.cli import script

if __name__ == "__main__":
    raise SystemExit(script("regenerate_libero"))
