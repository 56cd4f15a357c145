"""Prompts equal those of transformers, on templates of many shapes."""

from __future__ import annotations

from typing import Any

import pytest

from mistralrs_onnx.runtime.chat_template import ChatTemplate

pytestmark = pytest.mark.oracle

TOOLS = [{"type": "function", "function": {"name": "f", "description": "naïve <b>", "parameters": {"type": "object"}}}]
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Hello"}],
    [
        {"role": "system", "content": "  Be brief.\n"},
        {"role": "user", "content": "ünï <&> 'q' \"d\""},
        {"role": "assistant", "content": "   I am an assistant   "},
        {"role": "user", "content": "Again\n\n"},
    ],
]
TEMPLATES = {
    "chatml": "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>'"
    " + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama 3": "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' +"
    " message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}",
    "system first": "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}\n"
    "{%- set messages = messages[1:] %}\n{%- endif %}\n{% for m in messages %}\n  "
    "{{- m.role | upper }}: {{ m.content }}\n"
    "{% endfor %}\n{{ system | default('none') }} {{- eos_token }}\n",
    "tools": "{%- if tools %}\n    {{- '<tools>' }}\n    {%- for tool in tools %}\n        {{- tool | tojson }}\n"
    "        {{- tool | tojson(indent=4) }}\n    {%- endfor %}\n{%- endif %}\n{{ messages | length }}",
    "namespace": "{%- set ns = namespace(last=-1, found=false) %}{%- for m in messages[::-1] %}\n"
    "{%- if not ns.found and m.role == 'user' %}{% set ns.found = true %}{% set ns.last = loop.index0 %}{% endif %}\n"
    "{%- endfor %}{{ ns.last }}{{ ns.found }}{{ messages[-1].content.split('a') | join('|') }}{{ missing }}",
    "macro": "{%- macro turn(m, end='!') -%}\n<{{ m.role }}>{{ caller() if caller else '' }}"
    "{{ m['content'] ~ end }}\n"
    "{%- endmacro -%}{% for m in messages %}{% if loop.last %}{% continue %}{% endif %}{{ turn(m) }}{% endfor %}"
    "{% call turn(messages[0], end=1) %}body{% endcall %}{% generation %}g{% endgeneration %}",
    "filters": "{{ messages | map(attribute='role') | list }}"
    "{{ messages | selectattr('role', 'eq', 'user') | list | count }}"
    "{{ {'b': 1, 'a': [true, none, 1.5]} | dictsort }}{{ 'a\nb' | indent(3, true) }}{{ '%d-%s' | format(3, 'x') }}"
    "{{ 'abc' | replace('b', 'x') | capitalize }}{{ [3, 1, 2] | sort(reverse=true) }}{{ 7 // 2 }}"
    "{{ '{:>5}'.format('x') }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("prompt", [True, False])
def test_like_transformers(name: str, chat: list[dict[str, Any]], *, prompt: bool) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    theirs, _ = utils.render_jinja_template(
        [chat],
        tools=TOOLS,
        chat_template=TEMPLATES[name],
        add_generation_prompt=prompt,
        bos_token="<s>",
        eos_token="</s>",
    )
    ours = ChatTemplate(TEMPLATES[name], bos_token="<s>", eos_token="</s>")
    assert ours.render(chat, tools=TOOLS, add_generation_prompt=prompt) == theirs[0]
