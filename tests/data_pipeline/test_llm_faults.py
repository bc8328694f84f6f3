"""The annotator against a real server on loopback that misbehaves in every way a real one has been seen to."""

import json
import time

import pytest

from configs.checks import ConfigError
from configs.data import AnnotatorConfig
from data_pipeline.contract import EnvironmentProblem, Interrupted, StageContext
from data_pipeline.llm_annotator import LEDGER, demos_of, forecast, run_reword
from data_pipeline.llm_checks import Reply
from data_pipeline.llm_money import SCHEMA_TOKENS, Ledger, Price, price_of, prompt_tokens_at_most
from data_pipeline.llm_pace import Pace, duration_s, reset_s, wait_asked_s
from data_pipeline.llm_quality import quality
from data_pipeline.sidecar import load_annotations
from tests.helpers import llm_server as say
from tests.helpers.llm_study import KEY, QuickClock, Study, kinds, worded
from tests.helpers.reasoned import write_reasoned


@pytest.fixture
def server():
    with say.serving() as running:
        yield running


def test_a_well_behaved_server_is_asked_once_per_demonstration(tmp_path, server):
    study = Study(tmp_path, server, demos=3)
    outcomes = study.run()
    assert len(server.seen) == 3
    assert all(not outcome.problems for outcome in outcomes)
    assert outcomes[0].wordings["plan"].startswith("now reach")
    assert "plan" not in outcomes[1].wordings
    assert server.keys == [f"Bearer {KEY}"] * 3
    assert server.seen[0]["response_format"]["type"] == "json_schema"
    assert server.seen[0]["max_tokens"] > 100
    assert study.ledger.spent() == pytest.approx(3 * 150e-6)
    study.run()
    assert len(server.seen) == 3, "a second run is all cache"


def test_demonstrations_that_ask_the_same_ask_once(tmp_path, server):
    study = Study(tmp_path, server)
    study.demos = demos_of(write_reasoned(tmp_path / "same.json", demos=4, distinct=False))
    outcomes = study.run()
    assert len(server.seen) == 2  # with and without the shared texts
    assert [set(o.wordings) >= {"s1.1"} for o in outcomes] == [True] * 4
    assert quality(outcomes, Price(1, 1), {"model": "m"})["calls"] == 2


@pytest.mark.parametrize(
    ("answer", "waits_s"),
    [
        (say.error(429, Retry_After="7"), 7),
        (say.error(429, Retry_After="900"), 900),  # longer than the client's own limit of 120 s
        (say.error(429), 0.4),
        (say.error(503, Retry_After="11"), 11),
        (say.error(500), 0.4),
        (say.error(429, x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="6m0s"), 360),
        (say.reset, 0.4),
        (say.truncated, 0.4),
        (say.half, 0.4),
        (say.raw(200, "<html>gateway</html>"), 0.4),
        (say.raw(200, "[" * 200_000, "application/json"), 0.4),
        (say.raw(200, '{"error": {"message": "busy"}}', "application/json"), 0.4),
        (say.raw(200, '{"choices": []}', "application/json"), 0.4),
        (say.raw(502, "<html>bad gateway</html>"), 0.4),
    ],
)
def test_a_fault_of_the_transport_is_waited_out(tmp_path, server, answer, waits_s):
    study = Study(tmp_path, server)
    server.answers.extend([answer, answer])
    outcomes = study.run()
    assert len(server.seen) == 3
    assert not kinds(outcomes)
    assert 2 * waits_s <= study.clock.time < 2 * waits_s + 10


@pytest.mark.parametrize("answer", [say.after(60), say.trickle])
def test_silence_and_a_trickle_end_after_the_timeout_and_count_as_paid(tmp_path, server, answer):
    study = Study(tmp_path, server, timeout_s=2.0)
    server.answers.append(answer)
    began = time.monotonic()
    assert not kinds(study.run())
    assert time.monotonic() - began < 45
    room = prompt_tokens_at_most(server.seen[0]["messages"]) + server.seen[0]["max_tokens"]
    assert study.ledger.spent() >= room * 1e-6 + 150e-6


def test_a_server_that_never_recovers_ends_the_run_and_what_was_paid_is_kept(tmp_path, server):
    study = Study(tmp_path, server, demos=3, concurrency=1)
    server.answers.append(say.well)
    server.otherwise = say.error(500)
    with pytest.raises(EnvironmentProblem, match=r"no usable answer in 8 attempts.*status 500"):
        study.run()
    assert len(study.kept()) == 1
    server.otherwise = say.well
    before = len(server.seen)
    assert not kinds(study.run())
    assert len(server.seen) - before == 2


def test_a_very_long_retry_after_ends_the_run(tmp_path, server):
    study = Study(tmp_path, server)
    server.otherwise = say.error(429, Retry_After="86400")
    with pytest.raises(EnvironmentProblem, match="wants no request for 86400 s"):
        study.run()
    assert len(server.seen) == 1


def test_nobody_listening_costs_nothing(tmp_path, server):
    study = Study(tmp_path, server)
    server.http.server_close()
    with pytest.raises(EnvironmentProblem, match="no usable answer"):
        study.run()
    assert study.ledger.spent() == 0


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (say.error(401, f"Incorrect API key provided: {KEY}"), "key is wrong"),
        (say.error(403, "not for you"), "may not use model 'm'"),
        (say.error(404, "The model `m` does not exist", "model_not_found"), "no model 'm'"),
        (say.error(400, "temperature is odd"), "temperature is odd"),
        (say.error(429, "You exceeded your current quota", "insufficient_quota"), "no credit"),
    ],
)
def test_what_cannot_work_stops_at_once_and_loses_nothing(tmp_path, server, answer, says):
    study = Study(tmp_path, server, demos=20, concurrency=3)
    server.answers.extend([say.after(0.3), answer])
    server.otherwise = say.after(0.3)
    with pytest.raises(ConfigError, match=says) as caught:
        study.run()
    assert KEY not in str(caught.value)
    assert len(server.seen) <= 4
    assert len(study.kept()) == len(server.seen) - 1, "what was in flight is kept"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (say.saying('{"items": [{"id": "s1.1", "te'), "unreadable"),
        (say.saying('{"wordings": {}}'), "unreadable"),
        (say.saying(None), "unreadable"),
        (say.saying(""), "unreadable"),
        (say.saying("\ud800" * 10), "unreadable"),
        (say.saying("x" * 1_000_000), "unreadable"),
        (say.saying(json.dumps({"items": []})), "missing"),
        (say.saying(None, refusal="I cannot"), "refused"),
        (say.saying('{"items": [', finish="length"), "cut short"),
        (say.saying("", finish="content_filter"), "content filter"),
        (say.error(400, "filtered", "content_filter"), "declined"),
        (say.worded(lambda i, t: t + " <|im_end|>"), "characters"),
        (say.worded(lambda i, t: f"<script>{t}</script>"), "characters"),
        (say.worded(lambda i, t: t + "\x1b[2J"), "characters"),
        (say.worded(lambda i, t: "ACTION: " + t), "characters"),
        (say.worded(lambda i, t: "<robot_action_1>"), "characters"),
        (say.worded(lambda i, t: t.replace("{m1}", "9 cm left") + " 1"), "numbers"),
        (say.worded(lambda i, t: t + " by the banana"), "objects"),
        (say.worded(lambda i, t: t + " clockwise"), "movements"),
        (say.worded(lambda i, t: t * 40), "length"),
    ],
)
def test_bad_content_is_asked_again_twice_then_the_rules_words_stay(tmp_path, server, answer, kind):
    study = Study(tmp_path, server)
    server.otherwise = answer
    outcomes = study.run()
    assert len(server.seen) == 3
    assert kinds(outcomes) == {kind}
    assert worded(outcomes) == {}
    again = server.seen[1]["messages"][-1]["content"]
    assert "problem" in again
    assert len(again) < 8000, "what the model wrote does not come back at length"
    if kind == "declined":
        assert study.ledger.spent() == 0
    else:
        assert len(study.kept()) == 3, "paid for, so kept"
    before = len(server.seen)
    study.run()
    assert len(server.seen) - before == (3 if kind == "declined" else 0)


def test_only_what_was_not_taken_is_asked_again(tmp_path, server):
    study = Study(tmp_path, server)
    server.answers.append(
        say.worded(lambda i, t: t + " on mars" if i == "s2.1" else t + " of the moon" * (i == "s1.1"))
    )
    outcomes = study.run()
    assert [i for i, _ in say.asked_texts(server.seen[1])] == ["s1.1"]
    assert "of the moon" not in outcomes[0].wordings["s1.1"]
    assert not kinds(outcomes)


def test_a_server_without_schemas_is_stepped_down_once(tmp_path, server):
    def picky(handler, body):
        if body.get("response_format", {}).get("type") == "json_schema":
            say.error(400, "Invalid parameter: 'response_format' of type 'json_schema' is not supported")(handler, body)
        elif "response_format" in body:
            say.error(400, "response_format json_object is not supported")(handler, body)
        else:
            say.well(handler, body)

    study = Study(tmp_path, server, demos=3, concurrency=1)
    server.otherwise = picky
    assert not kinds(study.run())
    assert len(server.seen) == 2 + 3
    assert study.ledger.spent() == pytest.approx(3 * 150e-6)


def test_models_that_want_another_name_for_the_limit(tmp_path, server):
    def new(handler, body):
        if "max_tokens" in body:
            say.error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")(handler, body)
        else:
            say.well(handler, body)

    study = Study(tmp_path, server)
    server.otherwise = new
    assert not kinds(study.run())
    assert server.seen[1]["max_completion_tokens"] == server.seen[0]["max_tokens"]


def test_no_key_at_all_is_fine_with_a_server_of_ones_own(tmp_path, server):
    study = Study(tmp_path, server)
    assert not kinds(study.run(key=""))


# ------------------------------------------------------------------ money


def test_the_limit_is_never_exceeded_and_a_greater_one_goes_on(tmp_path, server):
    study = Study(tmp_path, server, demos=10, concurrency=3)
    server.otherwise = lambda handler, body: handler.reply(200, {**say.good(body), "usage": None})  # worst case counts
    whole = forecast(study.config, study.demos).usd_at_most
    limited = Study(tmp_path, server, demos=10, concurrency=3, max_usd=whole / 2)
    with pytest.raises(ConfigError, match=r"--max-usd .* replies are kept"):
        limited.run()
    paid = len(server.seen)
    assert 3 <= paid <= 5
    assert limited.ledger.spent() <= whole / 2
    assert len(limited.kept()) == paid
    assert not kinds(study.run())
    assert len(server.seen) == 10
    assert study.ledger.spent() <= whole + 1e-9


def test_forecast_is_made_from_the_prompts_and_less_what_is_kept(tmp_path, server):
    study = Study(tmp_path, server, demos=4)
    before = forecast(study.config, study.demos)
    assert (before.calls, before.cached) == (4, 0)
    assert 0 < before.usd_expected < before.usd_at_most
    study.run()
    sent = sum(len(m["content"].encode()) for body in server.seen for m in body["messages"])
    room = sum(body["max_tokens"] for body in server.seen)
    assert before.usd_at_most >= (sent + room) * 1e-6
    after = forecast(study.config, study.demos)
    assert (after.calls, after.cached, after.usd_at_most) == (0, 4, 0)


def test_the_schema_fits_into_what_is_set_aside_for_it():
    from openai.lib._pydantic import to_strict_json_schema

    assert len(json.dumps(to_strict_json_schema(Reply)).encode()) + 100 < SCHEMA_TOKENS


def test_a_damaged_reply_is_asked_for_again(tmp_path, server):
    study = Study(tmp_path, server)
    study.run()
    (kept,) = study.kept()
    kept.write_bytes(kept.read_bytes()[:100])
    assert not kinds(study.run())
    assert len(server.seen) == 2


def test_the_ledger_survives_a_torn_line_and_reserves_at_the_worst(tmp_path):
    ledger = Ledger(tmp_path / "deep" / LEDGER)
    assert ledger.spent() == 0
    one = ledger.reserve(3.0, 5.0)
    assert one is not None
    assert ledger.reserve(3.0, 5.0) is None
    with open(ledger.path, "ab") as file:
        file.write(b'{"id": "torn", "us')
    ledger.settle(one, 0.5)
    assert ledger.spent() == 0.5
    assert ledger.reserve(4.5, 5.0) is not None


def test_prices_are_known_or_given(server):
    assert price_of(AnnotatorConfig(kind="llm", model="gpt-4")).usd(1_000_000, 0) == 30
    with pytest.raises(ConfigError, match=r"model 'my-model'.*usd_per_mtok_in"):
        price_of(AnnotatorConfig(kind="llm", model="my-model"))
    elsewhere = {"kind": "llm", "model": "gpt-4", "base_url": server.url}
    with pytest.raises(ConfigError, match="not known"):
        price_of(AnnotatorConfig(**elsewhere))
    with pytest.raises(ConfigError, match="not known"):
        price_of(AnnotatorConfig(kind="llm", usd_per_mtok_in=1.0))
    assert price_of(AnnotatorConfig(**elsewhere, usd_per_mtok_in=0.0, usd_per_mtok_out=0.0)).usd(1000, 1000) == 0


# ------------------------------------------------------------------ pace


def test_never_more_calls_at_once_than_allowed(tmp_path, server):
    study = Study(tmp_path, server, demos=9, concurrency=3)
    server.otherwise = say.after(0.05)
    study.run()
    assert server.most_at_once == 3


def test_too_many_requests_halve_the_calls_at_once_and_successes_raise_them():
    clock = QuickClock()
    pace = Pace(8, clock, lambda: False)
    pace.refused(5.0, {})
    assert int(pace.limit) == 4
    assert pace.resume_at == 5
    for _ in range(40):
        pace.answered({}, 1)
    assert int(pace.limit) == 8
    pace.answered({"X-RateLimit-Remaining-Tokens": "90", "X-RateLimit-Reset-Tokens": "1m30s"}, 100)
    assert pace.resume_at == 90


def test_headers_in_words():
    assert [duration_s(text) for text in ("6m0s", "20ms", "1h2m", "1.5s", "3", "soon", "")] == [
        360,
        0.02,
        3720,
        1.5,
        3,
        0,
        0,
    ]
    assert reset_s({"x-ratelimit-remaining-requests": "5", "x-ratelimit-reset-requests": "9s"}) == 0
    assert wait_asked_s({"Retry-After": "2.5"}) == 2.5
    assert wait_asked_s({"retry-after-ms": "300"}) == pytest.approx(0.3)
    assert wait_asked_s({"Retry-After": "nan"}) == 0
    assert wait_asked_s({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    tomorrow = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 86400))
    assert wait_asked_s({"Retry-After": tomorrow}) > 86000


def test_a_stop_lets_calls_in_flight_arrive(tmp_path, server):
    study = Study(tmp_path, server, demos=8, concurrency=2)

    def stop_then_answer(handler, body):
        study.stop = True
        time.sleep(0.2)
        say.well(handler, body)

    server.otherwise = stop_then_answer
    with pytest.raises(Interrupted):
        study.run()
    assert 1 <= len(study.kept()) == len(server.seen) <= 2
    study.stop, server.otherwise = False, say.well
    study.run()
    assert len(server.seen) == 8


# ------------------------------------------------------------------ the stage


def test_the_stage_writes_annotations_and_a_quality_report(tmp_path, server, monkeypatch):
    study = Study(tmp_path, server, demos=3, api_key_env="TEST_KEY")
    monkeypatch.setenv("TEST_KEY", KEY)
    word = lambda i, t: t + " of the moon" if i == "s2.1" else f"now {t}"  # noqa: E731
    server.otherwise = lambda handler, body: handler.reply(
        200, {**say.good(body, word), "system_fingerprint": f"echo {KEY}"}
    )
    work = tmp_path / "work"
    work.mkdir()
    assert run_reword(study.config, StageContext(work, {"annotate": tmp_path})) == ["annotations.json", "quality.json"]
    old = load_annotations(tmp_path / "annotations.json")
    new = load_annotations(work / "annotations.json")
    for episode, before in old.items():
        after = new[episode]
        for a, b in zip(before.steps, after.steps, strict=True):
            assert (a.visible_objects, a.subtask, a.move, a.gripper) == (
                b.visible_objects,
                b.subtask,
                b.move,
                b.gripper,
            )
            assert b.plan == f"now {a.plan}"
        assert after.source["plan"] == "llm:m"
        assert after.source["subtask_reasoning"] == "llm:m, rules"
        assert after.source["visible_objects"] == "sim"
        assert after.steps[2].subtask_reasoning == "it is held and lifted"
        assert after.steps[1].move_reasoning == f"now {before.steps[1].move_reasoning}"
    report = json.loads((work / "quality.json").read_text())
    assert report["texts"] == {"asked": 20, "reworded": 17, "share": 0.85}
    assert report["kept_rules"] == {"objects": {"texts": 3, "share": 0.15}}
    assert report["calls"] == 3 + 2, "what was not taken is the same question for all three"
    assert report["tokens"] == {"prompt": 500, "completion": 250}
    assert report["steps"] == {"all": 18, "reworded": 12, "share": 0.6667}
    first = (work / "annotations.json").read_bytes()
    run_reword(study.config, StageContext(work, {"annotate": tmp_path}))
    assert (work / "annotations.json").read_bytes() == first
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]


def test_agreement_with_the_true_motion_is_counted_by_step(tmp_path, server):
    study = Study(tmp_path, server)
    server.otherwise = say.worded(lambda i, t: f"down, {t}" if i == "s1.2" else t)
    report = quality(study.run(), Price(1, 1), {"model": "m"})
    assert report["motion"] == {"naming": 2, "agree": 2, "share": 1.0}
    assert report["unchanged"] == 7
