"""Many tasks of an event loop share one engine; one is left early, which frees its slot.

usage: python async_llm.py [MODEL]        needs: mistralrs-onnx[cpu]

MODEL: a package, a GGUF file, a folder of safetensors, the name of a repository of the hub, or demo (the default).
"""

import asyncio
import sys

from mistralrs_onnx import AsyncLLM, RequestOutputKind, SamplingParams


async def story(llm: AsyncLLM, name: str) -> None:
    params = SamplingParams(seed=1, max_tokens=24, output_kind=RequestOutputKind.DELTA)
    async for output in llm.generate(f"This is the story of {name}.", params):
        print(f"{name}: {output.outputs[0].text!r}")


async def main(model: str) -> None:
    async with AsyncLLM(model, max_model_len=256) as llm:
        await asyncio.gather(story(llm, "Ann"), story(llm, "Ben"))

        params = SamplingParams(seed=1, ignore_eos=True, max_tokens=200)
        async for output in llm.generate("Once upon a time", params, request_id="long"):
            if len(output.outputs[0].token_ids) >= 8:
                await llm.abort("long")
        answer = output.outputs[0]
        print(f"aborted after {len(answer.token_ids)} tokens ({answer.finish_reason}): {answer.text!r}")


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "demo"))
