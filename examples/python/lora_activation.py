"""The same question with and without adapters: python lora_activation.py MODEL.toml NAME ...

The ordering file of MODEL.toml names the adapters in preload_adapters, so that they stay beside the model.
"""

import sys

from mistralrs_onnx import ChatCompletionRequest, Runner, read_selector

if len(sys.argv) < 3:
    sys.exit(__doc__)
which, names = read_selector(sys.argv[1]).which, sys.argv[2:]


def ask(runner, adapters=None):
    request = ChatCompletionRequest("Who are you?", "demo", max_tokens=32, temperature=0, adapters=adapters)
    return runner.send_chat_completion_request(request).choices[0].message.content


with Runner(which) as runner:
    print("base:", ask(runner, []))
    for name in names:
        print(f"{name}, of this request:", ask(runner, [name]))
        runner.activate_adapters([name])
        print(f"{name}, which is active:", ask(runner))
