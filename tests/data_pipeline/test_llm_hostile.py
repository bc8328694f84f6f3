"""What a server can do to the annotator beyond failing: absurd numbers, odd encodings, floods, the key said back."""

import json
import time

import pytest

from data_pipeline.contract import EnvironmentProblem
from data_pipeline.llm_pace import Clock
from tests.helpers import llm_server as say
from tests.helpers.llm_study import KEY, Study, kinds, worded

ROOM_USD = 0.003  # at least this much is set aside for a call of these tests


@pytest.fixture
def server():
    with say.serving() as running:
        yield running


def well_with(**headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, body: handler.reply(200, say.good(body), names)


def well_as(kind, prefix=b""):
    return lambda handler, body: handler.write(
        200, prefix + json.dumps(say.good(body)).encode(), {"Content-Type": f"application/json{kind}"}
    )


def counting(prompt, completion):
    usage = {"prompt_tokens": prompt, "completion_tokens": completion}
    return lambda handler, body: handler.reply(200, {**say.good(body), "usage": usage})


def reset_in_the_middle(handler, body):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices"')
    handler.wfile.flush()
    say.reset(handler, body)


def no_http(handler, body):
    handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")
    handler.wfile.flush()
    handler.connection.close()


def trickling_head(handler, body):
    for _ in range(600):
        handler.wfile.write(b"H")
        handler.wfile.flush()
        time.sleep(0.05)


@pytest.mark.parametrize(
    "answer",
    [
        *(well_as(f"; charset={name}") for name in ("rot13", "zlib_codec", "utf-16", "no-such-charset")),
        well_as("", b"\xef\xbb\xbf"),
        well_with(x_ratelimit_remaining_requests="9" * 5000, x_ratelimit_reset_requests="1s"),
        well_with(x_ratelimit_remaining_tokens="nan", x_ratelimit_reset_tokens="9" * 400),
        well_with(x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="48h"),  # the last call needs no more
        *(counting(*usage) for usage in ((10**400, 5), (10**15, 1), (-5, 3), ("9", 3), (1.5, None), (True, True))),
    ],
)
def test_a_good_reply_is_taken_whatever_stands_around_it(tmp_path, server, answer):
    study = Study(tmp_path, server)
    server.answers.append(answer)
    assert not kinds(study.run())
    assert len(server.seen) == len(study.kept()) == 1
    assert 0 < study.ledger.spent() < 2 * ROOM_USD


@pytest.mark.parametrize(
    ("answer", "free"),
    [
        (reset_in_the_middle, False),
        (no_http, False),
        (trickling_head, False),
        (lambda handler, body: handler.write(200, b"no zip", {"Content-Encoding": "gzip"}), False),
        (lambda handler, body: handler.write(204, b"", {}), False),
        (lambda handler, body: handler.write(302, b"", {"Location": "gopher://elsewhere"}), False),
        (say.raw(500, "[1, 2]", "application/json; charset=rot13"), True),
        (say.raw(503, '{"error": {"message": {}, "code": [], "type": {}}}', "application/json"), True),
        (say.error(429, Retry_After="Fri, 31 Dec 99999999 23:59:59 GMT"), True),
        (say.error(429, Retry_After="-7"), True),
        (say.error(429, Retry_After="inf"), True),
    ],
)
def test_a_bad_reply_is_asked_for_again_and_counts_as_paid_where_it_may_be(tmp_path, server, answer, free):
    study = Study(tmp_path, server, timeout_s=2.0)
    server.answers.append(answer)
    assert not kinds(study.run())
    assert (len(server.seen), len(study.kept())) == (2, 1)
    assert (study.ledger.spent() < ROOM_USD) == free


MEGABYTE = "a" * 125_000, "\\" * 60_000, "{m1}" * 30_000, "\U0001f600" * 10_000  # each, said for eight texts


@pytest.mark.parametrize("word", [*MEGABYTE, "<|endoftext|>" * 3, "\u202ewon", "\x00", "FLOW: <flow_1>"])
def test_a_hostile_wording_in_a_proper_answer_reaches_no_annotation(tmp_path, server, word):
    study = Study(tmp_path, server)
    server.otherwise = say.worded(lambda i, t: word)
    began = time.monotonic()
    assert worded(study.run()) == {}
    assert all(len(body["messages"][-1]["content"]) < 8000 for body in server.seen)
    assert time.monotonic() - began < 60


def test_a_rate_limit_of_days_ends_the_run_and_keeps_what_was_paid(tmp_path, server):
    study = Study(tmp_path, server, demos=5, concurrency=2)
    server.otherwise = well_with(x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="48h")
    with pytest.raises(EnvironmentProblem, match=r"no request for 172\d\d\d s; replies are kept"):
        study.run()
    assert 1 <= len(server.seen) == len(study.kept()) <= 2


def test_rate_limit_headers_stop_everybody_for_as_long_as_they_say(tmp_path, server):
    """Four calls at once, and after the third reply there is no room for 0.6 s: the real clock, the real server."""
    arrived, closed = [], []

    def limited(handler, body):
        now = time.monotonic()
        arrived.append(now)
        time.sleep(0.05)
        if len(arrived) >= 3 and not closed:
            closed.append(time.monotonic())
            well_with(x_ratelimit_remaining_requests="0", x_ratelimit_reset_requests="600ms")(handler, body)
        else:
            say.well(handler, body)

    study = Study(tmp_path, server, demos=12, concurrency=4)
    study.clock = Clock()
    server.otherwise = limited
    assert not kinds(study.run())
    (shut,) = closed
    during = [at for at in arrived if shut + 0.2 < at < shut + 0.55]
    assert not during, "those on their way when it was said may arrive, nobody else"
    assert len(arrived) == 12


def test_a_schema_refused_under_concurrency_is_learnt_once_by_each_call_in_flight(tmp_path, server):
    def picky(handler, body):
        time.sleep(0.05)
        if "response_format" in body:
            say.error(400, "this model does not support response_format")(handler, body)
        else:
            say.well(handler, body)

    study = Study(tmp_path, server, demos=12, concurrency=4)
    server.otherwise = picky
    assert not kinds(study.run())
    refused = [number for number, body in enumerate(server.seen) if "response_format" in body]
    assert len(refused) <= 2 * 4, "each of the four learns of both kinds at most"
    assert "response_format" not in server.seen[-1]
    assert len(server.seen) == 12 + len(refused)


@pytest.mark.parametrize("written", [KEY, KEY.replace("s", "\\u0073"), KEY.replace("-", "\\u002D"), "\\" + KEY])
@pytest.mark.parametrize("status", [200, 500])
def test_a_key_that_is_said_back_is_not_kept_however_it_is_written(tmp_path, server, written, status):
    def echo(handler, body):
        content = json.dumps(say.good(body, lambda i, t: "SAID")).replace("SAID", f"it is {json.dumps(written)[1:-1]}")
        handler.write(200, content.encode(), {"Content-Type": "application/json"})

    study = Study(tmp_path, server)
    server.otherwise = echo if status == 200 else say.raw(status, written)
    try:
        said = str([outcome.problems for outcome in study.run()])
    except EnvironmentProblem as problem:
        said = str(problem)
    plain = KEY.partition("-")[2]
    files = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in (*files, said, json.dumps(server.seen)) if plain in text]
