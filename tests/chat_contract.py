"""What every adapter promises of chats: turns, options in the provider's own way, and tools."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from chats import Chat, ToolCall, Turn
from errors import AskRefused, ContentBlocked, InvalidInput, KeyRefused
from providers.base import Call, Reply
from tasks import EMBEDDINGS, TOOLS, Ask, Task
from tests.stream_contract import listen
from tests.upstream import CANARY, Fault, Upstream
from wording import word

HI = (Turn("user", "Hi there."),)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "now"}}
BOTH = json.dumps([WEATHER, CLOCK])
NAMED = json.dumps({"type": "function", "function": {"name": "get_weather"}})
CARD = {
    "name": "person",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "home": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
        "required": ["name", "home"],
        "additionalProperties": False,
    },
}
ASKED_BACK = (
    Turn("user", "How is the weather?"),
    Turn("assistant", "I look.", (ToolCall("call_1", "get_weather", '{"city": "Zürich", "days": 1}'),)),
    Turn("tool", "Sunny.", answers="call_1"),
)


class ChatContract:
    """Inherited beside ProviderContract, which says how a provider is made and where options stand in a body."""

    model: str
    # A model that takes no temperature.
    cool_model: str
    # Whether JSON of no particular shape can be asked for.
    any_json = True

    provider: Any
    temperature: Any
    schema: Any

    def chat(self, chat: Chat, model: str = "") -> Call:
        return Call(model or self.model, word(Ask(Task.CHAT, chat.text, 0.0, chat=chat)), 500, 10.0)

    def both(self, upstream: Upstream, chat: Chat) -> tuple[Reply, Reply]:
        """The same chat, plain and streamed."""
        provider = self.provider(upstream)
        call = self.chat(chat)
        return provider.call(call), listen(provider.stream(call))[1]

    def test_tools_are_offered(self, upstream):
        assert TOOLS in self.provider(upstream).offers

    def test_turns_and_system_go_out_in_order(self, upstream):
        turns = (Turn("user", "First."), Turn("assistant", "Second."), Turn("user", "Third."))
        for reply in self.both(upstream, Chat(turns, system="Be brief.")):
            assert (reply.whole, reply.ignored, reply.calls) == (True, (), ())
        for sent in upstream.journal:
            assert (sent.prompt, sent.system) == ("Third.", "Be brief.")
            body = json.dumps(sent.body)
            assert body.index("First.") < body.index("Second.") < body.index("Third.")

    def test_a_temperature_goes_out_only_where_it_was_asked_for(self, upstream):
        self.both(upstream, Chat(HI))
        self.both(upstream, Chat(HI, temperature=0.3))
        assert [self.temperature(sent.body) for sent in upstream.journal] == [None, None, 0.3, 0.3]

    def test_a_model_that_takes_no_temperature_is_said_to_ignore_one_only_if_it_was_asked_for(self, upstream):
        provider = self.provider(upstream)
        replies = [
            provider.call(self.chat(Chat(HI, temperature=warmth), self.cool_model)) for warmth in (None, 0.3)
        ]
        assert [reply.ignored for reply in replies] == [(), ("temperature",)]
        assert [self.temperature(sent.body) for sent in upstream.journal] == [None, None]

    def test_the_text_ends_before_a_stop_sequence(self, upstream):
        whole = self.both(upstream, Chat(HI))[0].text
        word = whole.split()[4]
        for reply in self.both(upstream, Chat(HI, stop=("no such word", f" {word}"))):
            assert reply.text == whole[: whole.index(f" {word}")]
            assert reply.whole

    def test_a_schema_shapes_the_answer(self, upstream):
        for reply in self.both(upstream, Chat(HI, schema=json.dumps(CARD))):
            assert set(json.loads(reply.text)) == {"name", "home"}
            assert reply.ignored == ()
        for sent in upstream.journal:
            assert self.schema(sent.body)["properties"] == CARD["schema"]["properties"]

    def test_json_of_any_shape_is_asked_for_where_it_can_be(self, upstream):
        for reply in self.both(upstream, Chat(HI, schema="{}")):
            assert reply.ignored == (() if self.any_json else ("response_format",))
        assert all(("json" in json.dumps(sent.body)) == self.any_json for sent in upstream.journal)

    # Tools.

    @pytest.mark.parametrize("choice", ["", '"auto"', '"required"', NAMED])
    def test_calls_of_tools_come_whole_from_a_plain_reply_and_from_a_stream(self, upstream, choice):
        for reply in self.both(upstream, Chat(HI, tools=json.dumps([WEATHER]), tool_choice=choice)):
            (call,) = reply.calls
            assert (reply.text, reply.whole, call.name) == ("", True, "get_weather")
            assert set(json.loads(call.arguments)) == {"city", "days"}
            assert call.id

    def test_the_tool_that_must_be_called_is_called(self, upstream):
        for reply in self.both(upstream, Chat(HI, tools=BOTH, tool_choice=NAMED)):
            assert [call.name for call in reply.calls] == ["get_weather"]

    def test_a_tool_without_parameters_is_called_with_an_empty_object(self, upstream):
        for reply in self.both(upstream, Chat(HI, tools=json.dumps([CLOCK]))):
            assert [(call.name, json.loads(call.arguments)) for call in reply.calls] == [("now", {})]

    def test_what_a_tool_said_goes_back_beside_its_call(self, upstream):
        for reply in self.both(upstream, Chat(ASKED_BACK, tools=BOTH)):
            assert reply.calls == ()
            assert reply.text
        for sent in upstream.journal:
            body = json.dumps(sent.body, ensure_ascii=False)
            assert all(part in body for part in ("I look.", "get_weather", "Zürich", "Sunny."))

    def test_tools_that_must_not_be_called_are_said_to_be_so(self, upstream):
        self.both(upstream, Chat(HI, tools=BOTH, tool_choice='"none"'))
        assert all('"none"' in json.dumps(sent.body).lower() for sent in upstream.journal)

    def test_a_text_streams_although_there_are_tools(self, upstream):
        pieces, reply = listen(self.provider(upstream).stream(self.chat(Chat(ASKED_BACK, tools=BOTH))))
        assert "".join(piece.text for piece in pieces) == reply.text
        assert len(pieces) > 1

    def test_what_the_client_library_cannot_put_is_the_callers_to_correct_and_costs_nothing(self, upstream):
        provider = self.provider(upstream)
        for broken in ("{", '"none"' * 2):
            with pytest.raises(InvalidInput) as failure:
                provider.call(self.chat(Chat(HI, tools=broken)))
            assert failure.value.field == "tools"
            with pytest.raises(InvalidInput):
                listen(provider.stream(self.chat(Chat(HI, tools=broken))))
        assert upstream.journal == []

    # Faults.

    def test_a_400_for_a_chat_is_the_callers(self, upstream):
        provider = self.provider(upstream)
        for told in (Chat(HI), Chat(HI, schema=json.dumps(CARD)), Chat(HI, tools=BOTH)):
            upstream.script("bad_request")
            with pytest.raises(AskRefused) as fault:
                provider.call(self.chat(told))
            assert (fault.value.status, fault.value.code) == (400, "invalid_input")
            assert (fault.value.transient, fault.value.unknown) == (False, False)
            assert CANARY not in str(fault.value) + fault.value.detail

    @pytest.mark.parametrize("fault", ["bad_key", "unauthorized", "forbidden"])
    def test_a_key_of_ours_that_is_refused_is_never_the_callers_fault(self, upstream, fault):
        upstream.script(fault)
        with pytest.raises(KeyRefused):
            self.provider(upstream).call(self.chat(Chat(HI)))

    def test_one_callers_schema_is_not_forgotten_because_of_anothers(self, upstream):
        provider = self.provider(upstream)
        upstream.script("bad_request")
        with pytest.raises(AskRefused):
            provider.call(self.chat(Chat(HI, schema=json.dumps(CARD))))
        assert provider.call(self.chat(Chat(HI, schema=json.dumps(CARD)))).ignored == ()
        assert all(self.schema(sent.body) for sent in upstream.journal)

    def test_a_stream_that_writes_calls_of_tools_shows_that_it_is_at_work(self, upstream):
        provider = self.provider(upstream)
        told = Chat(HI, tools=BOTH, tool_choice=json.dumps("required"))
        texts = [piece.text for piece in provider.stream(self.chat(told))]
        assert texts
        assert set(texts) == {""}

    @pytest.mark.parametrize(("model", "of_model"), [("", False), ("named-by-a-caller", True)])
    def test_a_model_that_is_not_for_us_says_nothing_of_our_key(self, upstream, model, of_model):
        upstream.script("forbidden")
        call = self.chat(Chat(HI))
        with pytest.raises(KeyRefused) as fault:
            self.provider(upstream).call(replace(call, model=model or call.model))
        assert fault.value.of_model is of_model

    def test_a_refusal_is_one_with_tools_too(self, upstream):
        provider = self.provider(upstream)
        for listen_or_call in (provider.call, lambda call: listen(provider.stream(call))):
            upstream.script(Fault("blocked_answer"))
            with pytest.raises(ContentBlocked):
                listen_or_call(self.chat(Chat(HI, tools=BOTH)))

    def test_embeddings_are_offered_only_where_they_are_made(self, upstream):
        assert (EMBEDDINGS in self.provider(upstream).offers) == (self.provider(upstream).name == "openai")
