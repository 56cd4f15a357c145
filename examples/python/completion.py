"""The two likeliest of four ways to go on with a text: python completion.py [MODEL.toml]"""

import sys

from mistralrs_onnx import CompletionRequest, Runner, demo_model, read_selector

which = read_selector(sys.argv[1]).which if len(sys.argv) > 1 else demo_model()
request = CompletionRequest(
    "Once upon a time", "demo", echo_prompt=True, best_of=4, n_choices=2, max_tokens=24, suffix=" ...", seed=0
)
with Runner(which) as runner:
    for choice in runner.send_completion_request(request).choices:
        print(f"{choice.index}: {choice.text}")
