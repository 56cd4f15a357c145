"""Of a second turn, only what is new is read: python prefix_cache.py [URL]

Needs a server (mistralrs-server -p 1234 demo) and its client (pip install openai).
"""

import sys
from uuid import uuid4

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:1234/v1", api_key="none")
salt = uuid4().hex  # shares nothing with other conversations, so that the first turn finds nothing
messages = [{"role": "system", "content": "You are a gardener who answers in one short sentence."}]
for question in ("When do I plant tulips?", "And when do they bloom?"):
    messages.append({"role": "user", "content": question})
    answer = client.chat.completions.create(
        model="default", messages=messages, max_tokens=32, temperature=0, extra_body={"cache_salt": salt}
    )
    messages.append({"role": "assistant", "content": answer.choices[0].message.content})
    print(f"> {question}\n{answer.choices[0].message.content}")
    usage = answer.usage
    print(f"  {usage.prompt_tokens} tokens asked, {usage.prompt_tokens_details.cached_tokens} of them known already")
