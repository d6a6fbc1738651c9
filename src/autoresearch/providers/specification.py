"""A chain of models as a person writes it: `anthropic:claude-opus-4-5, ollama:qwen3:0.6b, openai:mine@http://127.0.0.1:8080/v1`.

`provider:model[@URL][?option=value&…]`, joined by commas, in order of preference. The provider ends at the first colon;
the model's own name may hold more of them.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from autoresearch.vocabulary import UsageError

_HINT = "--model anthropic:claude-opus-4-5,ollama:qwen3:0.6b"


@dataclass(frozen=True)
class Provider:
    """One way to reach models. `key_names` are environment variables, the first that is set wins; none: no key needed.

    `price_id` is its name in genai-prices. `modern`: it wants `max_completion_tokens` where others want `max_tokens`.
    """

    dialect: str  # "openai", "anthropic" or "replay"
    base_url: str = ""
    key_names: tuple[str, ...] = ()
    price_id: str = ""
    modern: bool = False
    url_variable: str = ""  # the base URL is the user's own; this variable names it


# Addresses and variable names as the providers' own pages give them; the ports are the servers' defaults.
PROVIDERS: dict[str, Provider] = {
    "openai": Provider("openai", "https://api.openai.com/v1", ("OPENAI_API_KEY",), "openai", modern=True),
    "azure": Provider("openai", "", ("AZURE_OPENAI_API_KEY",), "azure", True, "AZURE_OPENAI_ENDPOINT"),
    "openrouter": Provider("openai", "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",), "openrouter"),
    "groq": Provider("openai", "https://api.groq.com/openai/v1", ("GROQ_API_KEY",), "groq"),
    "together": Provider("openai", "https://api.together.xyz/v1", ("TOGETHER_API_KEY",), "together"),
    "gemini": Provider(
        "openai",
        "https://generativelanguage.googleapis.com/v1beta/openai",
        ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        "google",
    ),
    "vllm": Provider("openai", "http://127.0.0.1:8000/v1", ("VLLM_API_KEY",)),
    "sglang": Provider("openai", "http://127.0.0.1:30000/v1", ("SGLANG_API_KEY",)),
    "llamacpp": Provider("openai", "http://127.0.0.1:8080/v1", ("LLAMA_API_KEY",)),
    "ollama": Provider("openai", "http://127.0.0.1:11434/v1", ("OLLAMA_API_KEY",)),
    "lmstudio": Provider("openai", "http://127.0.0.1:1234/v1", ("LMSTUDIO_API_KEY",)),
    "anthropic": Provider("anthropic", "https://api.anthropic.com", ("ANTHROPIC_API_KEY",), "anthropic"),
    "replay": Provider("replay"),
}


@dataclass(frozen=True)
class ModelSpec:
    """One model of a chain. None: the provider's own default, or not known. Prices are USD per million tokens."""

    provider: str
    model: str
    base_url: str = ""  # "" where the provider has none
    custom_url: bool = False  # the user's own, not the provider's
    schema: str = "auto"  # hold replies to the request's JSON schema: on, off, auto (off)
    context: int | None = None  # tokens of prompt and reply together
    reply: int | None = None  # most tokens of one reply, reasoning included
    temperature: float | None = None
    input_usd: float | None = None
    output_usd: float | None = None
    key: str = ""  # environment variable or keyring entry that holds the key, instead of the provider's own

    @property
    def label(self) -> str:
        """ "openai:gpt-5": how it is shown and recorded."""
        return f"{self.provider}:{self.model}"

    @property
    def kind(self) -> Provider:
        return PROVIDERS[self.provider]

    @property
    def is_private(self) -> bool:
        """Whether it runs on this machine or network, where nobody sends a bill."""
        return bool(self.base_url) and is_private_host(urlsplit(self.base_url).hostname or "")


def parse_chain(text: str) -> tuple[ModelSpec, ...]:
    """The models that `text` names, in its order.

    Raises:
        UsageError: an unknown provider, option or value (the message names the known ones), or an address with a key in it.
    """
    parts = [part.strip() for part in text.split(",")]
    if not any(parts):
        raise UsageError("no language model is named", hint=_HINT)
    return tuple(_parse_model(part) for part in parts if part)


def _parse_model(text: str) -> ModelSpec:
    provider, colon, rest = text.partition(":")
    provider = provider.strip().lower()
    if provider not in PROVIDERS:
        raise UsageError(f"unknown provider {provider!r} in {text!r}; known: {', '.join(PROVIDERS)}", hint=_HINT)
    rest, _, options = rest.partition("?")
    model, at, address = rest.rpartition("@http")
    if not at:
        model, address = rest, ""
    else:
        address = f"http{address}"
    if not colon or not model.strip():
        raise UsageError(f"{text!r} names no model", hint=f"--model {provider}:NAME")
    spec = ModelSpec(provider, model.strip(), PROVIDERS[provider].base_url)
    if address:
        spec = replace(spec, base_url=_checked_url(address.strip(), text), custom_url=True)
    return _with_options(spec, options) if options else spec


def _checked_url(address: str, text: str) -> str:
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port  # a bad port is noticed when it is read
    except ValueError as error:
        raise UsageError(f"the address in {text!r} cannot be read: {error}", hint=_HINT) from error
    if not host:
        raise UsageError(f"the address in {text!r} has no host", hint="--model openai:NAME@http://127.0.0.1:8080/v1")
    if parts.username or parts.password:
        raise UsageError(
            "the address of a model holds a name or password; keys come from the environment or the keyring only",
            hint="export OPENAI_API_KEY=… and leave the address without it",
        )
    return address.rstrip("/")


def _with_options(spec: ModelSpec, options: str) -> ModelSpec:
    changes: dict[str, Any] = {}
    for name, value in parse_qsl(options, keep_blank_values=True):
        if name not in _OPTIONS:
            raise UsageError(
                f"unknown option {name!r} of {spec.label}; known: {', '.join(_OPTIONS)}",
                hint=f"--model '{spec.label}?schema=on&context=8192'",
            )
        try:
            changes[name] = _OPTIONS[name](value)
        except ValueError as error:
            raise UsageError(
                f"option {name}={value} of {spec.label}: {error}",
                hint=f"--model '{spec.label}?context=8192&reply=1024'",
            ) from error
    if ("input_usd" in changes) != ("output_usd" in changes):
        raise UsageError(
            f"{spec.label}: a price is two numbers, of a million tokens in and of a million out",
            hint=f"--model '{spec.label}?input_usd=0.5&output_usd=2'",
        )
    return replace(spec, **changes)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 10**8:
        raise ValueError("must be a whole number of tokens")
    return int(text)


def _amount(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError("must be zero or more, and finite")
    return value


def _switch(text: str) -> str:
    if text not in ("on", "off", "auto"):
        raise ValueError("must be on, off or auto")
    return text


def _variable(text: str) -> str:
    if not text.isidentifier() or not text.isascii():
        raise ValueError("must be the name of an environment variable, never a key itself")
    return text


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "schema": _switch,
    "context": _count,
    "reply": _count,
    "temperature": _amount,
    "input_usd": _amount,
    "output_usd": _amount,
    "key": _variable,
}


def is_private_host(host: str) -> bool:
    """Whether a host name or address is of this machine or a private network. Names are not looked up: one without a dot,
    or under a suffix kept for home and office networks (RFC 6762, RFC 8375, and `.internal`), counts as private."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith((".localhost", ".local", ".internal", ".home.arpa", ".lan"))
    return address.is_loopback or address.is_private or address.is_link_local
