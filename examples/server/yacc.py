"""An answer that a yacc grammar can read, here a line of C: python yacc.py [URL]

Needs a server (mistralrs-server -p 1234 demo) and its client (pip install openai).
"""

import sys

from openai import OpenAI

DECLARATION = """
%start declaration
%%
declaration: type NAME '=' sum ';' ;
type: "int" | "float" ;
sum: product | sum '+' product ;
product: factor | product '*' factor ;
factor: NAME | NUMBER | '(' sum ')' ;
NAME: "/[a-z]+/" ;
NUMBER: "/[0-9]+/" ;
SKIP: "/[ ]/" ;
"""

client = OpenAI(base_url=sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:1234/v1", api_key="none")
question = "Write one line of C: the area of a rectangle, from width and height."
answer = client.chat.completions.create(
    model="default",
    messages=[{"role": "user", "content": question}],
    max_tokens=64,
    temperature=0,
    extra_body={"grammar": {"type": "yacc", "value": DECLARATION}},
)
print(answer.choices[0].message.content)
