"""Phase C: text, then optical flow, then actions."""

from experiment.cli import script

if __name__ == "__main__":
    raise SystemExit(script("train", phase="text_flow_cot"))
