"""A conversation, of which the model remembers what was said: python chat.py [MODEL.toml]"""

import sys

from mistralrs_onnx import ChatCompletionRequest, Runner, demo_model, read_selector

which = read_selector(sys.argv[1]).which if len(sys.argv) > 1 else demo_model()
messages = []
with Runner(which) as runner:
    for question in ("Name a color.", "Name a fruit of it."):
        messages.append({"role": "user", "content": question})
        request = ChatCompletionRequest(messages, "demo", max_tokens=32, temperature=0)
        answer = runner.send_chat_completion_request(request).choices[0].message
        messages.append({"role": answer.role, "content": answer.content})
        print(f"> {question}\n{answer.content}")
