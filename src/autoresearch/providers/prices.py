"""What tokens cost: the user's own figures, nothing on one's own machines, else genai-prices (a list in that package)."""

from __future__ import annotations

from dataclasses import dataclass

from autoresearch.providers.exchange import Usage
from autoresearch.providers.specification import ModelSpec

_MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """USD of a call with one model. Flat figures per million tokens, or the name of the model in genai-prices' list."""

    input_usd: float = 0.0
    output_usd: float = 0.0
    listed: str = ""
    price_id: str = ""  # provider in that list; "" when the address decides
    url: str = ""

    def usd(self, usage: Usage) -> float:
        """What these tokens cost, cached ones at their own price where the list has one."""
        if not self.listed:
            return (usage.input_tokens * self.input_usd + usage.output_tokens * self.output_usd) / _MILLION
        return float(_calculation(self, usage).total_price)

    @property
    def is_free(self) -> bool:
        return not self.listed and not self.input_usd and not self.output_usd

    @property
    def context(self) -> int | None:
        """Tokens of prompt and reply together, where the list knows."""
        if not self.listed:
            return None
        window = _calculation(self, Usage(1, 1)).model.context_window
        return int(window) if window else None


def price_of(spec: ModelSpec) -> Price | None:
    """The price in force, or None where nobody knows it. Reads no network: the list is part of the installed package.

    A server on this machine or a private network costs nothing unless `?input_usd=` says otherwise.
    """
    if spec.input_usd is not None and spec.output_usd is not None:
        return Price(spec.input_usd, spec.output_usd)
    if spec.kind.dialect == "replay" or spec.is_private:
        return Price()
    # at the user's own address a provider's price holds only where the list knows that address
    price = Price(listed=spec.model, price_id="" if spec.custom_url else spec.kind.price_id, url=spec.base_url)
    if not spec.custom_url and not spec.kind.price_id:
        return None
    try:
        _calculation(price, Usage(1, 1))
    except (LookupError, ImportError):
        return None
    return price


def _calculation(price: Price, usage: Usage):  # type: ignore[no-untyped-def]  # of an optional package
    """genai_prices.PriceCalculation. Raises LookupError for a model that is not in the list."""
    import genai_prices

    counted = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        cache_read_tokens=min(usage.cached_tokens, usage.input_tokens),
        output_tokens=usage.output_tokens,
    )
    if price.price_id:
        return genai_prices.calc_price(counted, price.listed, provider_id=price.price_id)
    return genai_prices.calc_price(counted, price.listed, provider_api_url=price.url)
