"""A Runner from its beginning to its end: models, drafts, adapters, another type of weights, many threads."""

from __future__ import annotations

import inspect
import json
import logging
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from golden import read_golden
from tiny_adapters import linears, write_adapter
from tiny_models import write_folder
from tiny_runners import chat, chat_request, complete, said, tiny_runner, tiny_which
from tiny_xlora import write_xlora
from xlora_serving import llama_modules

from mistralrs_onnx.model import Model
from mistralrs_onnx.re_isq import re_isq
from mistralrs_onnx.requests import CompletionRequest
from mistralrs_onnx.runner import Runner
from mistralrs_onnx.runtime.uncached import Uncached
from mistralrs_onnx.which import Which

SIGNATURE = (
    "which max_seqs no_kv_cache prefix_cache_n token_source speculative_gamma which_draft chat_template "
    "num_device_layers in_situ_quant"
)
LLAMA = read_golden()["llama"].model
NO_END = {97: -100.0}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRALRS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def which(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Which.GGUF:
    return tiny_which(tiny_llama, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def runner(which: Which.GGUF) -> Iterator[Runner]:
    with tiny_runner(which) as runner:
        yield runner


def model_of(runner: Runner) -> Any:
    assert runner._model is not None
    return runner._model


def test_the_signature_is_mistralrs() -> None:
    parameters = inspect.signature(Runner).parameters.values()
    assert [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY] == SIGNATURE.split()


def test_nothing_of_the_program_is_touched(which: Which.GGUF) -> None:
    def state() -> list[Any]:
        return [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), list(logging.getLogger().handlers)]

    before, threads = state(), threading.active_count()
    with tiny_runner(which) as runner:
        said(runner)
        assert state() == before
    assert threading.active_count() == threads


def test_what_threads_send_at_once_runs_at_once(runner: Runner) -> None:
    prompts = [f"say {i}" for i in range(8)]
    alone = [said(runner, prompt, max_tokens=40, logit_bias=NO_END) for prompt in prompts]
    steps = model_of(runner).engine.stats().steps
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda prompt: said(runner, prompt, max_tokens=40, logit_bias=NO_END), prompts))
    assert together == alone
    assert model_of(runner).engine.stats().steps - steps < 8 * 40 / 2


@pytest.mark.parametrize(
    "options",
    [{"no_kv_cache": True}, {"prefix_cache_n": 0}, {"max_seqs": 1}, {"max_model_len": 100}, {"num_device_layers": 0}],
)
def test_options_change_no_answer(which: Which.GGUF, runner: Runner, options: dict[str, Any]) -> None:
    with tiny_runner(which, **options) as other:
        assert said(other) == said(runner)
        assert model_of(other).context_length == options.get("max_model_len", 256)


def test_without_a_kv_cache_nothing_is_kept(which: Which.GGUF) -> None:
    with tiny_runner(which, no_kv_cache=True) as runner:
        for _ in range(2):
            said(runner)
        assert model_of(runner).engine.stats().prefix_hit_tokens == 0
        assert isinstance(model_of(runner).engine._runner, Uncached)


def test_prompts_that_are_too_long_may_be_cut_off(which: Which.GGUF) -> None:
    with tiny_runner(which, max_model_len=64, truncate_sequence=True) as runner:
        assert complete(runner, "abcdefghij" * 10, max_tokens=4).usage.prompt_tokens == 60


def test_penalties_look_back_as_far_as_the_choice_says(which: Which.GGUF) -> None:
    with tiny_runner(Which.GGUF(None, which.quantized_model_id, which.quantized_filename, repeat_last_n=5)) as runner:
        assert model_of(runner).defaults["repeat_last_n"] == 5


def test_weights_are_quantized_on_the_way_in(which: Which.GGUF) -> None:
    with tiny_runner(which, in_situ_quant="8") as runner:
        assert weight_type(runner) == "Q8_0"
        assert said(runner)


def weight_type(runner: Runner) -> str:
    kind: str = model_of(runner).manifest.tensors["model.layers.0.mlp.up_proj.weight"].type
    return kind


def test_another_type_takes_the_place_and_requests_in_flight_keep_theirs(which: Which.GGUF, runner: Runner) -> None:
    before = said(runner, max_tokens=60, logit_bias=NO_END)
    with tiny_runner(which) as other:
        chunks: Any = other.send_chat_completion_request(chat_request(max_tokens=60, logit_bias=NO_END, stream=True))
        text = next(chunks).choices[0].delta.content
        other.send_re_isq("Q4_0")
        assert weight_type(other) == "Q4_0"
        assert text + "".join(chunk.choices[0].delta.content for chunk in chunks) == before
        assert said(other, max_tokens=60, logit_bias=NO_END) != before


def test_a_type_that_is_unknown_changes_nothing(runner: Runner) -> None:
    with pytest.raises(ValueError, match="'Q4_9' is unknown, did you mean"):
        runner.send_re_isq("Q4_9")
    assert weight_type(runner) == "F32"


def test_requests_go_on_while_types_change(which: Which.GGUF) -> None:
    """None is refused, and none finds a model that is closed."""
    with tiny_runner(which) as runner, ThreadPoolExecutor(4) as pool:
        ended = threading.Event()

        def ask() -> int:
            count = 0
            while not ended.is_set() or count == 0:
                assert chat(runner, max_tokens=3, grammar="[a-z]+", grammar_type="regex").choices[0].message.content
                count += 1
            return count

        asking = [pool.submit(ask) for _ in range(4)]
        try:
            for kind in ("8", "Q4_0", "8"):
                runner.send_re_isq(kind)
        finally:
            ended.set()
        assert all(each.result() for each in asking)


def test_a_runner_that_is_closed_meanwhile_stays_closed(which: Which.GGUF, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def re_isq_and_close(*args: Any, **how: Any) -> Model:
        made.append(re_isq(*args, **how))
        runner.close()
        return made[0]

    runner = tiny_runner(which)
    monkeypatch.setattr("mistralrs_onnx.runner.re_isq", re_isq_and_close)
    with pytest.raises(ValueError, match="this Runner is closed"):
        runner.send_re_isq("8")
    assert runner._model is None
    assert not made[0].engine._thread.is_alive()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A model with two adapters beside it, of which the first is active."""
    folder = tmp_path_factory.mktemp("adapted")
    for seed, name in enumerate(("sql", "poem")):
        write_adapter(folder / "adapters" / name, linears(LLAMA.shapes), seed=seed)
    base = str(write_folder(LLAMA, folder / "base"))
    preloads = [{"name": name, "adapter_model_id": str(folder / "adapters")} for name in ("sql", "poem")]
    order = folder / "order.json"
    order.write_text(json.dumps({"order": ["sql"], "base_model_id": base, "preload_adapters": preloads}))
    with tiny_runner(Which.Lora("llama", str(folder / "adapters"), str(order))) as runner:
        yield runner


def adapted_text(runner: Runner, adapters: list[str] | None = None) -> str:
    return complete(runner, "abcab", adapters=adapters).choices[0].text


def test_requests_choose_adapters(adapted: Runner) -> None:
    assert adapted_text(adapted) == adapted_text(adapted, ["sql"])
    texts = {adapted_text(adapted, names) for names in ([], ["sql"], ["poem"], ["sql", "poem"])}
    assert len(texts) == 4


def test_adapters_are_activated_for_those_that_do_not_say(adapted: Runner) -> None:
    adapted.activate_adapters(["poem"])
    assert adapted_text(adapted) == adapted_text(adapted, ["poem"])
    with pytest.raises(ValueError, match="'prose'"):
        adapted.activate_adapters(["prose"])
    assert adapted_text(adapted) == adapted_text(adapted, ["poem"])
    adapted.activate_adapters(["sql"])


def test_adapters_stay_when_the_type_changes(adapted: Runner) -> None:
    adapted.activate_adapters(["poem"])
    adapted.send_re_isq("8")
    assert weight_type(adapted) == "Q8_0"
    assert adapted_text(adapted) == adapted_text(adapted, ["poem"]) != adapted_text(adapted, ["sql"])


def test_an_xlora_mixes_its_own(tmp_path: Path) -> None:
    base = write_folder(LLAMA, tmp_path / "base")
    xlora = write_xlora(tmp_path / "xlora", llama_modules(LLAMA.config), 64, layerwise_scalings=True, base=str(base))
    which = Which.XLora("llama", str(xlora.folder), str(xlora.ordering))
    with tiny_runner(which) as each, tiny_runner(replace(which, tgt_non_granular_index=1)) as kept:
        own, first = (complete(runner, "ab", temperature=0, max_tokens=40).choices[0].text for runner in (each, kept))
        assert own != first
        for ask in (lambda: adapted_text(each, ["first"]), lambda: each.activate_adapters(["first"])):
            with pytest.raises(ValueError, match=r"mixes its own adapters \(first, second, third\)"):
                ask()


def test_a_model_without_adapters_has_none_to_activate(runner: Runner) -> None:
    with pytest.raises(ValueError, match="tiny was loaded without adapters: name some in preload_adapters"):
        runner.activate_adapters(["sql"])


def test_a_draft_changes_no_answer(which: Which.GGUF, runner: Runner, tiny_llama: Any, tmp_path: Path) -> None:
    small = tiny_which(tiny_llama, tmp_path, "small", layers=1)
    with tiny_runner(which, which_draft=small, speculative_gamma=3) as drafted:
        assert said(drafted, max_tokens=60) == said(runner, max_tokens=60)
        assert model_of(drafted).engine.stats().draft_tokens > 0


def test_a_draft_of_another_vocabulary_is_refused(which: Which.GGUF, tiny_llama: Any, tmp_path: Path) -> None:
    other = tiny_which(tiny_llama, tmp_path, tokens=[*map(chr, range(34, 128)), "Ġ", "Ċ", "ab", "<|end|>"])
    with pytest.raises(ValueError, match="has another vocabulary than the model"):
        tiny_runner(which, which_draft=other)


def test_a_closed_runner_answers_no_more(which: Which.GGUF) -> None:
    runner = tiny_runner(which)
    chunks: Any = runner.send_chat_completion_request(chat_request(max_tokens=None, stream=True, logit_bias=NO_END))
    next(chunks)
    runner.close()
    runner.close()
    with pytest.raises(ValueError, match="the answer ended early"):
        list(chunks)
    for ask in (lambda: said(runner), lambda: runner.send_re_isq("8"), lambda: runner.activate_adapters([])):
        with pytest.raises(ValueError, match="this Runner is closed: make another"):
            ask()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_device_layers": 4}, "num_device_layers is 4, and there is one device, which takes all layers"),
        ({"in_situ_quant": "Q4_9"}, "'Q4_9' is unknown"),
        ({"token_source": "literl:x"}, "literal"),
        ({"chat_template": "chatlm"}, "chat template 'chatlm' is not known, .* the nearest is chatml"),
        ({"max_model_len": 1000}, "exceeds the model's context of 256"),
        ({"max_seqs": 0}, "max_seqs"),
        ({"prefix_cache_n": -1}, "prefix_cache_n must be at least 0"),
        ({"device": "gpu"}, "device must be cpu, cuda or cuda:N, got 'gpu'"),
        ({"which_draft": Which.VisionPlain("eyes")}, "models that see are not supported"),
    ],
)
def test_options_that_cannot_be_are_value_errors(which: Which.GGUF, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        tiny_runner(which, **options)


def test_gamma_is_checked_before_a_draft_is_compiled(which: Which.GGUF) -> None:
    with pytest.raises(ValueError, match="gamma must be from 1 to 64 tokens, got 65"):
        tiny_runner(which, which_draft=Which.Plain("nowhere"), speculative_gamma=65)


def test_models_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"which must be one of Which\.Plain, Which\.XLora, .*, got str"):
        Runner("model")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="models that see are not supported"):
        Runner(Which.VisionPlain("eyes"))
    with pytest.raises(ValueError, match=str(tmp_path)):
        Runner(Which.GGUF(None, str(tmp_path), "none.gguf"))


def test_each_request_has_its_way_to_be_sent(runner: Runner) -> None:
    with pytest.raises(TypeError, match="a ChatCompletionRequest is sent this way, got CompletionRequest"):
        runner.send_chat_completion_request(CompletionRequest("a", "tiny"))  # type: ignore[arg-type]


def test_a_model_without_template_says_what_to_do(which: Which.GGUF) -> None:
    with tiny_runner(which, chat_template=None) as runner, pytest.raises(ValueError, match="has no chat template"):
        said(runner)
