"""A chain of language models that is a function: request, complaint about its last reply and number in, text out."""

from __future__ import annotations

from collections.abc import Callable

from autoresearch.providers.chain import Answer
from autoresearch.providers.exchange import Message, Reply, Request, UnusableReply, Usage
from autoresearch.vocabulary import ProviderUnavailable

Model = Callable[[Request, str, int], str]


class FakeChain:
    """Asks `model` up to three times, as the real chain does with one model."""

    names = ("fake:model",)

    def __init__(self, model: Model | str, context_tokens: int | None = None) -> None:
        self.model = model if callable(model) else lambda request, complaint, number: model
        self.context_tokens = context_tokens
        self.requests: list[Request] = []
        self.complaints: list[str] = []

    def ask(self, request, read, *, number):
        complaint = ""
        for calls in (1, 2, 3):
            self.requests.append(request)
            text = self.model(request, complaint, number)
            try:
                value = read(text)
            except UnusableReply as unusable:
                complaint = unusable.message
                self.complaints.append(complaint)
                continue
            reply = Reply(text, "fake", "model", Usage(900, 100), 0.002 * calls, 1.0)
            return Answer(value=value, reply=reply, calls=calls, usd=0.002 * calls, tokens=1000 * calls)
        raise ProviderUnavailable(f"fake:model: {complaint}", hint="--model")


def setting(name: str, value: object, text: str = "") -> str:
    """A reply that sets one constant."""
    return f"IDEA: {text or f'{name} to {value}'}\nTOPIC: {name}\nMECHANISM: it may\nEXPECT: +0.001\nSET: {name} = {value}\n"


def block(old: str, new: str, text: str = "another structure") -> str:
    """A reply that replaces some lines."""
    return (
        f"IDEA: {text}\nTOPIC: structure\nMECHANISM: it may\nEXPECT: +0.002\nLESSON: nothing else helped\n"
        f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"
    )


__all__ = ["FakeChain", "Message", "Model", "block", "setting"]
