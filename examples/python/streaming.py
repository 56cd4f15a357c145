"""An answer as it grows, and how fast it came: python streaming.py [MODEL.toml]"""

import sys

from mistralrs_onnx import ChatCompletionRequest, Runner, demo_model, read_selector

which = read_selector(sys.argv[1]).which if len(sys.argv) > 1 else demo_model()
request = ChatCompletionRequest("Why is the sky blue?", "demo", max_tokens=64, temperature=0, stream=True)
with Runner(which) as runner, runner.send_chat_completion_request(request) as chunks:
    for chunk in chunks:
        print(chunk.choices[0].delta.content, end="", flush=True)
print(f"\n{chunk.usage.completion_tokens} tokens, {chunk.usage.avg_compl_tok_per_sec:.1f} in a second")
