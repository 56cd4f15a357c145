"""A smaller model guesses, the larger one checks: python speculative.py [MODEL.toml]

Without a file, SmolLM2-135M guesses for itself, which shows how it is called and is no faster.
"""

import sys

from mistralrs_onnx import ChatCompletionRequest, Runner, demo_model, read_selector
from mistralrs_onnx.selector import Selection

chosen = read_selector(sys.argv[1]) if len(sys.argv) > 1 else Selection(demo_model(), demo_model(), 4)
request = ChatCompletionRequest("Why is the sky blue?", "demo", max_tokens=64, temperature=0)
with Runner(chosen.which, which_draft=chosen.draft, speculative_gamma=chosen.gamma or 32) as runner:
    response = runner.send_chat_completion_request(request)
print(response.choices[0].message.content)
print(f"{response.usage.avg_compl_tok_per_sec:.1f} tokens in a second")
