"""Values (YAML) and what they may be (schema.py)."""
