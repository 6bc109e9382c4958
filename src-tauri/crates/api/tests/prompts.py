"""Writes prompts.json: what transformers' apply_chat_template makes of conversations, for tests/prompts.rs to compare with.

    pip install transformers jinja2 && python prompts.py
"""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast
from tokenizers import Tokenizer, models

HERE = Path(__file__).parent
EMBER = (HERE / "../../../assets/ember/model/chat_template.jinja").resolve().read_text()

# The constructs that templates of the larger families use, in one page.
CONSTRUCTS = """{%- set ns = namespace(last=-1, multi=true) %}
{%- for m in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.multi and m.role == "user" and not (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}
        {%- set ns.multi = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{% for m in messages %}
    {% if m.content is string %}
{{ loop.index0 }}|{{ m.role | upper }}|{{ m.content.split('</think>')[-1].lstrip('\\n') | trim }}|{{ ns.last }}
    {% else %}
-{{ m.content | length }}-
    {% endif %}
    {%- if m.tool_calls %}
        {%- for c in m.tool_calls %}
            {%- if c.function is defined %}{%- set c = c.function %}{%- endif %}
            {{- c.name ~ '(' }}
            {%- for k, v in c.arguments | items %}{{ k }}={{ v | tojson if v is mapping or v is sequence and v is not string else v }};{% endfor %}
            {{- ')' }}
        {%- endfor %}
    {%- endif %}
{% endfor %}
{{ tools | map(attribute='function') | map(attribute='name') | list if tools else none }}
{{- bos_token }}{{ eos_token }} {{ [1, 2.0, true, none, 'a'] }} {{ "%s-%d" | format("x", 3) }} {{ {'k': 'v'}.get('z', 'dflt') }}
{% if enable_thinking is defined and enable_thinking is false %}off{% else %}on{% endif %}
{% if add_generation_prompt %}GO{% endif %}
"""

TOOL = {
    "type": "function",
    "function": {
        "name": "search",
        "description": "Finds <things> & \"more\" — schön, 'quoted'",
        "parameters": {
            "type": "object",
            "properties": {"query": {"type": "string"}, "limit": {"type": "integer", "default": 5}, "w": {"type": "number", "maximum": 1.5}},
            "required": ["query"],
        },
    },
}
USER = {"role": "user", "content": "Größe von 東京? <b>&amp;</b> 'x' 😀"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"type": "function", "function": {"name": "search", "arguments": {"query": "a \"b\"\nc", "limit": 3, "deep": {"x": [1, None, True]}}}},
        {"type": "function", "function": {"name": "search", "arguments": {}}},
    ],
}
RESULT = {"role": "tool", "content": "found: 1 < 2"}
CONVERSATIONS = {
    "one question": ([USER], None, {}),
    "with a system message": ([{"role": "system", "content": "  Be brief.\n"}, USER], None, {}),
    "with tools": ([USER], [TOOL, TOOL], {}),
    "with system message and tools": ([{"role": "system", "content": "Be brief."}, USER], [TOOL], {}),
    "after a call": ([USER, CALL, RESULT, RESULT], [TOOL], {}),
    "several turns": ([USER, {"role": "assistant", "content": "Yes.\n"}, USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\nNo."}, USER], None, {}),
    "thinking": ([USER], None, {"enable_thinking": True}),
    "not thinking": ([USER], None, {"enable_thinking": False}),
}


def main() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="<|im_end|>")
    cases = []
    for title, template in {"ember": EMBER, "constructs": CONSTRUCTS}.items():
        for name, (messages, tools, arguments) in CONVERSATIONS.items():
            expected = tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=template, tokenize=False, add_generation_prompt=True, **arguments
            )
            cases.append({"name": f"{title}: {name}", "template": title, "messages": messages, "tools": tools or [], "arguments": arguments, "prompt": expected})
    out = {"templates": {"ember": EMBER, "constructs": CONSTRUCTS}, "cases": cases}
    (HERE / "prompts.json").write_text(json.dumps(out, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
