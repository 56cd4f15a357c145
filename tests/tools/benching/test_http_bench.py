"""The command against servers: a stub that does as told, and our own with a tiny model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.model import load
from mistralrs_onnx.tools.bench import main
from mistralrs_onnx.tools.benching.http_bench import Asking
from mistralrs_onnx.tools.benching.serving_bench import serving

Reply = tuple[int, list[str]]
TOKEN = json.dumps({"choices": [{"text": "a", "delta": {"content": "a"}}]})
USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2}})


class Stub(ThreadingHTTPServer):
    """Answers requests by their number, from 0 for the trial on, and keeps what it was asked."""

    def __init__(self, reply: Callable[[int], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []
        self.lock = threading.Lock()
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Stub

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": [{"id": "first"}, {"id": "second"}]}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.asked)
            self.server.asked.append((self.path, body, self.headers["Authorization"]))
        status, events = self.server.reply(number)
        if not events:
            self.server.over.wait(60)
        self.send_response(status)
        self.end_headers()
        self.wfile.write("".join(f"data: {event}\n\n" for event in events).encode())

    def log_message(self, *args: object) -> None: ...


@contextmanager
def stub(reply: Callable[[int], Reply] = lambda _: (200, [TOKEN, TOKEN, USAGE, "[DONE]"])) -> Iterator[Stub]:
    with Stub(reply) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()


def bench(url: str, *options: object) -> Result:
    words = ["--url", url, "--input-len", 4, "--output-len", 2, *options]
    return CliRunner().invoke(main, ["http", *map(str, words)])


def test_the_block_of_a_run_that_went_well() -> None:
    with stub() as server:
        result = bench(server.url, "--num-prompts", 5, "--ignore-eos", "--api-key", "secret", "--seed", 3)
    assert result.exit_code == 0, result.output
    values = dict(line.rsplit(None, 1) for line in result.stdout.splitlines() if line[0] not in "=-")
    assert values["Successful requests:"] == "5"
    assert values["Total input tokens:"] == "35"
    assert values["Total generated tokens:"] == "10"
    assert float(values["P99 TTFT (ms):"]) > 0
    assert len(server.asked) == 6  # a trial, which does not count
    for path, body, key in server.asked:
        assert (path, key, body["model"]) == ("/v1/completions", "Bearer secret", "first")
        assert len(body["prompt"].split()) == 4
        assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
        assert (body["max_tokens"], body["temperature"], body["ignore_eos"]) == (2, 0, True)
    assert len({body["prompt"] for _, body, _ in server.asked}) == 6


def test_chats_rates_bounds_and_json() -> None:
    with stub() as server:
        options = ["--chat", "--model", "m", "--num-prompts", 3, "--request-rate", 200, "--max-concurrency", 2]
        result = bench(f"{server.url}/v1", *options, "--temperature", "0.5", "-o", "json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert (record["request_rate"], record["max_concurrency"], record["seed"]) == (200, 2, 0)
    assert (record["completed"], record["failed"], record["errors"]) == (3, 0, {})
    for path, body, key in server.asked:
        assert (path, key, body["model"], body["temperature"]) == ("/v1/chat/completions", None, "m", 0.5)
        assert [message["role"] for message in body["messages"]] == ["user"]
        assert "ignore_eos" not in body


def test_errors_are_counted_and_shown() -> None:
    def reply(number: int) -> Reply:
        return (429, ["full"]) if number % 2 else (200, [TOKEN, "[DONE]"])

    with stub(reply) as server:
        result = bench(server.url, "--num-prompts", 5, "--max-concurrency", 1)
    assert result.exit_code == 0, result.output
    assert "Failed requests:                                 3" in result.stdout
    assert "3 x 429: data: full" in result.stderr


def test_without_a_single_answer_it_fails() -> None:
    with stub(lambda number: (503, ["down"]) if number else (200, [TOKEN, "[DONE]"])) as server:
        result = bench(server.url, "--num-prompts", 2)
    assert result.exit_code == 1
    assert "2 x 503: data: down" in result.stderr


def test_a_server_that_refuses_the_trial_is_not_loaded() -> None:
    with stub(lambda _: (404, ["no such model"])) as server:
        result = bench(server.url, "--model", "x")
    assert result.exit_code == 1
    assert "/v1/completions failed: 404: data: no such model" in result.stderr
    assert len(server.asked) == 1


def test_prompts_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one"}\n"two"\n')
    words = ["http", "--num-prompts", "3", "--dataset", str(file)]
    with stub() as server:
        result = CliRunner().invoke(main, [*words, "--url", server.url])
    assert result.exit_code == 0, result.output
    assert sorted(body["prompt"] for _, body, _ in server.asked) == ["one", "one", "two", "two"]
    mistake = CliRunner().invoke(main, [*words, "--input-len", "3"])
    assert (mistake.exit_code, "leave one of them out" in mistake.output) == (2, True)


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["-p", "3", "http"], 2, "--n-prompt before http has no meaning: options of http stand after it"),
        (["http", "--url", "localhost"], 2, "write it like http://127.0.0.1:1234"),
        (["http", "--request-rate", "0"], 2, "must be a number above 0, or inf"),
        (["http", "--request-rate", "nan"], 2, "must be a number above 0, or inf"),
        (["http", "--url", "http://127.0.0.1:9"], 1, "the connection was refused): check --url"),
    ],
)
def test_mistakes(words: list[str], code: int, complaint: str) -> None:
    result = CliRunner().invoke(main, words)
    assert (result.exit_code, complaint in result.output) == (code, True), result.output


def test_ctrl_c_shows_what_was_measured_so_far() -> None:
    with stub(lambda number: (200, [] if number == 2 else [TOKEN, "[DONE]"])) as server:
        words = ["http", "--url", server.url, "--num-prompts", "3", "--max-concurrency", "1", "--input-len", "2"]
        code = "import sys; from mistralrs_onnx.tools.bench import main; main(sys.argv[1:])"
        process = subprocess.Popen(
            [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while len(server.asked) < 3 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Successful requests:                             1" in out
    assert "Unfinished requests:                             2" in out
    assert "interrupted" in err
    assert "Traceback" not in err


def test_a_file_may_say_where_the_server_is(tmp_path: Path) -> None:
    file = tmp_path / "bench.toml"
    with stub() as server:
        file.write_text(f'n-prompt = 9\n[http]\nurl = "{server.url}"\nnum-prompts = 2\n')
        result = CliRunner().invoke(main, ["--config", str(file), "http", "--model", "m"])
    assert result.exit_code == 0, result.output
    assert len(server.asked) == 3


def test_our_own_server_is_measured(tiny_llama: Any, tmp_path: Path) -> None:
    package = compile_gguf(tiny_llama(tmp_path / "tiny.gguf").write(), tmp_path / "package")
    with serving(load(package)) as port:
        options = ["--num-prompts", 4, "--output-len", 5, "--ignore-eos", "-o", "json"]
        result = bench(f"http://127.0.0.1:{port}", *options)
        assert result.exit_code == 0, result.output
        record = json.loads(result.stdout)
        assert (record["completed"], record["total_output_tokens"]) == (4, 20)
        assert record["total_input_tokens"] > 0
        assert record["mean_ttft_ms"] <= record["mean_e2el_ms"]


def test_a_body_says_only_what_was_asked() -> None:
    asking = Asking("m", is_chat=False, output_len=3, ignore_eos=False, temperature=0.0)
    assert set(asking.body("a")) == {"prompt", "model", "max_tokens", "temperature", "stream", "stream_options"}
