"""Yacc grammars of arithmetic, of JSON, and of a small language in the manner of C, with a program in it."""

ARITHMETIC = """
%start expr
%left '+' '-'
%%
SKIP: "/[ ]+/" ;
NUM: "/[0-9]+/" ;
expr: expr '+' term | expr '-' term | term ;
term: term '*' factor | factor ;
factor: NUM | '(' expr ')' | '-' factor %prec '+' ;
"""
JSON = r"""
%start value
%%
value: object | array | STRING | NUMBER | "true" | "false" | "null" ;
object: '{' '}' | '{' members '}' ;
members: pair | members ',' pair ;
pair: STRING ':' value ;
array: '[' elements ']' ;
elements: %empty | list ;
list: value | list ',' value ;
STRING: '/"([^"\\\x00-\x1f]|\\["\\/bfnrt])*"/' ;
NUMBER: "/-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/" ;
SKIP: "/[ \n\t]+/" ;
"""
C_LIKE = r"""
// a small language in the manner of C
%start unit
%%
SKIP: "/[ \t\n]+/" | "//\*[^*]*\*//" ;
IDENT: "/[a-zA-Z_][0-9a-zA-Z_]*/" ;
CONST: "/0[xX][0-9a-fA-F]+/" | "/[0-9]+/" | '/"(\\.|[^\\"])*"/' ;
unit: func | unit func ;
func: type declarator '(' params ')' block ;
params: %empty | param_list ;
param_list: param | param_list ',' param ;
param: type declarator ;
type: "int" | "char" | "void" ;
declarator: IDENT | '*' declarator ;
block: '{' statements '}' ;
statements: | statements statement ;
statement: expr ';' | block | "if" '(' expr ')' statement | "if" '(' expr ')' statement "else" statement
    | "while" '(' expr ')' statement | "return" expr ';' | type declarator '=' expr ';' { declare($2); } ;
expr: primary | expr '+' primary | expr "<" primary | primary "==" primary ;
primary: IDENT | CONST | primary '[' expr ']' | primary '(' ')' | primary "(" args ")" | '(' expr ')' ;
args: expr | args ',' expr ;
%%
int main() { anything }
"""
YACC = {"arithmetic": ARITHMETIC, "json": JSON, "c": C_LIKE}

PROGRAM = """\
int add(int a, char *b) {
  /* sums */ int c = a + b[0];
  if (c < 10) return c; else { print("big", c); }
  return 0;
}
"""
