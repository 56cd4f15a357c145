from __future__ import annotations

import ast
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mistralrs_onnx.compiler.checkpoints.gguf import read_gguf
from mistralrs_onnx.runtime.chat_template import ChatTemplate
from mistralrs_onnx.runtime.errors import PackageError, RequestError

ROOT = Path(__file__).parents[2]
CHAT = [
    {"role": "system", "content": "You are a helpful assistant"},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there"},
    {"role": "user", "content": "Who are you"},
    {"role": "assistant", "content": "   I am an assistant   "},
    {"role": "user", "content": "Another question"},
]


def render(source: str, messages: list[dict[str, Any]] = CHAT) -> str:
    return ChatTemplate(source, bos_token="<s>", eos_token="</s>").render(messages)


def test_smollm2(smollm2_gguf: Path) -> None:
    with read_gguf(smollm2_gguf) as gguf:
        template = ChatTemplate(gguf.metadata.string("tokenizer.chat_template"))
    assert template.render([{"role": "user", "content": "Hi\n<b>&"}]) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi\n<b>&<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert template.render(CHAT[:3], add_generation_prompt=False) == (
        "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi there<|im_end|>\n"
    )


MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token + ' ' }}{% endif %}{% endfor %}"
)


def test_special_tokens() -> None:
    assert render(MISTRAL, CHAT[1:]) == (
        "<s>[INST] Hello [/INST]Hi there</s> [INST] Who are you [/INST]   I am an assistant   </s> "
        "[INST] Another question [/INST]"
    )


def test_a_template_refuses_in_its_own_words() -> None:
    with pytest.raises(RequestError, match="roles must alternate") as caught:
        render(MISTRAL, CHAT)
    assert (caught.value.status, caught.value.code) == (400, "template_error")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% if true %}\n  a\n{% endif %}\nb\n", "  a\nb"),
        ("{{ messages[0] | tojson }}", '{"role": "system", "content": "You are a helpful assistant"}'),
        ("{{ {'ü': '<&>'} | tojson(indent=2) }}", '{\n  "ü": "<&>"\n}'),
        ("{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "system"),
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }};{% endfor %}",
            "Hello;Who are you;Another question;",
        ),
        ("{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x }}", "1"),
        ("{{ strftime_now('%d %b %Y') }}", "02 Jan 2026"),
        ("{{ unk_token }}|{{ tools is none }}|{{ documents is none }}", "|True|True"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", "6"),
        ("{{ (messages | selectattr('role', 'equalto', 'user') | list | last).content }}", "Another question"),
        ("{{ messages | map(attribute='role') | unique | join('+') }}", "system+user+assistant"),
        ("{{ messages[1:3][::-1] | map(attribute='content') | list }}", "['Hi there', 'Hello']"),
        ("{{ 'a-b'.split('-') | join(',') ~ 1 ~ none ~ missing }}", "a,b1None"),
        ("{{ 'x%s%03d' | format('y', 7) }}{{ '%s!' % 'z' }}{{ '{:>4}{}'.format(1, 'a') }}", "xy007z!   1a"),
        ("{% macro m(a, b=2) %}<{{ a }}{{ b }}>{% endmacro %}{{ m(1) }}{{ m(1, b=3) }}", "<12><13>"),
        ("{% set t %}a\nb{% endset %}{{ t | indent(2) }}{{ t.replace('a', 'c') | upper }}", "a\n  bC\nB"),
        (
            "{{ dict(a=1, **{'b': 2}).items() | list }}{{ (1, [2, {'c': 3}]) }}",
            "[('a', 1), ('b', 2)](1, [2, {'c': 3}])",
        ),
        ("{{ 2 ** 10 }}{{ 7 % 4 }}{{ 'ab' * 2 }}{{ [1] + [2] }}", "10243abab[1, 2]"),
    ],
)
def test_renders_like_transformers(source: str, expected: str) -> None:
    template = ChatTemplate(source, bos_token="<s>", clock=lambda: datetime(2026, 1, 2))
    assert template.render(CHAT) == expected


def test_extra_variables_and_tools_reach_the_template() -> None:
    template = ChatTemplate("{{ enable_thinking }}{{ tools[0].name }}")
    assert template.render(CHAT, tools=[{"name": "f"}], extra={"enable_thinking": False}) == "Falsef"


@pytest.mark.parametrize(
    "extra", [{"messages": 1}, {"tokenize": True}, {"bos_token": "x"}, {"a b": 1}, {"x": [1]}, {"x": "a" * 2049}]
)
def test_extra_variables_are_few_and_small(extra: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        ChatTemplate("{{ 1 }}", bos_token="<s>").render(CHAT, extra=extra)
    assert caught.value.param == "chat_template_kwargs"


@pytest.mark.parametrize(
    "source", ["{% if %}", "{% for x in y %}", "{{ 1 | attr('x') }}", "{{ " + "(" * 9999, "{% include 'x'"]
)
def test_what_does_not_compile_is_the_fault_of_the_package(source: str) -> None:
    with pytest.raises(PackageError, match="chat template cannot be compiled"):
        ChatTemplate(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ self._TemplateReference__context }}{{ self._TemplateReference__context.environment.x }}",
        "{{ messages.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__.os.system('true') }}",
        "{{ strftime_now.__closure__[0].cell_contents.x }}",
        "{{ range.__self__.x }}",
        "{{ namespace.__init__.__globals__.x }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(cycler) }}",
        "{{ ['{0.__class__}'] | map('format', cycler) | list }}",
        "{{ (['{0.__class__}'] | map(attribute='format') | first)(cycler) }}",
        "{{ ('{0.__class__}'.format_map)({'0': 1}) }}",
        "{{ [1] | map(attribute='__class__.__mro__') | first | first }}",
        "{{ dict.fromkeys }}{{ dict.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages[0].pop('role') }}",
        "{{ 'a'.encode().decode() }}",
        "{% macro m() %}{% endmacro %}{{ m.__call__.__func__.__globals__ }}{{ m._func.__globals__.x }}",
        "{% for m in messages %}{{ loop.__init__.__globals__.x }}{% endfor %}",
        "{{ lipsum.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends '/etc/passwd' %}",
    ],
)
def test_python_is_out_of_reach(source: str) -> None:
    with pytest.raises(RequestError) as caught:
        render(source)
    assert caught.value.code == "template_error"


REPEAT = "{% set ns = namespace(n=3, s='ab', x=[]) %}{% for i in range(9999) %}{% set ns.%s %}{% endfor %}{{ ns.x }}"
BOMBS = {
    "nested empty loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "filtered loops": "{% for a in range(99999) if false %}{% endfor %}" * 50,
    "long range": "{{ range(10 ** 9) }}",
    "repetition": "{{ 'a' * 10 ** 9 }}",
    "power": "{{ 10 ** (10 ** 8) }}",
    "squaring": REPEAT.replace("%s", "n = ns.n * ns.n"),
    "recursive macro": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "recursive loop": "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "recursive block": "{% block a %}{{ self.a() }}{{ self.a() }}{% endblock %}",
    "forking macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(50) }}",
    "percent width": "{{ '%1000000000d' % 1 }}",
    "percent star": "{{ '%*d' % (1000000000, 1) }}",
    "format filter": "{{ '%1000000000d' | format(1) }}",
    "format width": "{{ '{:>1000000000}'.format(1) }}",
    "format nested width": "{{ '{:{}}'.format(1, 1000000000) }}",
    "center": "{{ 'a'.center(10 ** 9) }}",
    "to_bytes": "{{ (5).to_bytes(10 ** 9, 'big') }}",
    "indent": "{{ ('a\\n' * 1000000) | indent(10 ** 9) }}",
    "json indent": "{{ [1] | tojson(indent=10 ** 9) }}",
    "date width": "{{ strftime_now('%999999999d') }}",
    "doubling by ~": REPEAT.replace("%s", "s = ns.s ~ ns.s"),
    "doubling by +": REPEAT.replace("%s", "s = ns.s + ns.s"),
    "replace": "{% set x = 'a' * 9999 %}{% for i in range(9) %}{% set x = x.replace('a', x) %}{{ x }}{% endfor %}",
    "replace filter": "{{ ('a' * 99999) | replace('a', 'b' * 99999) }}",
    "replace in markup": "{{ (('a' * 99999) | safe).replace('a', 'b' * 99999) }}",
    "join": "{{ ('a' * 9999).join('b' * 99999) }}",
    "join filter": "{{ ('b' * 99999) | join('a' * 9999) }}",
    "shared text": "{{ range(1, 99999) | map('string') | map('replace', '1', 'a' * 99999) | list }}",
    "shared lists": REPEAT.replace("%s", "x = [ns.x, ns.x]"),
    "shared dicts": REPEAT.replace("%s", "x = {'a': ns.x, 'b': ns.x}"),
    "shared tuples": REPEAT.replace("%s", "x = (ns.x, ns.x)"),
    "deep lists": REPEAT.replace("%s", "x = [ns.x]"),
    "captured text": "{% set x %}{% for i in range(99999) %}" + "a" * 999 + "{% endfor %}{% endset %}",
    "printed text": "{% set x = 'a' * 999999 %}{% for i in range(9999) %}{{ x }}{% endfor %}",
    "sorting": "{% for i in range(99999) %}{% for x in range(99999) | list | sort %}{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("source", BOMBS.values(), ids=BOMBS.keys())
@pytest.mark.timeout(30)
def test_bombs_fizzle(source: str) -> None:
    with pytest.raises(RequestError) as caught:
        render(source)
    assert caught.value.code == "template_error"


def test_namespaces_do_not_write_out_what_they_hold() -> None:
    source = (
        "{% set ns = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = namespace(a=ns.x, b=ns.x) %}{% endfor %}"
    )
    assert render(source + "{{ ns.x }}") == "<namespace>"


def test_long_conversations_pass() -> None:
    messages = [{"role": "user", "content": "word " * 500}] * 2048
    prompt = render("{% for m in messages %}{{ '<' ~ m['role'] + '>' + m.content | trim }}{% endfor %}", messages)
    assert len(prompt) == 2048 * (6 + 2499)


def test_errors_do_not_quote_python() -> None:
    with pytest.raises(RequestError, match=r"failed: TypeError$"):
        render("{{ messages + 1 }}")


def test_jinja_has_the_fixes_of_its_sandbox() -> None:
    assert tuple(map(int, version("jinja2").split("."))) >= (3, 1, 6)


def test_nothing_else_makes_a_template_environment() -> None:
    users = {
        str(path.relative_to(ROOT))
        for folder in ("api", "compiler", "graphs", "ops", "runtime", "server", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if any("jinja2" in name for name in imported(path))
    }
    assert users == {"runtime/chat_template.py", "runtime/template_meter.py", "runtime/template_sandbox.py"}


def imported(path: Path) -> list[str]:
    tree = ast.parse(path.read_text("utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return names + [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
