"""When a language model's answer is taken: read under a schema, then judged item by item. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

from pydantic import BaseModel, ConfigDict, ValidationError

from data_pipeline.llm_prompts import PLACEHOLDER, Demo, Item, Problem, max_chars
from data_pipeline.templates import label

MAX_REPLY_CHARS = 50_000
MAX_QUOTE_CHARS = 80  # of a refused text that is told back
MAX_TOKENS = 10**9  # a server that counts more in one reply does not count

_ALLOWED = re.compile(r"[A-Za-z0-9 ,.;'()-]+")  # so no tags, tokens, markup or control characters
_WORD = re.compile(r"[a-z']+")
_NOUN_PHRASE = re.compile(r"\b(?:the|a|an) (?=((?:[a-z'-]+ ?){1,3}))")
_DIRECTION_OF = {
    word: name
    for name, words in {
        "forward": "forward forwards ahead",
        "backward": "backward backwards back behind",
        "left": "left leftward leftwards",
        "right": "right rightward rightwards",
        "up": "up upward upwards above raise raised rise risen lift lifted higher",
        "down": "down downward downwards below lower lowered descend descends beneath under",
        "clockwise": "clockwise",
        "counterclockwise": "counterclockwise anticlockwise",
    }.items()
    for word in words.split()
}
_FINGERS = re.compile(
    r"\b(open|clos)[a-z]*(?: of| up)?(?: the| its)? (?:gripper|fingers|hand|jaws)\b"
    r"|\b(?:gripper|fingers|hand|jaws) (?:is |are )?(open|clos)(?:s|es|e|ed|ing)?\b"
)
_SMALL_WORDS = "the a an this that its it is are be and or of to in on at by for with from so as not yet now"
_SCENE_WORDS = """gripper hand fingers finger arm robot jaws grip grasp hold object item thing goal target place spot
position location table surface workspace scene side edge rim top bottom handle opening path way route move movement
motion step stage part phase task job work subtask action next first last final rest gap distance height air reach
contact release turn twist knob door drawer compartment middle center bit little few front"""
_THINGS = """akita_black_bowl
alphabet_soup basket bbq_sauce black_book butter chefmate_8_frypan chocolate_pudding cookies
cream_cheese desk_caddy flat_stove glazed_rim_porcelain_ramekin ketchup microwave milk moka_pot orange_juice plate
porcelain_mug red_coffee_mug salad_dressing tomato_sauce white_cabinet white_yellow_mug wine_bottle wine_rack
wooden_cabinet"""  # of the four suites
_ALWAYS_KNOWN = {*_SCENE_WORDS.split(), *_DIRECTION_OF}


class Wording(BaseModel):
    """One reworded text."""

    model_config = ConfigDict(extra="forbid", strict=True)
    id: str
    text: str


class Reply(BaseModel):
    """What the model answers with: one wording per id asked for."""

    model_config = ConfigDict(extra="forbid", strict=True)
    items: list[Wording]


class BadContent(Exception):
    """A reply of which nothing can be used."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(kind, text)


@dataclass(frozen=True)
class Completion:
    """The parts of a chat completion that matter here. Tokens are -1 where the server does not say."""

    content: str | None
    refusal: str | None
    finish_reason: str | None
    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def of(cls, body: str) -> Completion:
        """From the body of a response. Raises ValueError where it is none: HTML, cut off, an error with status 200."""
        try:
            tree = json.loads(body)
        except RecursionError:
            raise ValueError(f"no chat completion: {_quote(body)}") from None
        if not isinstance(tree, dict) or not isinstance(tree.get("choices"), list) or not tree["choices"]:
            raise ValueError(f"no chat completion: {_quote(body)}")
        choice, usage = tree["choices"][0], tree.get("usage")
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            raise ValueError(f"a chat completion without a message: {_quote(body)}")
        counts = usage if isinstance(usage, dict) else {}
        prompt_tokens, completion_tokens = (
            count if isinstance(count, int) and 0 <= count <= MAX_TOKENS else -1
            for count in (counts.get("prompt_tokens"), counts.get("completion_tokens"))
        )
        return cls(
            content=message["content"] if isinstance(message.get("content"), str) else None,
            refusal=message["refusal"] if isinstance(message.get("refusal"), str) else None,
            finish_reason=choice.get("finish_reason"),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )

    def answer(self) -> str:
        """The model's text. Raises BadContent where it refused, was cut or filtered, or said nothing."""
        if self.refusal:
            raise BadContent("refused", "the request was refused; it is harmless rewording of robot data")
        if self.finish_reason == "length":
            raise BadContent("cut short", "the answer was cut off; answer shorter")
        if self.finish_reason == "content_filter":
            raise BadContent("content filter", "the answer was held back by a filter; use plain words")
        if not self.content:
            raise BadContent("unreadable", "the answer was empty; answer with the JSON")
        return self.content


def read_reply(content: str) -> Reply:
    """A model's answer as a Reply; prose or a code fence around the JSON is left out. Raises BadContent."""
    if len(content) > MAX_REPLY_CHARS:
        raise BadContent("unreadable", f"the answer had {len(content)} characters; answer with the JSON alone")
    start, stop = content.find("{"), content.rfind("}")
    try:
        return Reply.model_validate_json(content[start : stop + 1] if 0 <= start < stop else content)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"][:3]) or "the answer"
        raise BadContent("unreadable", f"{_quote(where)}: {_quote(first['msg'])}; follow the JSON layout") from error


def judge(demo: Demo, items: Iterable[Item], reply: Reply) -> tuple[dict[str, str], dict[str, Problem]]:
    """(wordings taken, problems of the others), by item id: every item is in exactly one of them."""
    answers = {wording.id: wording.text for wording in reply.items}
    times = Counter(wording.id for wording in reply.items)
    taken: dict[str, str] = {}
    problems: dict[str, Problem] = {}
    for item in items:
        if times[item.id] != 1:
            problems[item.id] = Problem("missing", f"the id stood {times[item.id]} times in the answer; once is right")
        elif (problem := find_problem(demo, item, answers[item.id])) is not None:
            problems[item.id] = problem
        else:
            taken[item.id] = answers[item.id]
    return taken, problems


def find_problem(demo: Demo, item: Item, text: str) -> Problem | None:
    """Why a wording is not taken, None where it is."""
    bare = PLACEHOLDER.sub("", text)
    if not bare.strip() or len(text) > max_chars(item):
        return Problem("length", f"{len(text)} characters; allowed: 1 to {max_chars(item)}")
    if not _ALLOWED.fullmatch(bare) or text != text.strip() or "  " in text:
        return Problem("characters", f"{_quote(text)}: plain words on one line only")
    if Counter(PLACEHOLDER.findall(text)) != Counter(PLACEHOLDER.findall(item.rules)) or re.search(r"\d", bare):
        wanted = " ".join(PLACEHOLDER.findall(item.rules)) or "none"
        return Problem("numbers", f"{_quote(text)}: placeholders must be {wanted}, each once, and no digits")
    if stranger := _stranger(demo, bare.lower()):
        return Problem("objects", f"{_quote(stranger)} is not in this demonstration")
    if wrong := directions(bare) - allowed_directions(demo, item):
        return Problem("movements", f"{', '.join(sorted(wrong))}: not a movement of this segment")
    return None


def directions(text: str) -> frozenset[str]:
    """Directions and gripper movements that a text names, in one spelling each."""
    lower = text.lower()
    gripper = {"open gripper" if "open" in verbs else "close gripper" for verbs in _FINGERS.findall(lower)}
    return frozenset(_DIRECTION_OF[word] for word in _WORD.findall(lower) if word in _DIRECTION_OF) | gripper


def allowed_directions(demo: Demo, item: Item) -> frozenset[str]:
    """What a wording of the item may name: the moves of its segment and what the rules say there."""
    own = next((segment for segment in demo.segments if item in segment.items), None)
    said = [item.rules, demo.task, demo.plan]
    said += [own.subtask, *own.moves] if own else [move for segment in demo.segments for move in segment.moves]
    return directions(" ; ".join(said))


def _stranger(demo: Demo, text: str) -> str:
    """Something that a text speaks of and that its demonstration does not have; "" where there is nothing.

    Known is what the rules name: of the suites' other things none, and after an article only what is known.
    """
    own = [demo.task, demo.plan, *demo.objects, *(segment.subtask for segment in demo.segments)]
    things = (label(name) for name in _THINGS.split())
    foreign = [thing for thing in things if thing not in " ; ".join(own)]
    if found := next((thing for thing in foreign if re.search(rf"\b{re.escape(thing)}s?\b", text)), ""):
        return found
    said = own + [item.rules for item in demo.items]
    small = set(_SMALL_WORDS.split())
    known = {word for line in said for word in _WORD.findall(line.lower())} - small | _ALWAYS_KNOWN
    for phrase in _NOUN_PHRASE.findall(text):
        noun = list(takewhile(lambda word: word not in small, phrase.split()))
        if noun and not known & {*noun, *(word.rstrip("s") for word in noun)}:
            return " ".join(noun)
    return ""


def _quote(text: str) -> str:
    """A refused text, safe to tell back."""
    short = text if len(text) <= MAX_QUOTE_CHARS else text[:MAX_QUOTE_CHARS] + "..."
    return ascii(short)
