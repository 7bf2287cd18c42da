"""Two sets of conversations as people have them: one in which tools are called, one in which answers are reasoned."""

import json
import random

CITIES = ("Lisbon", "Oslo", "Turin", "Ghent", "Brno", "Porto", "Graz", "Lyon")
PARTS = ("hinge", "valve", "gasket", "rotor", "bracket", "sensor", "bearing", "filter", "coupling", "nozzle")
STATES = ("late", "packed", "on its way", "returned", "held by customs")
TOOLS = [
    {"type": "function", "function": {"name": "find_order", "description": "Look up an order.", "parameters": {
        "type": "object", "properties": {"order": {"type": "string"}, "express": {"type": "boolean"}},
        "required": ["order"]}}},
    {"type": "function", "function": {"name": "weather", "description": "Weather of a city.", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
]  # fmt: skip


def tool_rows(num_rows: int = 200, arguments: str = "object", seed: int = 0) -> list[dict]:
    """Calls alone and beside words, two at once, two after another, a turn that is not learnt; `arguments`: `object` or
    `text`, as templates differ."""
    rng = random.Random(seed)
    rows = []
    for number in range(num_rows):
        part, city, state = rng.choice(PARTS), rng.choice(CITIES), rng.choice(STATES)
        order = f"{part[:3].upper()}-{number:04d}"

        def call(name, place, /, **values):
            given = values if arguments == "object" else json.dumps(values)
            return {"id": f"call{place:05d}", "type": "function", "function": {"name": name, "arguments": given}}

        calls = [call("find_order", number, order=order, express=number % 2 == 0)]
        if number % 4 == 1:
            calls.append(call("weather", number + 1000, city=city))
        words = f"I look up the {part} first." if number % 3 == 0 else ""
        messages = [
            {"role": "system", "content": f"You help customers of the {city} shop."},
            {"role": "user", "content": f"Where is my {part}, order {order}? It should be in {city} by now."},
            {"role": "assistant", "content": words, "tool_calls": calls},
            *({"role": "tool", "tool_call_id": item["id"], "name": item["function"]["name"],
               "content": json.dumps({"state": state, "place": city, "row": number})} for item in calls),
            {"role": "assistant", "content": f"The {part} of {order} is {state}, last seen in {city} (note {number})."},
        ]  # fmt: skip
        if number % 5 == 2:
            messages += [
                {"role": "user", "content": f"And what is the weather in {city}?"},
                {"role": "assistant", "content": f"I guess it rains {number} times.", "train": False},
                {"role": "user", "content": "Do not guess."},
                {"role": "assistant", "content": "", "tool_calls": [call("weather", number + 2000, city=city)]},
                {"role": "tool", "tool_call_id": f"call{number + 2000:05d}", "name": "weather",
                 "content": json.dumps({"rain_mm": number / 10})},
                {"role": "assistant", "content": f"{number / 10} mm of rain in {city}."},
            ]  # fmt: skip
        rows.append({"id": f"tools-{number:03d}", "messages": messages, "tools": TOOLS})
    return rows


def reasoning_rows(num_rows: int = 200, seed: int = 0) -> list[dict]:
    """Sums with the way to them; every fourth conversation goes on."""
    rng = random.Random(seed)
    rows = []
    for number in range(num_rows):
        price, count, part = rng.randint(11, 99), rng.randint(2, 30), rng.choice(PARTS)
        messages = [
            {"role": "user", "content": f"Row {number}: {count} pieces of {part} at {price} each, what is to pay?"},
            {"role": "assistant", "content": f"{price * count} for {count} pieces of {part}.",
             "reasoning_content": f"{count} times {price}: {count} × {price} = {price * count}. Case {number}."},
        ]  # fmt: skip
        if number % 4 == 0:
            messages += [
                {"role": "user", "content": f"And for one {part} more?"},
                {"role": "assistant", "content": f"{price * (count + 1)}.",
                 "reasoning_content": f"One more: {price * count} + {price} = {price * (count + 1)}."},
            ]  # fmt: skip
        rows.append({"id": f"sums-{number:03d}", "messages": messages})
    return rows


HERMES = (
    "{%- if tools %}<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}\n{% endif %}"
    "Tools:{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}<|im_end|>\n"
    "{%- elif messages[0].role == 'system' %}<|im_start|>system\n{{ messages[0].content }}<|im_end|>\n{% endif %}"
    "{%- set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
    "{%- for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{%- elif m.role == 'assistant' %}<|im_start|>assistant\n"
    "{% if m.reasoning_content and loop.index0 > ns.last %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content or '' }}{% for call in m.tool_calls or [] %}{{ '\n' }}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": '
    "{% if call.function.arguments is string %}{{ call.function.arguments }}"
    "{% else %}{{ call.function.arguments | tojson }}{% endif %}}\n</tool_call>{% endfor %}<|im_end|>\n"
    "{%- elif m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n</tool_response><|im_end|>\n"
    "{%- endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Like Qwen's: calls as JSON, reasoning after the last question alone."""
NAMED = (
    "{% if tools %}<|im_start|>developer\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.thinking %}<think>{{ m.thinking }}</think>{% endif %}"
    "{{ m.content }}{% for call in m.tool_calls or [] %}<call name={{ call.function.name }}>"
    "{% for name, value in call.function.arguments | items %}{{ name }}={{ value }};{% endfor %}</call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Arguments one by one, reasoning as `thinking` in every turn, the role developer known; prints what content is."""
