"""An answer that keeps to a regular expression: python regex.py [MODEL.toml]"""

import sys

from mistralrs_onnx import ChatCompletionRequest, Runner, demo_model, read_selector

DATE = r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"

which = read_selector(sys.argv[1]).which if len(sys.argv) > 1 else demo_model()
request = ChatCompletionRequest(
    "When did people walk on the moon?", "demo", max_tokens=32, temperature=0, grammar=DATE, grammar_type="regex"
)
with Runner(which) as runner:
    print(runner.send_chat_completion_request(request).choices[0].message.content)
