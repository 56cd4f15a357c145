"""Many prompts in one call: the same answers as one after the other, in the order of the prompts."""

from __future__ import annotations

import io
import logging
import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
from golden import read_golden
from tiny_adapters import linears, write_adapter
from tiny_models import write_folder
from tiny_packages import CONTEXT, alone, tiny_package

from mistralrs_onnx import (
    LLM,
    CompileError,
    EngineArgs,
    EngineOptions,
    LoadOptions,
    RequestError,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
    StructuredOutputsParams,
)
from mistralrs_onnx.model import load

PROMPTS = ["a", "hello world", "to be or not to be", "x" * 100, "the sea"]
GREEDY = SamplingParams(temperature=0, max_tokens=12)


@pytest.fixture(scope="module")
def package(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tiny_llama, tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def llm(package: Path) -> Iterator[LLM]:
    with LLM(package, max_num_seqs=4) as opened:
        yield opened


def settle(llm: LLM) -> None:
    """Waits until nothing runs: a cancelled request is freed after the step that runs."""
    deadline = time.monotonic() + 20
    while llm.stats().running or llm.stats().waiting:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def texts(outputs: list[RequestOutput]) -> list[str]:
    return [output.outputs[0].text for output in outputs]


def test_a_batch_is_as_each_prompt_alone(llm: LLM) -> None:
    before = llm.stats().steps
    outputs = llm.generate(PROMPTS, GREEDY)
    assert llm.stats().steps - before < 12 * len(PROMPTS)  # they ran together
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        ids = llm.tokenize(prompt)
        assert (output.prompt, output.prompt_token_ids) == (prompt, tuple(ids))
        assert output.outputs[0].token_ids == alone(llm.model.engine, ids, temperature=0, max_tokens=12)
        assert output.outputs[0].text == llm.detokenize(output.outputs[0].token_ids)
        assert output.outputs[0].finish_reason == "length"
        assert output.outputs[0].finished()
        assert output.finished
    assert len({output.request_id for output in outputs}) == len(PROMPTS)


def test_prompts_have_many_forms(llm: LLM) -> None:
    ids = llm.tokenize("hello")
    expected = texts(llm.generate("hello", GREEDY))
    forms = [ids, {"prompt": "hello"}, {"prompt_token_ids": ids}, {"prompt": "hello", "prompt_token_ids": ids}]
    assert texts(llm.generate(forms, GREEDY)) == expected * 4
    assert texts(llm.generate(ids, GREEDY)) == expected
    assert texts(llm.generate([ids, ids], GREEDY)) == expected * 2
    assert llm.generate(ids, GREEDY)[0].prompt is None
    assert llm.generate(forms[3], GREEDY)[0].prompt == "hello"
    assert llm.generate([], GREEDY) == []


def test_each_prompt_may_have_its_own_parameters(llm: LLM) -> None:
    params = [SamplingParams(temperature=0, max_tokens=length) for length in range(1, 6)]
    assert [len(output.outputs[0].token_ids) for output in llm.generate(PROMPTS, params)] == [1, 2, 3, 4, 5]
    with pytest.raises(RequestError, match="sampling_params has 5 entries for 1 prompts"):
        llm.generate("a", params)


def test_without_parameters_the_model_recommends_them(llm: LLM) -> None:
    assert llm.get_default_sampling_params() == SamplingParams()
    lengths = [len(each.outputs[0].token_ids) for each in llm.generate(["a"] * 20)]  # some draw an end
    assert max(lengths) == 16


def test_what_a_package_recommends_and_what_the_loading_said_are_the_defaults(package: Path, tmp_path: Path) -> None:
    options = LoadOptions(repeat_last_n=3)
    with LLM(package, options=options) as llm:
        assert llm.get_default_sampling_params() == SamplingParams(repeat_last_n=3)
        punished = {"temperature": 0, "max_tokens": 40, "repetition_penalty": 5.0}
        ids = llm.tokenize("abc")
        expected = alone(llm.model.engine, ids, repeat_last_n=3, **punished)
        assert llm.generate(ids, SamplingParams(**punished))[0].outputs[0].token_ids == expected
        of_all = llm.generate(ids, SamplingParams(**punished, repeat_last_n=0))[0].outputs[0].token_ids
        assert of_all == alone(llm.model.engine, ids, repeat_last_n=0, **punished) != expected


def test_n_answers_differ_and_can_be_had_again(llm: LLM) -> None:
    params = SamplingParams(n=3, seed=5, max_tokens=10)
    first, second = (llm.generate("hello", params)[0].outputs for _ in range(2))
    assert first == second
    assert [answer.index for answer in first] == [0, 1, 2]
    assert len({answer.token_ids for answer in first}) == 3
    ids = llm.tokenize("hello")
    assert [a.token_ids for a in first] == [alone(llm.model.engine, ids, seed=5 + i, max_tokens=10) for i in range(3)]


def test_the_best_have_the_highest_mean_log_probability(llm: LLM) -> None:
    every = llm.generate("hello", SamplingParams(n=6, seed=1, max_tokens=10, logprobs=0))[0].outputs
    means = {answer.token_ids: answer.cumulative_logprob / len(answer.token_ids) for answer in every}
    best = llm.generate("hello", SamplingParams(n=2, best_of=6, seed=1, max_tokens=10))[0].outputs
    assert [answer.token_ids for answer in best] == sorted(means, key=means.__getitem__)[: -2 - 1 : -1]
    assert [answer.index for answer in best] == [0, 1]
    assert all(answer.logprobs is None and answer.cumulative_logprob is None for answer in best)


def test_log_probabilities_are_told_for_each_token(llm: LLM) -> None:
    answer = llm.generate("hello", SamplingParams(seed=1, max_tokens=8, logprobs=3))[0].outputs[0]
    assert len(answer.logprobs) == 8
    for token_id, told in zip(answer.token_ids, answer.logprobs, strict=True):
        assert next(iter(told)) == token_id
        assert sorted(entry.rank for entry in told.values() if entry.rank) == [1, 2, 3]
        assert len(told) in (3, 4)
        assert told[token_id].decoded_token == llm.detokenize([token_id])
    total = sum(told[token_id].logprob for token_id, told in zip(answer.token_ids, answer.logprobs, strict=True))
    assert answer.cumulative_logprob == pytest.approx(total)
    assert math.exp(max(entry.logprob for entry in answer.logprobs[0].values())) <= 1


def test_prompts_are_scored(llm: LLM) -> None:
    output = llm.generate("hello", SamplingParams(temperature=0, max_tokens=4, prompt_logprobs=1))[0]
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
    for token_id, told in zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True):
        assert told[token_id].logprob < 0
        assert min(entry.rank for entry in told.values() if entry.rank) == 1
    # What the model says before the third token is what it says when it is to write it.
    written = llm.generate([*output.prompt_token_ids[:2]], SamplingParams(temperature=0, max_tokens=1, logprobs=1))[0]
    best = next(entry.logprob for entry in output.prompt_logprobs[2].values() if entry.rank == 1)
    assert written.outputs[0].cumulative_logprob == best


def test_stops_end_the_answer(llm: LLM) -> None:
    text = llm.generate("hello", GREEDY)[0].outputs[0].text
    stop = text[4:6]
    for given in (stop, [stop]):
        cut = llm.generate("hello", SamplingParams(temperature=0, max_tokens=12, stop=given))[0].outputs[0]
        assert (cut.text, cut.finish_reason, cut.stop_reason) == (text[: text.index(stop)], "stop", stop)
    kept = SamplingParams(temperature=0, max_tokens=12, stop=stop, include_stop_str_in_output=True)
    assert llm.generate("hello", kept)[0].outputs[0].text == text[: text.index(stop) + 2]
    token_id = llm.tokenize(text[3])[0]
    by_id = llm.generate("hello", SamplingParams(temperature=0, max_tokens=12, stop_token_ids=[token_id]))[0].outputs[0]
    assert (by_id.finish_reason, by_id.stop_reason) == ("stop", token_id)


def test_answers_keep_to_what_they_are_bound_to(llm: LLM) -> None:
    choices = SamplingParams(max_tokens=20, structured_outputs=StructuredOutputsParams(choice=["red", "green"]))
    assert {output.outputs[0].text for output in llm.generate(["a"] * 8, choices)} <= {"red", "green"}
    yacc = SamplingParams(max_tokens=20, grammar={"type": "regex", "value": "[0-9]{3}"})
    assert llm.generate("a", yacc)[0].outputs[0].text.isdigit()
    words = SamplingParams(
        temperature=0, max_tokens=12, bad_words=[llm.generate("hello", GREEDY)[0].outputs[0].text[0]]
    )
    assert words.bad_words[0] not in llm.generate("hello", words)[0].outputs[0].text
    allowed = SamplingParams(max_tokens=12, allowed_token_ids=llm.tokenize("xyz"), temperature=1)
    assert set(llm.generate("hello", allowed)[0].outputs[0].text) <= set("xyz")


def test_prompts_are_cut_where_that_is_asked_for(llm: LLM) -> None:
    with pytest.raises(RequestError, match="the context holds 256 tokens"):
        llm.generate("a" * 300, GREEDY)
    cut = llm.generate("a" * 290 + "hello", SamplingParams(temperature=0, max_tokens=12, truncate_prompt_tokens=5))[0]
    assert list(cut.prompt_token_ids) == llm.tokenize("hello")
    assert cut.outputs == llm.generate("hello", GREEDY)[0].outputs
    fitted = llm.generate("a" * 300, SamplingParams(temperature=0, max_tokens=12, truncate_prompt_tokens=-1))[0]
    assert len(fitted.prompt_token_ids) == CONTEXT - 12


@pytest.mark.parametrize("max_tokens", [None, 9000])
def test_an_answer_ends_where_the_context_does(llm: LLM, max_tokens: int | None) -> None:
    params = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    answer = llm.generate("hello", params)[0].outputs[0]
    assert (len(answer.token_ids), answer.finish_reason) == (CONTEXT - len(llm.tokenize("hello")), "length")
    assert params.max_tokens == max_tokens


def test_a_chat_is_written_by_the_template(llm: LLM) -> None:
    one = [{"role": "user", "content": "hi"}]
    other = [{"role": "user", "content": [{"type": "text", "text": "b"}, {"type": "text", "text": "ye"}]}]
    outputs = llm.chat([one, other], GREEDY)
    assert [output.prompt for output in outputs] == [
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\nbye<|im_end|>\n<|im_start|>assistant\n",
    ]
    assert llm.chat(one, GREEDY)[0].outputs == outputs[0].outputs
    assert texts(outputs) == texts([llm.generate(list(output.prompt_token_ids), GREEDY)[0] for output in outputs])
    bare = llm.chat(one, GREEDY, add_generation_prompt=False)[0]
    assert bare.prompt == "<|im_start|>user\nhi<|im_end|>\n"
    assert llm.chat([], GREEDY)[0].prompt == "<|im_start|>assistant\n"


def test_a_model_without_template_does_not_chat(tiny_llama: Any, tmp_path: Path) -> None:
    bare = tiny_package(tiny_llama, tmp_path, chat_template=None)
    with LLM(bare) as llm, pytest.raises(RequestError, match="has no chat template: use generate"):
        llm.chat([{"role": "user", "content": "hi"}])


def test_one_bad_prompt_ends_the_others(llm: LLM) -> None:
    with pytest.raises(RequestError, match="context"):
        llm.generate([*PROMPTS, "a" * 300], SamplingParams(max_tokens=100))
    with pytest.raises(RequestError, match="there is no adapter 'sql'"):
        llm.generate("a", adapter="sql")
    with pytest.raises(TypeError, match=r"sampling_params must be SamplingParams, got \{'temperature': 1\}"):
        llm.generate("a", cast(Any, {"temperature": 1}))
    settle(llm)


def test_more_prompts_than_a_server_lets_wait(llm: LLM) -> None:
    outputs = llm.generate([[i % 90] for i in range(700)], SamplingParams(temperature=0, max_tokens=1))
    assert [output.prompt_token_ids for output in outputs] == [(i % 90,) for i in range(700)]


def test_a_queue_that_was_asked_for_is_kept_to(package: Path) -> None:
    options = LoadOptions(EngineOptions(max_seqs=1, max_queue=1))
    with LLM(package, options=options) as llm:
        with pytest.raises(RequestError, match="all this server takes") as caught:
            llm.generate(["a"] * 9, SamplingParams(max_tokens=200, ignore_eos=True))
        assert caught.value.status == 429
        settle(llm)


def test_threads_share_one_engine(llm: LLM) -> None:
    expected = texts(llm.generate(PROMPTS, GREEDY))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: texts(llm.generate(PROMPTS, GREEDY)), range(16)))
    assert answers == [expected] * 16


def test_a_stream_grows_and_its_end_frees_the_slot(llm: LLM) -> None:
    outputs = list(llm.stream("hello", GREEDY))
    assert outputs[-1].outputs == llm.generate("hello", GREEDY)[0].outputs
    assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
    assert len(outputs) > 3
    kind = SamplingParams(temperature=0, max_tokens=12, output_kind=RequestOutputKind.DELTA)
    pieces = [output.outputs[0] for output in llm.stream("hello", kind)]
    assert "".join(piece.text for piece in pieces) == outputs[-1].outputs[0].text
    assert sum((piece.token_ids for piece in pieces), ()) == outputs[-1].outputs[0].token_ids
    begun = llm.stream_chat([{"role": "user", "content": "hi"}], SamplingParams(max_tokens=200, ignore_eos=True))
    next(begun)
    begun.close()
    settle(llm)


def test_an_interrupt_ends_what_runs(llm: LLM) -> None:
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        llm.generate(["a"] * 400, SamplingParams(max_tokens=200, ignore_eos=True))
    timer.join()
    settle(llm)


def test_closing_ends_what_runs(package: Path) -> None:
    llm = LLM(package)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(llm.generate, ["a"] * 40, SamplingParams(max_tokens=250, ignore_eos=True))
        while llm.stats().running + llm.stats().waiting < 40:
            time.sleep(0.001)
        llm.close()
        reasons = [output.outputs[0].finish_reason for output in running.result(20)]
    assert reasons == ["abort"] * 40
    with pytest.raises(RequestError, match="the model is closed: load it again"):
        llm.generate("a")
    assert not llm.model.engine._thread.is_alive()


def test_a_model_that_others_close_says_so(package: Path) -> None:
    with load(package) as model:
        llm = LLM.of(model)
    with pytest.raises(RequestError, match="the model is closed: load it again"):
        llm.generate("a")


def test_a_model_that_is_loaded_already_stays_open(package: Path) -> None:
    with load(package) as model:
        with LLM.of(model) as llm, LLM.of(model) as other:
            assert texts(llm.generate("a", GREEDY)) == texts(other.generate("a", GREEDY))
        assert LLM.of(model).generate("a", GREEDY)


def test_engine_args_say_the_same(package: Path) -> None:
    with LLM.from_engine_args(EngineArgs(package, max_model_len=64)) as llm:
        assert llm.model.context_length == 64
        assert llm.get_tokenizer().encode("a").ids == llm.tokenize("a")


def test_prompts_choose_adapters_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    described = read_golden()["llama"].model
    folder = write_folder(described, tmp_path / "tiny")
    adapters = {name: write_adapter(tmp_path / name, linears(described.shapes), seed=i) for i, name in enumerate("ab")}
    with LLM(folder, adapters=adapters) as llm:
        ids = [5, 6, 7]
        base, one, other, both = llm.generate([ids] * 4, GREEDY, adapter=[None, "a", "b", {"a": 0.5, "b": 1.0}])
        assert (base.adapter, one.adapter) == (None, "a")
        assert len({output.outputs[0].token_ids for output in (base, one, other, both)}) == 4
        assert llm.generate([ids, ids], GREEDY, adapter="a")[1].outputs == one.outputs
        with pytest.raises(RequestError, match="does not exist"):
            llm.generate(ids, adapter="c")


def test_a_checkpoint_is_compiled_once(tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    gguf = tiny_llama(tmp_path / "tiny.gguf").write()
    stages: list[str] = []
    with LLM(gguf, report=lambda progress: stages.append(progress.stage)) as llm:
        first = texts(llm.generate("hello", GREEDY))
    assert "write" in stages
    stages.clear()
    with LLM(tmp_path, filename="tiny.gguf", report=lambda progress: stages.append(progress.stage)) as llm:
        assert texts(llm.generate("hello", GREEDY)) == first
    assert "write" not in stages


def test_what_is_compiled_is_not_compiled_otherwise(package: Path) -> None:
    with pytest.raises(CompileError, match="is compiled already: isq 'Q4K' comes too late"):
        LLM(package, isq="Q4K")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_is_shown_on_terminals_where_asked_for(
    llm: LLM, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm.generate(PROMPTS, GREEDY, progress=True)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", Terminal())
    llm.generate(PROMPTS, GREEDY)
    assert sys.stderr.getvalue() == ""
    llm.generate(PROMPTS, GREEDY, progress=True)
    assert "Prompts" in sys.stderr.getvalue()


def test_templates_are_shown_tools_and_variables(tiny_llama: Any, tmp_path: Path) -> None:
    template = tmp_path / "own.jinja"
    template.write_text("{% for tool in tools or [] %}{{ tool.function.name }};{% endfor %}{{ tone }}")
    with LLM(tiny_package(tiny_llama, tmp_path, chat_template=str(template))) as llm:
        tools = [{"type": "function", "function": {"name": name}} for name in ("add", "sub")]
        hi = [{"role": "user", "content": "hi"}]
        told = llm.chat(hi, GREEDY, tools=tools, chat_template_kwargs={"tone": "calm"})[0]
        assert told.prompt == "add;sub;calm"
        assert llm.apply_chat_template(hi, chat_template_kwargs={"tone": "x"}) == "x"


def test_the_process_stays_as_it_was(package: Path) -> None:
    """Its signal handlers, its loggers' handlers, its threads."""

    def state() -> Any:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        return handlers, list(logging.getLogger().handlers), logging.getLogger("mistralrs_onnx").handlers

    before, threads = state(), threading.active_count()
    with LLM(package) as llm:
        llm.generate("a", SamplingParams(max_tokens=2, structured_outputs={"regex": "a"}))
        assert state() == before
    assert state() == before
    assert threading.active_count() == threads


def test_the_real_model_answers_a_batch(smollm2: Any) -> None:
    params = SamplingParams(temperature=0, max_tokens=3)
    with LLM(smollm2.path, max_model_len=128, options=LoadOptions(determinism="fast")) as llm:
        prompts = ["The capital of France is", "The opposite of hot is"]
        outputs = llm.generate(prompts, params)
        assert texts(outputs)[0].startswith(" Paris")
        assert [output.outputs for output in outputs] == [llm.generate(each, params)[0].outputs for each in prompts]
