"""One model of a chain while a session lasts: its key, price and manners, whether it rests, and how a call to it is made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from autoresearch.providers.dialects import Heard, check_installed, talk_of, temperature_of
from autoresearch.providers.exchange import Request, Usage
from autoresearch.providers.keys import KeyringLookup, find_key, key_names_of, needs_key
from autoresearch.providers.line import Line, Patience
from autoresearch.providers.manners import Manners, learned, manners_of
from autoresearch.providers.prices import Price, price_of
from autoresearch.providers.replay import Recording
from autoresearch.providers.specification import ModelSpec
from autoresearch.providers.tokens import estimated_input
from autoresearch.providers.troubles import CallFailed, Trouble
from autoresearch.vocabulary import ProviderUnavailable

LEAST_REPLY = 1024  # tokens: less room than this does not hold an idea with its edit
_FIRST_REST = 60.0  # seconds; doubles with each failure in a row
_FIRST_QUOTA_REST = 600.0
_LONGEST_REST = 3600.0  # a provider that asks for more is asked again after an hour


@dataclass(eq=False)
class Voice:
    """What a session knows of one model. `out`: why it is not asked again in this session."""

    spec: ModelSpec
    key: str | None = None
    price: Price | None = None
    manners: Manners = field(default_factory=Manners)
    recording: Recording | None = None
    out: str = ""
    out_hint: str = ""
    rest_until: float = 0.0  # on the chain's clock
    failures: int = 0  # in a row
    why: str = ""  # of the last failure
    estimate_ratio: float = 1.0  # reported input tokens over estimated ones: the largest seen, at least 1

    def __repr__(self) -> str:
        return f"Voice({self.spec.label})"  # never the key

    def expected_input(self, request: Request) -> int:
        """Tokens that this request is expected to have, from above."""
        return int(self._estimated(request) * self.estimate_ratio) + 1

    def fitted_reply(self, request: Request) -> int:
        """Most tokens of a reply: what is asked for, within this model's own limits.

        Raises:
            CallFailed: TOO_LONG, when too little room is left beside the prompt.
        """
        wanted = min(request.max_tokens, self.manners.reply or request.max_tokens)
        if self.manners.context is None:
            return wanted
        prompt = self.expected_input(request)
        room = self.manners.context - prompt
        if room < min(LEAST_REPLY, wanted):
            raise CallFailed(
                Trouble.TOO_LONG, f"about {prompt:,} tokens, and it takes {self.manners.context:,} with its reply"
            )
        return min(wanted, room)

    def worst_usd(self, num_input: int, num_output: int) -> float | None:
        return self.price.usd(Usage(num_input, num_output)) if self.price else None

    def call(self, request: Request, max_tokens: int, patience: Patience, stopped: Callable[[], bool]) -> Heard:
        """Make one call.

        Raises:
            CallFailed: no reply came.
            Interrupted: the user asked to stop.
        """
        spec = self.spec
        line = Line(
            patience, key=self.key, address=spec.base_url, private=spec.is_private, own_address=not spec.custom_url
        )
        return line.call(talk_of(self.spec, self.key, request, self.manners, max_tokens), stopped)

    def learn(self, failed: CallFailed, request: Request, max_tokens: int) -> bool:
        """Whether the failure taught how to ask better."""
        better = learned(
            self.manners,
            failed,
            sent_tokens=max_tokens,
            temperature=temperature_of(self.spec, request, self.manners) is not None,
            schema=request.schema is not None,
        )
        self.manners = better or self.manners
        return better is not None

    def answered(self, request: Request, usage: Usage) -> None:
        """A reply came: no rest, and the estimate of tokens is better than before."""
        self.failures, self.rest_until, self.why = 0, 0.0, ""
        if not usage.estimated:
            self.estimate_ratio = max(self.estimate_ratio, usage.input_tokens / self._estimated(request))

    def _estimated(self, request: Request) -> int:
        """Estimated tokens of what is sent of a request: its schema only where this model is held to one."""
        return estimated_input(request if self.manners.schema_form else replace(request, schema=None))

    def failed(self, failed: CallFailed, why: str, now: float) -> None:
        """No reply came: out for the session, resting, or neither, by the kind of trouble. `why` is redacted."""
        self.why = why
        if failed.lasts:
            self.out = why
        elif failed.trouble is not Trouble.TOO_LONG and self.recording is None:
            first = _FIRST_QUOTA_REST if failed.trouble is Trouble.QUOTA else _FIRST_REST
            rest = min(first * 2**self.failures, _LONGEST_REST)
            self.failures += 1
            self.rest_until = now + min(max(rest, failed.retry_after or 0.0), _LONGEST_REST)


def voice_of(spec: ModelSpec, environment: Mapping[str, str], keyring: KeyringLookup | None) -> Voice:
    """A model with its key and price. One that cannot be asked at all comes back with `out` set.

    Raises:
        UsageError: the key would travel unencrypted.
    """
    voice = Voice(spec)
    try:
        check_installed(spec)
    except ProviderUnavailable as error:
        voice.out, voice.out_hint = error.message, error.hint
        return voice
    if not spec.base_url:
        variable = spec.kind.url_variable
        endpoint = environment.get(variable, "").strip().rstrip("/")
        if not endpoint:
            voice.out, voice.out_hint = (
                "its address is not known",
                f"export {variable}=https://YOUR-RESOURCE.openai.azure.com",
            )
            return voice
        path = "" if endpoint.endswith("/v1") else "/openai/v1"
        voice.spec = spec = replace(spec, base_url=endpoint + path)
    voice.key = find_key(spec, environment, keyring)
    if voice.key is None and needs_key(spec):
        names = key_names_of(spec)
        variable = names[0] if names else "MY_KEY"
        where = (
            f"set {variable}" if names else "at an address of your own, name the variable that holds it: ?key=MY_KEY"
        )
        voice.out, voice.out_hint = (
            f"no key ({where})",
            f"export {variable}=…   (or: keyring set autoresearch {variable})",
        )
    voice.price = price_of(spec)
    voice.manners = manners_of(spec, voice.price.context if voice.price else None)
    return voice
