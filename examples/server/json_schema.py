"""An answer that is JSON of a schema: python json_schema.py [URL]

Needs a server (mistralrs-server -p 1234 demo) and its client (pip install openai).
"""

import json
import sys

from openai import OpenAI

CITY = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{1,9}$"},
        "continent": {"enum": ["Africa", "America", "Asia", "Europe"]},
    },
    "required": ["name", "continent"],
    "additionalProperties": False,
}

client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:1234/v1", api_key="none")
answer = client.chat.completions.create(
    model="default",
    messages=[{"role": "user", "content": "Describe Paris."}],
    max_tokens=128,
    temperature=0,
    response_format={"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}},
)
city = json.loads(answer.choices[0].message.content)
print(f"{city['name']} is in {city['continent']}")
