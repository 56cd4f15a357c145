"""The two likeliest of four ways to go on with a text: python completion.py [URL]

Needs a server (mistralrs-server -p 1234 demo) and its client (pip install openai).
"""

import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:1234/v1", api_key="none")
answer = client.completions.create(
    model="default", prompt="Once upon a time", echo=True, best_of=4, n=2, max_tokens=24, seed=0
)
for choice in answer.choices:
    print(f"{choice.index}: {choice.text}")
