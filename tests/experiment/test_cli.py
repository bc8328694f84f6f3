"""The command line itself."""

import sys

from experiment.cli import typed_command


def test_the_command_to_resume_is_the_one_typed_without_secrets(monkeypatch):
    """`nora-ecot inspect` is one word more than a script, and the program takes that word off sys.argv."""
    typed = ["/bin/python", "/bin/nora-ecot", "inspect", "--subset", "my set", "--llm-api-key", "canary"]
    monkeypatch.setattr(sys, "orig_argv", typed)
    monkeypatch.setattr(sys, "argv", [typed[1], *typed[3:]])
    assert typed_command() == "python /bin/nora-ecot inspect --subset 'my set'"
