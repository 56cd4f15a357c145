"""The same question to a model with each adapter, with none, and with all: python adapter_chat.py URL NAME ...

Needs a server with adapters and its client (pip install openai):
mistralrs-server -p 1234 --lora-modules sql=adapters/sql --lora-modules poem=adapters/poem plain -m MODEL
python adapter_chat.py http://127.0.0.1:1234/v1 sql poem
"""

import sys

from openai import OpenAI

if len(sys.argv) < 3:
    sys.exit(__doc__)
client, names = OpenAI(base_url=sys.argv[1], api_key="none"), sys.argv[2:]


def ask(adapters):
    answer = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Who are you?"}],
        max_tokens=32,
        temperature=0,
        extra_body={"adapters": adapters},
    )
    return answer.choices[0].message.content


print("base:", ask([]))
for name in names:
    print(f"{name}:", ask([name]))
print("all by halves:", ask([{"name": name, "weight": 0.5} for name in names]))
