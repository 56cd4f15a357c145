"""An answer as it grows, and what was counted: python streaming.py [URL]

Needs a server (mistralrs-server -p 1234 demo) and its client (pip install openai).
"""

import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:1234/v1", api_key="none")
chunks = client.chat.completions.create(
    model="default",
    messages=[{"role": "user", "content": "Why is the sky blue?"}],
    max_tokens=64,
    temperature=0,
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in chunks:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    else:  # the last one has the usage instead
        print(f"\n{chunk.usage.completion_tokens} tokens, after {chunk.usage.prompt_tokens} of the prompt")
