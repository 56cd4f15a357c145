"""An answer that is JSON of a schema: python json_schema.py [MODEL.toml]"""

import json
import sys

from mistralrs_onnx import ChatCompletionRequest, Runner, demo_model, read_selector

CITY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,9}$"},
        "continent": {"enum": ["Africa", "America", "Asia", "Europe"]},
    },
    "required": ["name", "continent"],
    "additionalProperties": False,
}

which = read_selector(sys.argv[1]).which if len(sys.argv) > 1 else demo_model()
request = ChatCompletionRequest(
    "Describe Paris.", "demo", max_tokens=128, temperature=0, grammar=CITY, grammar_type="json_schema"
)
with Runner(which) as runner:
    city = json.loads(runner.send_chat_completion_request(request).choices[0].message.content)
print(f"{city['name']} is in {city['continent']}")
