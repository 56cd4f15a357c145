"""Many prompts in one call, all in one batch.

usage: python llm.py [MODEL]        needs: mistralrs-onnx[cpu]

MODEL: a package, a GGUF file, a folder of safetensors, the name of a repository of the hub, or demo (the default).
"""

import sys

from mistralrs_onnx import LLM, SamplingParams, StructuredOutputsParams

model = sys.argv[1] if len(sys.argv) > 1 else "demo"
prompts = ["The capital of France is", "The opposite of hot is", "One, two, three,"]

with LLM(model, max_model_len=256) as llm:
    for output in llm.generate(prompts, SamplingParams(temperature=0, max_tokens=8)):
        print(f"{output.prompt!r} -> {output.outputs[0].text!r}")

    print("\nTwo answers, with the log probability of each:")
    params = SamplingParams(n=2, seed=1, temperature=0.8, max_tokens=12, logprobs=0)
    for answer in llm.generate("My favourite colour is", params)[0].outputs:
        print(f"{answer.cumulative_logprob:8.2f} {answer.text!r}")

    print("\nAn answer that keeps to a form:")
    bound = SamplingParams(temperature=0, structured_outputs=StructuredOutputsParams(choice=["yes", "no"]))
    print(llm.generate("Is the sky blue? Answer:", bound)[0].outputs[0].text)

    greeting = SamplingParams(temperature=0, max_tokens=40)
    if llm.model.chat_template is not None:
        print("\nA chat, as it comes:")
        shown = ""
        for output in llm.stream_chat([{"role": "user", "content": "Say hello."}], greeting):
            print(output.outputs[0].text.removeprefix(shown), end="", flush=True)
            shown = output.outputs[0].text
        print()
