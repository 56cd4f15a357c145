"""The model calls a function, and answers with what it said: python tools.py [URL]

Needs a server (mistralrs-server -p 1234 demo) and its client (pip install openai).
"""

import json
import sys

from openai import OpenAI

WEATHER = {
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def weather(city):
    return {"Oslo": "snow, -4 degrees", "Rome": "sun, 21 degrees"}[city]


client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:1234/v1", api_key="none")
options = {"model": "default", "tools": [{"type": "function", "function": WEATHER}], "max_tokens": 64, "temperature": 0}
messages = [{"role": "user", "content": "How is the weather in Rome?"}]
called = client.chat.completions.create(messages=messages, tool_choice="required", parallel_tool_calls=False, **options)
message = called.choices[0].message
call = message.tool_calls[0]
arguments = json.loads(call.function.arguments)
result = weather(**arguments)
print(f"The model calls {call.function.name} with {arguments}, which is: {result}")
messages += [message, {"role": "tool", "tool_call_id": call.id, "content": result}]
print(client.chat.completions.create(messages=messages, tool_choice="none", **options).choices[0].message.content)
