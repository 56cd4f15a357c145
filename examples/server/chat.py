"""A conversation with what you type, of which the model remembers all: python chat.py [URL]

Needs a server (mistralrs-server -p 1234 demo) and its client (pip install openai). Ctrl-D ends it.
"""

import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:1234/v1", api_key="none")
messages = [{"role": "system", "content": "You are a helpful assistant."}]
while True:
    try:
        question = input("> ")
    except (EOFError, KeyboardInterrupt):
        print()
        break
    messages.append({"role": "user", "content": question})
    answer = client.chat.completions.create(model="default", messages=messages, max_tokens=128, temperature=0)
    messages.append({"role": "assistant", "content": answer.choices[0].message.content})
    print(answer.choices[0].message.content)
