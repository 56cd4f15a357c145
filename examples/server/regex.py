"""An answer that keeps to a regular expression: python regex.py [URL]

Needs a server (mistralrs-server -p 1234 demo) and its client (pip install openai).
"""

import sys

from openai import OpenAI

DATE = r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"

client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:1234/v1", api_key="none")
answer = client.chat.completions.create(
    model="default",
    messages=[{"role": "user", "content": "When did people first walk on the moon? Answer with the date."}],
    max_tokens=32,
    temperature=0,
    extra_body={"grammar": {"type": "regex", "value": DATE}},
)
print(answer.choices[0].message.content)
