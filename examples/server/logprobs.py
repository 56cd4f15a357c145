"""How sure the model was of each token, and what it thought of instead: python logprobs.py [URL]

Needs a server (mistralrs-server -p 1234 demo) and its client (pip install openai).
"""

import sys
from math import exp

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:1234/v1", api_key="none")
answer = client.chat.completions.create(
    model="default",
    messages=[{"role": "user", "content": "Which planet is the largest?"}],
    max_tokens=12,
    temperature=0,
    logprobs=True,
    top_logprobs=3,
)
for token in answer.choices[0].logprobs.content:
    others = ", ".join(
        f"{exp(top.logprob):.1%} {top.token!r}" for top in token.top_logprobs if top.token != token.token
    )
    print(f"{exp(token.logprob):6.1%} {token.token!r:14} or {others}")
