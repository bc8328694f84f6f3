"""What a person reads while a stage runs."""

from experiment.progress import Running


def test_the_pace_counts_what_this_run_did():
    running = Running("demos object", started=0.0)
    running.update(10.0, 20, 50, "")
    assert running.text(12.0) == "demos object 20/50 (12 s)"  # resumed: nothing is known yet
    running.update(40.0, 30, 50, "object/00/029")
    assert running.text(40.0) == "demos object 30/50 (40 s, 20.0/min, 1 min 00 s left) object/00/029"
    running.update(100.0, 50, 50, "")
    assert running.text(100.0) == "demos object 50/50 (100 s, 20.0/min)"
