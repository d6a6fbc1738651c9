"""Where a provider's key comes from: the environment, else the operating system's keyring. Nowhere else."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from autoresearch.providers.specification import ModelSpec, is_private_host
from autoresearch.vocabulary import UsageError

KEYRING_SERVICE = "autoresearch"

KeyringLookup = Callable[[str], str | None]


def key_names_of(spec: ModelSpec) -> tuple[str, ...]:
    """Variables that may hold this model's key, in order. Empty where none is sent.

    A provider's own key goes to that provider alone: to another address a key is sent only when `?key=` names it, so that
    an address in somebody's pyproject.toml cannot collect one.
    """
    if spec.key:
        return (spec.key,)
    return () if spec.custom_url else spec.kind.key_names


def needs_key(spec: ModelSpec) -> bool:
    """Whether a call without a key is bound to be refused."""
    if spec.kind.dialect == "replay":
        return False
    return bool(spec.key) or not spec.is_private


def find_key(spec: ModelSpec, environment: Mapping[str, str], keyring: KeyringLookup | None = None) -> str | None:
    """The key, or None when there is none. `keyring` is asked after the environment: `from_keyring` unless given.

    Raises:
        UsageError: a key would travel unencrypted to a public host.
    """
    for name in key_names_of(spec):
        # only where a key is bound to be needed: asking a keyring may open a dialog
        value = environment.get(name, "").strip() or (
            ((keyring or from_keyring)(name) or "").strip() if needs_key(spec) else ""
        )
        if value:
            _refuse_plain_http(spec)
            return value
    return None


def _refuse_plain_http(spec: ModelSpec) -> None:
    parts = urlsplit(spec.base_url)
    if parts.scheme == "http" and not is_private_host(parts.hostname or ""):
        raise UsageError(
            f"{spec.label}: its key would travel unencrypted to {parts.hostname}",
            hint=f"use https:// in the address of {spec.label}",
        )


def from_keyring(name: str) -> str | None:
    """The entry `name` of service "autoresearch", or None: no keyring, a locked one and a missing entry are alike.

    Stored once with `keyring set autoresearch OPENAI_API_KEY`.
    """
    try:
        keyring = importlib.import_module("keyring")
        errors = importlib.import_module("keyring.errors")
    except ImportError:
        return None
    try:
        value = keyring.get_password(KEYRING_SERVICE, name)
    except (errors.KeyringError, OSError, RuntimeError):
        return None  # locked, dismissed, or without a session to ask in
    return value if isinstance(value, str) else None
