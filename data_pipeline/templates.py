"""Words of the rules annotator: names of things, and a few sentences per slot, chosen by a hash of the episode. Pure.

Sentences are short on purpose: each token is decoded before the robot may move.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

_LABELS = {
    "akita_black_bowl": "black bowl",
    "glazed_rim_porcelain_ramekin": "ramekin",
    "cookies": "cookie box",
    "chefmate_8_frypan": "frying pan",
    "porcelain_mug": "white mug",
    "white_yellow_mug": "yellow and white mug",
    "red_coffee_mug": "red mug",
    "black_book": "book",
    "desk_caddy": "caddy",
    "flat_stove": "stove",
    "wooden_cabinet": "cabinet",
    "white_cabinet": "cabinet",
    "wine_rack": "rack",
}
# Regions of fixtures and tables, as BDDL names end: how to say (in or on) them. {owner} is the fixture or landmark.
_REGIONS = {
    "top_side": "on top of the {owner}",
    "top_region": "in the top drawer of the {owner}",
    "middle_region": "in the middle drawer of the {owner}",
    "bottom_region": "in the bottom drawer of the {owner}",
    "cook_region": "on the {owner}",
    "contain_region": "in the {owner}",
    "heating_region": "in the {owner}",
    "back_contain_region": "in the back compartment of the {owner}",
    "front_contain_region": "in the front compartment of the {owner}",
    "left_contain_region": "in the left compartment of the {owner}",
    "right_contain_region": "in the right compartment of the {owner}",
    "front_region": "in front of the {owner}",
    "right_region": "to the right of the {owner}",
    "left_region": "to the left of the {owner}",
}
_DRAWERS = {"top_region": "top drawer", "middle_region": "middle drawer", "bottom_region": "bottom drawer"}

_HOLLOW = ("bowl",)  # what BDDL puts "on" it lies in it
_HANDLES = {"stove": "knob of the stove", "microwave": "door of the microwave"}

SUBTASKS: Mapping[str, str] = {
    # {thing}: what is handled; {handle}: what of it is touched; {where}: where it goes, {toward}: so, after "push";
    # {goal_owner}: what lies there
    "reach": "reach the {thing}",
    "grasp": "grasp the {thing}",
    "lift": "lift the {thing}",
    "move": "carry the {thing} to the {goal_owner}",
    "place": "place the {thing} {where}",
    "set aside": "set the {thing} aside",
    "push": "push the {thing} {toward}",
    "reach handle": "reach the {handle}",
    "grasp handle": "grasp the {handle}",
    "open": "open the {thing}",
    "close": "close the {thing}",
    "turn on": "turn on the {thing}",
    "retract": "move away from the {thing}",
}
PLAN_STEPS: Mapping[str, str] = {
    "grasp": "grasp it",
    "lift": "lift it",
    "move": "carry it to the {goal_owner}",
    "place": "place it {where}",
    "set aside": "set it aside",
    "push": "push it {toward}",
    "grasp handle": "grasp it",
    "open": "open it",
    "close": "close it",
    "turn on": "turn it",
}
REASONS: Mapping[str, Sequence[str]] = {
    "reach": ("the gripper is empty", "nothing is held", "it has to be fetched"),
    "grasp": ("the gripper is there", "it is within reach"),
    "lift": ("it is held", "it is in the gripper"),
    "move": ("it is held and lifted", "it hangs in the gripper"),
    "place": ("it is near its place", "the {goal_owner} is near now"),
    "set aside": ("it is held and lifted", "it hangs in the gripper"),
    "push": ("it is not there yet", "it has to slide"),
    "reach handle": ("it is not touched yet", "the gripper is not there yet"),
    "grasp handle": ("the gripper is there", "it is within reach"),
    "open": ("it is not open yet", "it must come out further"),
    "close": ("it is not closed yet", "it must close further"),
    "turn on": ("it is not on yet", "it is still off"),
    "retract": ("it is let go", "it is out of the grip"),
    "retract handle": ("this is done", "this part is done"),
}
OFFSETS: Mapping[str, Sequence[str]] = {
    # {offset}: "6 cm left and 11 cm below"
    "reach": ("it is {offset}", "the {thing} is {offset}"),
    "move": ("its place is {offset}", "it belongs {offset}"),
    "reach handle": ("it is {offset}", "the {handle} is {offset}"),
}
ARRIVED: Mapping[str, str] = {
    "reach": "the gripper is at it",
    "move": "it is at its place",
    "reach handle": "the gripper is at it",
}
RISING = ("it has to rise {cm} cm", "it is {cm} cm too low")
RISING_ON = ("it has to rise further", "it is still too low")
RISEN = ("it is high enough", "it is lifted")
LEAVING = ("the gripper can leave", "the hand is done here")
ASIDE = ("it is put down here for now", "it has to wait here")
CLOSING = ("it is between the fingers", "the fingers are around it")
RELEASING = ("it can be let go", "the fingers let it go")
OPENING = ("the fingers have to be open", "only open fingers can reach around it")
REGRASPING = ("the grip has to be tried again", "it is not in the grip")
SLIDING = ("it has to slide {cm} cm", "it still has {cm} cm to slide")
TURNING = ("the {turned} has to turn {degrees} degrees", "the {turned} still has {degrees} degrees to turn")
TRAVELLED = ("it is nearly there", "only a little is missing")


def choose(variants: Sequence[str], *key: object) -> str:
    """One of the variants, by a hash of the key: the same on every machine, whatever the order of the work."""
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    return variants[int.from_bytes(digest[:4], "big") % len(variants)]


def label(name: str) -> str:
    """What people call a BDDL instance: akita_black_bowl_1 -> black bowl."""
    stem = re.sub(r"_\d+$", "", name)
    return _LABELS.get(stem, stem.replace("_", " "))


def region_phrase(target: str, owner: str, owner_label: str, predicate: str) -> str:
    """Where a goal puts its subject: "in the basket", "on the plate".

    target: BDDL region or instance; owner: the instance it belongs to or is named after; predicate: on or in.
    """
    if target == owner:
        return f"{'in' if predicate == 'in' or owner_label.endswith(_HOLLOW) else 'on'} the {owner_label}"
    if owner.startswith("wine_rack"):
        return f"on the {owner_label}"
    fitting = [ending for ending in _REGIONS if target.endswith(ending)]
    phrase = _REGIONS[max(fitting, key=len)] if fitting else predicate + " the {owner}"
    return phrase.format(owner=owner_label)


def handle_label(subject: str, owner: str, owner_label: str) -> str:
    """What the hand touches of something that opens, closes or turns: "handle of the top drawer"."""
    drawer = _drawer(subject, owner)
    return f"handle of the {drawer}" if drawer else _HANDLES.get(owner_label, owner_label)


def part_label(subject: str, owner: str, owner_label: str) -> str:
    """What opens, closes or turns: "top drawer of the cabinet", "stove"."""
    drawer = _drawer(subject, owner)
    return f"{drawer} of the {owner_label}" if drawer else owner_label


def _drawer(subject: str, owner: str) -> str:
    return next((words for ending, words in _DRAWERS.items() if subject.endswith(ending) and subject != owner), "")
