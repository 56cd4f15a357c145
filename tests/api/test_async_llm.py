"""Many tasks at once, on any event loop; what nobody waits for is freed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tiny_packages import alone, tiny_package

from mistralrs_onnx import AsyncLLM, EngineArgs, RequestError, RequestOutput, RequestOutputKind, SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=12)
ENDLESS = SamplingParams(max_tokens=240, ignore_eos=True)


@pytest.fixture(scope="module")
def package(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tiny_llama, tmp_path_factory.mktemp("async_llm"))


@pytest.fixture(scope="module")
def llm(package: Path) -> Iterator[AsyncLLM]:
    with AsyncLLM(package, max_num_seqs=4) as opened:
        yield opened


async def settle(llm: AsyncLLM) -> None:
    """Waits until nothing runs: a cancelled request is freed after the step that runs."""
    async with asyncio.timeout(20):
        while llm.stats().running or llm.stats().waiting:
            await asyncio.sleep(0.01)
    assert not llm._running


async def outputs_of(llm: AsyncLLM, prompt: Any, params: SamplingParams = GREEDY) -> list[RequestOutput]:
    return [output async for output in llm.generate(prompt, params)]


def test_outputs_hold_all_that_came_before(llm: AsyncLLM) -> None:
    outputs = asyncio.run(outputs_of(llm, "hello"))
    last = outputs[-1].outputs[0]
    assert last.token_ids == alone(llm.model.engine, llm.tokenize("hello"), temperature=0, max_tokens=12)
    assert last.text == llm.detokenize(last.token_ids)
    assert last.finish_reason == "length"
    assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
    for earlier, later in pairwise(outputs):
        assert later.outputs[0].text.startswith(earlier.outputs[0].text)
        assert len(later.outputs[0].token_ids) > len(earlier.outputs[0].token_ids)


def test_outputs_may_hold_what_is_new_or_be_only_the_last(llm: AsyncLLM) -> None:
    async def both() -> tuple[list[RequestOutput], list[RequestOutput]]:
        kinds = RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY
        params = [SamplingParams(seed=1, n=2, max_tokens=12, logprobs=0, output_kind=kind) for kind in kinds]
        return await outputs_of(llm, "hello", params[0]), await outputs_of(llm, "hello", params[1])

    deltas, (final,) = asyncio.run(both())
    for index, answer in enumerate(final.outputs):
        pieces = [piece for output in deltas for piece in output.outputs if piece.index == index]
        assert "".join(piece.text for piece in pieces) == answer.text
        assert sum((piece.token_ids for piece in pieces), ()) == answer.token_ids
        assert sum((piece.logprobs for piece in pieces), ()) == answer.logprobs
        assert pieces[-1].cumulative_logprob == answer.cumulative_logprob
        assert [piece.finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert final.finished


def test_the_best_answers_are_known_at_the_end(llm: AsyncLLM) -> None:
    outputs = asyncio.run(outputs_of(llm, "hello", SamplingParams(n=2, best_of=4, seed=1, max_tokens=8)))
    assert [len(output.outputs) for output in outputs] == [2]


def test_a_hundred_tasks_run_together_and_hold_up_nobody(llm: AsyncLLM) -> None:
    prompts = [[i % 90 + 1, i % 7] for i in range(100)]
    expected = [alone(llm.model.engine, prompt, temperature=0, max_tokens=12) for prompt in prompts]

    async def ticks() -> float:
        """The longest that the loop was held up."""
        longest = 0.0
        while True:
            before = time.perf_counter()
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                return longest
            longest = max(longest, time.perf_counter() - before)

    async def main() -> tuple[list[list[RequestOutput]], float]:
        clock = asyncio.create_task(ticks())
        found = await asyncio.gather(*(outputs_of(llm, prompt) for prompt in prompts))
        clock.cancel()
        await settle(llm)
        return found, await clock

    before = llm.stats().steps
    found, longest = asyncio.run(main())
    assert [outputs[-1].outputs[0].token_ids for outputs in found] == expected
    assert len({outputs[0].request_id for outputs in found}) == 100
    assert llm.stats().steps - before < 100 * 12 / 2  # four at a time
    assert longest < 1


def test_a_task_that_is_cancelled_frees_its_slot(llm: AsyncLLM) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(outputs_of(llm, "hello", ENDLESS)) for _ in range(10)]
        while llm.stats().running < 4:
            await asyncio.sleep(0.001)
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        await settle(llm)

    asyncio.run(main())


def test_an_iterator_that_is_closed_frees_its_slot(llm: AsyncLLM) -> None:
    async def main() -> None:
        async with aclosing(llm.generate("hello", ENDLESS)) as outputs:
            await anext(outputs)
        assert not llm._running
        async for _ in llm.generate("hello", ENDLESS):
            break
        await settle(llm)

    asyncio.run(main())


def test_abort_ends_a_request_with_what_it_has(llm: AsyncLLM) -> None:
    async def main() -> None:
        outputs = []
        async for output in llm.generate("hello", ENDLESS, "mine"):
            outputs.append(output)
            if len(outputs) == 3:
                await llm.abort("mine")
        last = outputs[-1]
        assert (last.request_id, last.finished, last.outputs[0].finish_reason) == ("mine", True, "abort")
        assert 3 <= len(last.outputs[0].token_ids) < 240
        await llm.abort("mine")
        await llm.abort("another")
        await settle(llm)

    asyncio.run(main())


def test_two_requests_of_one_id_are_refused(llm: AsyncLLM) -> None:
    async def main() -> None:
        async with aclosing(llm.generate("hello", ENDLESS, "same")) as first:
            await anext(first)
            with pytest.raises(RequestError, match="a request 'same' is running already"):
                await anext(llm.generate("hello", GREEDY, "same"))
            assert (await anext(first)).outputs
        assert [output async for output in llm.generate("hello", GREEDY, "same")]

    asyncio.run(main())


def test_mistakes_are_told_to_the_task_that_made_them(llm: AsyncLLM) -> None:
    async def main() -> None:
        good = asyncio.create_task(outputs_of(llm, "hello"))
        for prompt in ("a" * 300, [], {"text": "a"}, [5000]):
            with pytest.raises(RequestError):
                await outputs_of(llm, prompt)
        assert (await good)[-1].finished
        await settle(llm)

    asyncio.run(main())


def test_chats_are_written_by_the_template(llm: AsyncLLM) -> None:
    async def main() -> None:
        outputs = [output async for output in llm.chat([{"role": "user", "content": "hi"}], GREEDY)]
        assert outputs[-1].prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        again = await outputs_of(llm, list(outputs[-1].prompt_token_ids))
        assert again[-1].outputs == outputs[-1].outputs

    asyncio.run(main())


def test_loops_of_several_threads_share_one_engine(llm: AsyncLLM) -> None:
    expected = asyncio.run(outputs_of(llm, "hello"))[-1].outputs
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(asyncio.run(outputs_of(llm, "hello"))[-1].outputs))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [expected] * 8


def test_a_loop_that_ends_early_frees_its_slots(llm: AsyncLLM) -> None:
    loop = asyncio.new_event_loop()
    outputs = llm.generate("hello", ENDLESS)
    loop.run_until_complete(anext(outputs))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()  # without a word to the iterator
    deadline = time.monotonic() + 20
    while llm.stats().running:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    del outputs
    assert not llm._running


def test_shutdown_ends_what_runs(package: Path) -> None:
    async def main() -> None:
        async with AsyncLLM.from_engine_args(EngineArgs(package, max_num_seqs=2)) as llm:
            tasks = [asyncio.create_task(outputs_of(llm, "hello", ENDLESS)) for _ in range(6)]
            while not llm.stats().running:
                await asyncio.sleep(0.001)
        for outputs in await asyncio.gather(*tasks):
            assert outputs[-1].outputs[0].finish_reason == "abort"
        with pytest.raises(RequestError, match="the model is closed: load it again"):
            await outputs_of(llm, "hello")
        llm.shutdown()

    asyncio.run(main())
