"""A chat-completions server on loopback: real HTTP, real threads. It rewords politely until told to misbehave."""

import json
import socket
import threading
import time
from collections import deque
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def asked_texts(body):
    """(id, text) of everything that a request asks to reword."""
    asked = json.loads(body["messages"][-1]["content"].partition("\n")[0])
    groups = [asked.get("texts", []), *(segment["texts"] for segment in asked["segments"])]
    return [(text["id"], text["text"]) for group in groups for text in group]


def politely(item_id, text):
    return f"now {text}"


def completion(content, finish="stop", refusal=None, usage=(100, 50)):
    message = {"role": "assistant", "content": content, "refusal": refusal}
    tree = {"id": "c", "object": "chat.completion", "created": 0, "model": "m"}
    tree["choices"] = [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}]
    if usage:
        tree["usage"] = dict(
            zip(("prompt_tokens", "completion_tokens", "total_tokens"), (*usage, sum(usage)), strict=True)
        )
    return tree


def good(body, word=politely):
    return completion(json.dumps({"items": [{"id": i, "text": word(i, t)} for i, t in asked_texts(body)]}))


# ------------------------------------------------------------------ ways to answer: (handler, body) -> None


def well(handler, body):
    handler.reply(200, good(body))


def worded(word):
    """Reword every text by a function of (id, text)."""
    return lambda handler, body: handler.reply(200, good(body, word))


def saying(content, **more):
    """Answer with this content, whatever was asked."""
    return lambda handler, body: handler.reply(200, completion(content, **more))


def error(status, message="no", code=None, **headers):
    """A JSON error as OpenAI gives it. Headers: Retry_After="2"."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, body: handler.reply(status, {"error": {"message": message, "code": code}}, names)


def raw(status, content, kind="text/html"):
    return lambda handler, body: handler.write(status, content.encode(), {"Content-Type": kind})


def truncated(handler, body):
    """Fewer bytes than promised."""
    content = json.dumps(good(body)).encode()
    handler.write(200, content[: len(content) // 2], {"Content-Length": str(len(content))})


def half(handler, body):
    """A whole response with half of the JSON."""
    content = json.dumps(good(body)).encode()
    handler.write(200, content[: len(content) // 2], {})


def reset(handler, body):
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    handler.connection.close()


def after(seconds, then=well):
    def answer(handler, body):
        time.sleep(seconds)
        then(handler, body)

    return answer


def trickle(handler, body):
    """A byte at a time, for longer than anybody waits."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(1200):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


class Server:
    """`answers` are used up one per request, then `otherwise`. `seen`: the requests' bodies; `keys`: what they bore."""

    def __init__(self):
        self.answers = deque()
        self.otherwise = well
        self.seen = []
        self.keys = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.http = None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, handler, body):
        with self.lock:
            self.seen.append(body)
            self.keys.append(handler.headers.get("Authorization", ""))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            chosen = self.answers.popleft() if self.answers else self.otherwise
        try:
            chosen(handler, body)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with self.lock:
                self.at_once -= 1


@contextmanager
def serving():
    """A running server."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"

        def do_POST(self):
            assert self.path == "/v1/chat/completions", self.path
            server.answer(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, status, tree, headers=None):
            self.write(status, json.dumps(tree).encode(), {"Content-Type": "application/json", **(headers or {})})

        def write(self, status, content, headers):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    server.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.http.daemon_threads = True
    thread = threading.Thread(target=lambda: server.http.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
