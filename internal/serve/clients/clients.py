"""Foreign clients, unchanged, against a running server: clients.py http://HOST:PORT MODEL. Fails at the first surprise."""
import json
import sys

import anthropic
import ollama
import openai
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

base, model = sys.argv[1:3]
SAY = [{"role": "user", "content": "Once upon a time"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
GREEDY = {"temperature": 0}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA}}


def check_call(arguments):
    v = json.loads(arguments) if isinstance(arguments, str) else arguments
    assert v["city"] in ("Rome", "Oslo") and 1 <= v["days"] <= 7, v


def openai_client():
    c = openai.OpenAI(base_url=base + "/v1", api_key="none")
    assert model in [m.id for m in c.models.list()]
    whole = c.chat.completions.create(model=model, messages=SAY, max_tokens=8, temperature=0, logprobs=True, top_logprobs=2)
    assert whole.usage.completion_tokens == len(whole.choices[0].logprobs.content)
    text = ""
    for chunk in c.chat.completions.create(model=model, messages=SAY, max_tokens=8, temperature=0, stream=True):
        text += chunk.choices[0].delta.content or ""
    assert text == whole.choices[0].message.content
    r = c.chat.completions.create(model=model, messages=SAY, tools=[WEATHER], tool_choice="required", temperature=1, seed=1)
    check_call(r.choices[0].message.tool_calls[0].function.arguments)
    with c.chat.completions.stream(model=model, messages=SAY, tools=[WEATHER], tool_choice="required", seed=2) as s:
        check_call(s.get_final_completion().choices[0].message.tool_calls[0].function.arguments)
    r = c.chat.completions.create(model=model, messages=SAY, seed=3, response_format={
        "type": "json_schema", "json_schema": {"name": "plan", "strict": True, "schema": SCHEMA}})
    check_call(r.choices[0].message.content)

    class Plan(BaseModel):
        urgent: bool
        count: int

    parsed = c.chat.completions.parse(model=model, messages=SAY, response_format=Plan, max_tokens=60, seed=4)
    assert isinstance(parsed.choices[0].message.parsed, Plan)
    assert len(c.embeddings.create(model=model, input=["a", "b"]).data) == 2
    assert c.completions.create(model=model, prompt="Once", max_tokens=4).choices[0].text
    r = c.responses.create(model=model, input="Once upon", max_output_tokens=8, temperature=0)
    events = list(c.responses.create(model=model, input="Once upon", max_output_tokens=8, temperature=0, stream=True))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == r.output_text
    with c.responses.stream(model=model, input="Once", text={"format": {"type": "json_schema", "name": "plan", "schema": SCHEMA}}) as s:
        check_call(s.get_final_response().output_text)
    try:
        c.chat.completions.create(model=model, messages=[])
        raise AssertionError("an empty conversation was accepted")
    except openai.BadRequestError as e:
        assert e.param == "messages"


def anthropic_client():
    c = anthropic.Anthropic(base_url=base, api_key="none")
    m = c.messages.create(model=model, max_tokens=8, messages=SAY, extra_body=GREEDY)
    with c.messages.stream(model=model, max_tokens=8, messages=SAY, extra_body=GREEDY) as s:
        assert s.get_final_text() == m.content[0].text
    n = c.messages.count_tokens(model=model, messages=SAY).input_tokens
    assert n == m.usage.input_tokens + m.usage.cache_read_input_tokens
    tool = {"name": "weather", "description": "Tells the weather.", "input_schema": SCHEMA}
    m = c.messages.create(model=model, max_tokens=200, messages=SAY, tools=[tool], tool_choice={"type": "any"})
    assert m.stop_reason == "tool_use"
    check_call(m.content[-1].input)


def ollama_client():
    c = ollama.Client(host=base)
    options = {"num_predict": 8, "temperature": 0}
    whole = c.chat(model=model, messages=SAY, options=options).message.content
    assert whole == "".join(p.message.content for p in c.chat(model=model, messages=SAY, options=options, stream=True))
    assert c.generate(model=model, prompt="Once", options=options).response
    check_call(c.chat(model=model, messages=SAY, format=SCHEMA).message.content)
    assert len(c.embed(model=model, input=["a", "b"]).embeddings) == 2
    assert model in [m.model for m in c.list().models]
    assert [m.model for m in c.ps().models] == [model]
    c.show(model)


def langchain_client():
    c = ChatOpenAI(base_url=base + "/v1", api_key="none", model=model, max_tokens=8, temperature=0)
    assert "".join(p.content for p in c.stream("Once upon a time")) == c.invoke("Once upon a time").content
    forced = ChatOpenAI(base_url=base + "/v1", api_key="none", model=model, max_tokens=200, seed=5).bind_tools([WEATHER], tool_choice="any")
    check_call(forced.invoke("Once").tool_calls[0]["args"])


for test in (openai_client, anthropic_client, ollama_client, langchain_client):
    if len(sys.argv) > 3 and test.__name__ not in sys.argv[3:]:
        continue
    test()
    print("ok", test.__name__, flush=True)
