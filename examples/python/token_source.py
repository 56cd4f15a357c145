"""A model of the hub that wants a token: python token_source.py MODEL.toml [SOURCE]

SOURCE says where the token is: env:NAME, path:FILE, cache (of `hf auth login`), none, or literal:VALUE.
"""

import sys

from mistralrs_onnx import CompletionRequest, Runner, demo_model, read_selector

which = read_selector(sys.argv[1]).which if len(sys.argv) > 1 else demo_model()
source = sys.argv[2] if len(sys.argv) > 2 else "cache"
with Runner(which, token_source=source) as runner:
    response = runner.send_completion_request(CompletionRequest("The sky is", "demo", max_tokens=8, temperature=0))
print(response.choices[0].text)
