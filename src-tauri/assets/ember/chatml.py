"""A conversation and its layout in ChatML. Used by everything that makes, trains on or asks a conversation.

`render` writes what chat_template.jinja writes, so that training text and the text an engine builds from a request are
the same; a change in one is a change in both.
"""
from dataclasses import dataclass, field


@dataclass
class Conversation:
    """turns: (role, text) with role user, assistant or tool. `thought` opens the last assistant turn, if there is one."""
    turns: list
    tools: list = field(default_factory=list)
    system: str = ""
    thought: str = ""


TOOL_HEAD = """# Tools

You have access to the following functions:

<tools>
%s
</tools>

To call a function, answer with:
<tool_call>
<function=name>
<parameter=key>
value
</parameter>
</function>
</tool_call>"""
ASSISTANT = "<|im_start|>assistant\n<think>\n"


def render(made):
    """-> [(text, learn)]: chat_template.jinja's layout; `learn` marks what the assistant must write."""
    out = []
    head = TOOL_HEAD % "\n".join(made.tools) if made.tools else ""
    head = "\n\n".join(part for part in (head, made.system) if part)
    if head:
        out.append((f"<|im_start|>system\n{head}<|im_end|>\n", False))
    for index, (role, text) in enumerate(made.turns):
        if role == "user":
            out.append((f"<|im_start|>user\n{text}<|im_end|>\n", False))
        elif role == "tool":
            out.append((f"<|im_start|>user\n<tool_response>\n{text}\n</tool_response><|im_end|>\n", False))
        elif made.thought and index == len(made.turns) - 1:
            out += [(ASSISTANT, False), (f"{made.thought}\n</think>\n\n{text}<|im_end|>\n", True)]
        else:
            out += [(ASSISTANT + "\n</think>\n\n", False), (f"{text}<|im_end|>\n", True)]
    return out


def prompt(made):
    """The text up to the first answer, as a request renders it."""
    until = next(i for i, (role, _) in enumerate(made.turns) if role == "assistant")
    asked_for = Conversation(made.turns[:until], made.tools, made.system)
    return "".join(text for text, _ in render(asked_for)) + ASSISTANT + "\n</think>\n\n"
