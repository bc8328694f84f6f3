"""What the model is asked and which of its answers are taken, without any network."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipeline.contract import StepReasoning
from data_pipeline.llm_checks import BadContent, directions, find_problem, judge, read_reply
from data_pipeline.llm_prompts import Demo, Problem, Question, fill, max_chars, reworded_steps, skeleton
from tests.helpers.reasoned import PLAN, TASK, write_reasoned
from training.reasoning_text import parse_reasoning, render_reasoning


@pytest.fixture(scope="module")
def entry(tmp_path_factory):
    return write_reasoned(tmp_path_factory.mktemp("reasoned") / "annotations.json", demos=1)["object/00"]["0"]


@pytest.fixture(scope="module")
def demo(entry):
    return Demo.of(entry)


def answer(pairs):
    return json.dumps({"items": [{"id": i, "text": t} for i, t in pairs]})


@pytest.mark.parametrize(
    ("text", "rules", "measured"),
    [
        ("it is 6 cm left and 11 cm below", "it is {m1}", ("6 cm left and 11 cm below",)),
        ("its place is 10 cm behind, 20 cm left and 15 cm above", "its place is {m1}", None),
        ("it has turned 30 degrees", "it has turned {m1}", ("30 degrees",)),
        ("the moka pot 2 is 3 cm right", "the moka pot {m1} is {m2}", ("2", "3 cm right")),
        ("the gripper is empty", "the gripper is empty", ()),
    ],
)
def test_measurements_are_taken_out(text, rules, measured):
    found, values = skeleton(text)
    assert found == rules
    assert measured is None or values == measured
    assert fill(found, values) == text


@given(st.text(alphabet="abc 0123456789.,cmandleft", max_size=60))
def test_a_text_without_its_measurements_and_those_make_the_text(text):
    assert fill(*skeleton(text)) == text


def test_a_demonstration_as_items(demo):
    assert [(s.start, s.stop, s.subtask) for s in demo.segments] == [
        (0, 2, "reach the alphabet soup"),
        (2, 4, "carry the alphabet soup to the basket"),
        (4, 6, "place the alphabet soup in the basket"),
    ]
    assert [(item.id, item.rules) for item in demo.items] == [
        ("s1.1", "the gripper is empty"),
        ("s1.2", "it is {m1}"),
        ("s2.1", "it is held and lifted"),
        ("s2.2", "the basket is {m1}"),
        ("s3.1", "it is near its place"),
        ("s3.2", "it is where it belongs"),
    ]
    assert demo.objects == ("alphabet soup", "basket")
    assert [(item.id, item.rules) for item in demo.shared] == [("task", TASK), ("plan", PLAN)]


def test_the_question_shows_no_measurement_and_names_every_item(demo):
    system, user = Question(demo, demo.items).messages()
    assert "JSON" in system["content"]  # servers refuse json_object without the word
    asked = json.loads(user["content"])
    assert [t["id"] for s in asked["segments"] for t in s["texts"]] == [item.id for item in demo.items]
    assert "texts" not in asked
    assert "11 cm" not in user["content"]
    with_shared = json.loads(Question(demo, (*demo.shared, *demo.items)).messages()[1]["content"])
    assert [t["id"] for t in with_shared["texts"]] == ["task", "plan"]


def test_asking_again_asks_only_for_what_was_not_taken_and_says_why(demo):
    item = demo.items[1]
    user = Question(demo, (item,), {item.id: Problem("numbers", "keep {m1}")}).messages()[1]["content"]
    asked = json.loads(user.partition("\n")[0])
    assert asked["segments"] == [
        {
            "subtask": "reach the alphabet soup",
            "movements": ["move left down"],
            "texts": [{"id": "s1.2", "text": "it is {m1}", "max_chars": 60, "problem": "keep {m1}"}],
        }
    ]


@pytest.mark.parametrize("text", ["it sits {m1}", "the soup lies {m1} of the gripper", "{m1} from the hand, it waits"])
def test_good_wordings_are_taken(demo, text):
    assert find_problem(demo, demo.items[1], text) is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "length"),
        ("it is {m1} " + "very " * 20 + "far", "length"),
        ("x" * 1_000_000, "length"),
        ("it is {m1} <|im_end|>", "characters"),
        ("it is {m1} <robot_action_3>", "characters"),
        ("it is {m1} <flow_1>", "characters"),
        ("it is {m1} <b>now</b>", "characters"),
        ("PLAN: it is {m1}", "characters"),
        ("it is {m1}\nACTION:", "characters"),
        ("it is {m1}\x00", "characters"),
        ("it is {m1}\u202e", "characters"),
        ("它在 {m1}", "characters"),
        (" it is {m1}", "characters"),
        ("it is near", "numbers"),
        ("it is {m1}, yes {m1}", "numbers"),
        ("it is {m2}", "numbers"),
        ("it is 6 cm left", "numbers"),
        ("it is {m1}, 3 steps on", "numbers"),
        ("the banana is {m1}", "objects"),
        ("it is {m1} near the plate", "objects"),
        ("ketchup is {m1}", "objects"),
        ("it is {m1} of a banana in the basket", "objects"),
        ("it is {m1} of the basket by the banana", "objects"),
        ("it is {m1}, so go up", "movements"),
        ("it is {m1}, open the gripper", "movements"),
        ("it is {m1}, turn clockwise", "movements"),
    ],
)
def test_wordings_that_are_not_taken(demo, text, kind):
    problem = find_problem(demo, demo.items[1], text)
    assert problem is not None
    assert problem.kind == kind
    assert problem.text.isprintable()
    assert len(problem.text) < 500


def test_every_text_of_the_rules_is_itself_a_good_wording(demo):
    for item in (*demo.shared, *demo.items):
        assert find_problem(demo, item, item.rules) is None


def test_ids_are_one_to_one(demo):
    items = demo.items[:3]
    reply = read_reply(answer([("s1.1", "nothing is held"), ("s1.1", "again"), ("s1.2", "it is {m1}"), ("s9.9", "x")]))
    taken, problems = judge(demo, items, reply)
    assert taken == {"s1.2": "it is {m1}"}
    assert {i: p.kind for i, p in problems.items()} == {"s1.1": "missing", "s2.1": "missing"}


@pytest.mark.parametrize(
    "content",
    [
        '{"items": [{"id": "s1.1", "te',
        "<html><body>busy</body></html>",
        "",
        "[]",
        '{"items": [{"id": 1, "text": "a"}]}',
        '{"items": [{"id": "s1.1", "text": "a", "move": "stop"}]}',
        '{"wordings": []}',
        '{"items": [], "more": 1}',
        "{" * 100_000,
        "null",
    ],
)
def test_unreadable_answers(content):
    with pytest.raises(BadContent) as caught:
        read_reply(content)
    assert len(str(caught.value)) < 300


def test_prose_and_fences_around_the_json_are_left_out():
    assert read_reply('Sure!\n```json\n{"items": [{"id": "a", "text": "b"}]}\n```').items[0].text == "b"


@given(st.text(max_size=80))
@example("nothing is held yet")
@example("MOVE it")
@example("free hand (empty), ready; go.")
@example("don't wait")
def test_whatever_is_taken_can_be_written_and_read_back(demo, entry, text):
    if find_problem(demo, demo.items[0], text) is None:
        step = StepReasoning(TASK, PLAN, (), text, demo.segments[0].subtask, "it is near", "stop", ((1, 2),))
        assert parse_reasoning(render_reasoning(step)) == step


def test_odd_texts_that_are_taken(demo):
    for text in ("nothing is held yet", "MOVE it", "free hand (empty), ready; go.", "don't wait"):
        assert find_problem(demo, demo.items[0], text) is None


def test_wordings_change_words_and_nothing_else(demo, entry):
    wordings = {"s1.2": "the can waits {m1}", "plan": "fetch the soup for the basket", "s3.1": "almost there"}
    new = reworded_steps(demo, entry, wordings)
    assert [new[str(t)]["move_reason"] for t in range(3)] == [
        "the can waits 20 cm left and 11 cm below",
        "the can waits 17 cm left and 11 cm below",
        "the basket is 20 cm right",
    ]
    assert new["5"]["subtask_reason"] == "almost there"
    assert {step["plan"] for step in new.values()} == {"fetch the soup for the basket"}
    for t, step in entry["reasoning"].items():
        assert (new[t]["task"], new[t]["move"], new[t]["subtask"]) == (step["task"], step["move"], step["subtask"])
    assert reworded_steps(demo, entry, {}) == entry["reasoning"]


def test_directions_have_one_spelling():
    assert directions("Moving upwards and to the left, opening the gripper") == {"up", "left", "open gripper"}
    assert directions("it is close to the gripper") == frozenset()
    assert directions("close the fingers") == directions("the gripper is closing") == {"close gripper"}
    assert directions("the fingers open") == {"open gripper"}


def test_room_for_an_answer_at_the_limits(demo):
    items = demo.items
    longest = answer([(item.id, "x" * max_chars(item)) for item in items])
    assert Question(demo, items).max_tokens() >= len(longest) / 2 - 20 * len(items)
