"""A chain of thought, cut up for people: one part per tag, flow codes counted instead of listed."""

from __future__ import annotations

import re

from training.reasoning_text import TAGS

_TAG = re.compile(rf"(?<!\S)({'|'.join((*TAGS, 'FLOW'))}):")
_FLOW_CODES = re.compile(r"(?:<flow_\d+>\s*)+")


def parts(text: str) -> list[tuple[str, str]]:
    """(tag, what follows it), in order. Text before the first tag has the tag ""."""
    pieces = _TAG.split(_FLOW_CODES.sub(_count, text))
    found = [("", pieces[0]), *zip(pieces[1::2], pieces[2::2], strict=True)]
    return [(tag, body.strip()) for tag, body in found if tag or body.strip()]


def _count(codes: re.Match[str]) -> str:
    return f"{codes.group().count('<')} codes "
