"""An answer that a yacc grammar can read, here a line of a program: python yacc.py [MODEL.toml]"""

import sys

from mistralrs_onnx import ChatCompletionRequest, Runner, demo_model, read_selector

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

which = read_selector(sys.argv[1]).which if len(sys.argv) > 1 else demo_model()
question = "Write one line of C: the area of a rectangle, from width and height."
request = ChatCompletionRequest(
    question, "demo", max_tokens=32, temperature=0, grammar=DECLARATION, grammar_type="yacc"
)
with Runner(which) as runner:
    print(runner.send_chat_completion_request(request).choices[0].message.content)
