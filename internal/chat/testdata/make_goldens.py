#!/usr/bin/env python3
"""Writes goldens.json: conversations rendered by the transformers library.

    pip install transformers jinja2 && python3 make_goldens.py

The templates, some here and some in templates/, have the shapes found in models of each family, with texts of our own.
A result of null stands for an error.
"""
import datetime
import json
import pathlib

from transformers.utils import chat_template_utils

CHATML_DEFAULT = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a test assistant. Don\\'t panic.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML_PLAIN = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
CHATML_TRIM = CHATML_DEFAULT.replace("+ message['content'] +", "+ message['content']|trim +")
CHATML_TOOLS = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- else %}
    {%- if messages[0]['role'] == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>system\\nYou are Test, created by a test. You are a helpful test.<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "tool" %}
        {%- if (loop.index0 == 0) or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- message.content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA3 = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
LLAMA3_DATED = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
GEMMA3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    """ + ALTERNATE + """
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- else -%}
        {{ '<start_of_image>' }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}" + ALTERNATE + "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant') }}{% endif %}{% endfor %}"
)
MISTRAL_LAST = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    """ + ALTERNATE + """
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]" + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST]" + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- message["content"] + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant") }}
    {%- endif %}
{%- endfor %}
"""
ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""
OTHER = """{#- nothing that is built in -#}
{%- set ns = namespace(n=0) -%}
{%- for m in messages if m.role != 'tool' %}
{%- set ns.n = ns.n + 1 %}
    {%- if m.role == 'system' and not loop.first %}{{ raise_exception('system must come first, not at ' ~ loop.index) }}{% endif %}
[{{ ns.n }}/{{ m['role'] | upper }}] {{ m.content | tojson }} {{ m.content.strip().split(' ') | first }}
  {% if loop.last %}
  end {{ strftime_now('%Y-%m-%d') }}
  {% endif %}
{%- endfor %}
{{ bos_token ~ eos_token }}{{ ' A:' if add_generation_prompt else '' }}
"""

TEMPLATES = {
    "chatml, default system prompt": CHATML_DEFAULT, "chatml": CHATML_PLAIN, "chatml, trimmed": CHATML_TRIM, "chatml, tools": CHATML_TOOLS,
    "llama3": LLAMA3, "llama3, with date": LLAMA3_DATED, "gemma2": GEMMA2, "gemma3": GEMMA3, "phi3": PHI3, "mistral": MISTRAL,
    "mistral, system prompt last": MISTRAL_LAST, "zephyr": ZEPHYR, "other": OTHER,
}

S, U, A = ({"role": r, "content": c} for r, c in [("system", " Be brief.\n "), ("user", " Hello\n"), ("assistant", "\tHi ")])
V = {"role": "user", "content": "what's \"next\"? <b>é日😀</b>\\n"}
T = {"role": "tool", "content": "42"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm, 1 < 2\n</think>\n\nYes."}
REASONED = {"role": "assistant", "content": "Yes.", "reasoning_content": "hm,\n1 < 2"}


def call(name, arguments, id="abcdefgh1"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


CALL = {"role": "assistant", "content": "", "tool_calls": [call("get_weather", {"place": "Zürich", "days": 2, "exact": True, "near": 1.5, "no": None, "list": ["a", {"b": "<c>"}]})]}
CALLS = {"role": "assistant", "content": "Two.", "tool_calls": [call("get_weather", {"place": "it's"}), call("now", {}, "abcdefgh2")]}
RESULT = {"role": "tool", "content": '{"t": 21.5}', "tool_call_id": "abcdefgh1", "name": "get_weather"}
RESULT2 = {"role": "tool", "content": "noon", "tool_call_id": "abcdefgh2", "name": "now"}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather of a place, in °C & <b>words</b>", "parameters": {
        "type": "object", "required": ["place"], "properties": {
            "place": {"type": "string", "description": "City's name"}, "days": {"type": "integer", "default": 1}, "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
            "tags": {"type": "array", "items": {"type": "string"}}, "grid": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}}}},
            "either": {"type": ["string", "null"]}, "near": {"type": "object", "additionalProperties": {"type": "boolean"}}}}}},
    {"type": "function", "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}}},
]


def requests():
    for messages in ([U], [V], [S, V], [S, U, A, V], [U, A], [S], [U, S, V], [U, V], [{"role": "user", "content": ""}], [U, A, T, A],
                     [U, THOUGHT, V], [U, REASONED, V], [U, REASONED], [S, U, THOUGHT]):
        for generate in (False, True):
            yield messages, None, {}, generate
    for messages in ([U], [S, V], [U, CALL], [U, CALL, RESULT], [S, U, CALL, RESULT, A, V], [U, CALLS, RESULT, RESULT2], [U, CALLS, RESULT, RESULT2, A], [U, THOUGHT | {"tool_calls": CALL["tool_calls"]}, RESULT]):
        yield messages, TOOLS, {}, True
    yield [U, CALL, RESULT, A], TOOLS[:1], {}, False
    for thinking in (False, True):
        yield [S, U], None, {"enable_thinking": thinking}, True
        yield [U, REASONED, V], TOOLS, {"enable_thinking": thinking, "thinking": thinking}, True
    yield [U], TOOLS, {"tools_in_user_message": False, "builtin_tools": ["code_interpreter", "brave_search"], "date_string": "1 Jan"}, True
    yield [U], None, {"reasoning_effort": "high", "controls": {"length": "short"}, "keep_past_thinking": True}, True
    yield [S | {"content": "x /no_think"}, U], None, {}, True
    yield [S | {"content": "/system_override only this"}, U], None, {}, True


class Clock:
    @staticmethod
    def now():
        return datetime.datetime(2025, 3, 7, 12)


def main():
    chat_template_utils.datetime = Clock
    here = pathlib.Path(__file__).parent
    templates = dict(TEMPLATES)
    for path in sorted((here / "templates").iterdir()):
        templates[path.name] = path.read_text(encoding="utf-8")
    asked = list(requests())
    out = {"requests": [{"messages": m, "tools": t, "options": o, "generate": g} for m, t, o, g in asked], "templates": []}
    for name, source in templates.items():
        rendered = []
        for messages, tools, options, generate in asked:
            try:
                text, _ = chat_template_utils.render_jinja_template(
                    [messages], tools=tools, chat_template=source, add_generation_prompt=generate, bos_token="<s>", eos_token="</s>", **options)
                rendered.append(text[0])
            except Exception:
                rendered.append(None)
        out["templates"].append({"name": name, "source": "" if name.endswith(".jinja") else source, "rendered": rendered})
    text = json.dumps(out, ensure_ascii=False, separators=(",", ":")).replace('{"name":', '\n{"name":').replace('{"messages":', '\n{"messages":')
    (here / "goldens.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
