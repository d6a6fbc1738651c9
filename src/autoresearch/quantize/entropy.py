"""Entropy coding of a tensor's codes: asymmetric numeral systems with the tensor's own histogram.

The codes of one tensor are alike in every group (each is scaled by its own norm), so one histogram serves all of them and
costs 4 bytes a symbol. The coder is `constriction` (Bamler, arXiv 2201.01741): exactly invertible fixed-point models, and
within 0.01 % of the entropy at 50 million codes a second where general compressors (zstd, brotli) round code lengths to
whole bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoresearch.vocabulary import DataCorrupt, UsageError

if TYPE_CHECKING:
    import torch

MAX_SYMBOLS = 1 << 14


def compress(codes: torch.Tensor, num_symbols: int) -> dict[str, torch.Tensor]:
    """Codes of any shape, integers in [0, num_symbols), to {"stream": uint8 [bytes], "counts": int32 [num_symbols]}.

    Raises:
        UsageError: the coder is not installed.
    """
    import numpy as np
    import torch

    stack = _constriction().stream.stack
    flat = codes.reshape(-1).to("cpu", torch.int32).numpy()
    counts = np.bincount(flat, minlength=num_symbols).astype(np.int32)
    coder = stack.AnsCoder()
    if flat.size:
        coder.encode_reverse(flat, _model(counts))
    words = np.asarray(coder.get_compressed()).astype("<u4")
    return {
        "stream": torch.from_numpy(words.view(np.uint8).copy()).to(codes.device),
        "counts": torch.from_numpy(counts).to(codes.device),
    }


def expand(stream: torch.Tensor, counts: torch.Tensor, num_codes: int) -> torch.Tensor:
    """What `compress` made, back to int16 [num_codes] on the stream's device.

    Raises:
        DataCorrupt: stream and histogram do not belong together.
    """
    import numpy as np
    import torch

    histogram = counts.cpu().numpy()
    if histogram.ndim != 1 or not 1 <= histogram.size <= MAX_SYMBOLS or (histogram < 0).any():
        raise _corrupt("its histogram is no list of counts")
    if int(histogram.astype(np.int64).sum()) != num_codes:
        raise _corrupt(
            f"its histogram counts {int(histogram.astype(np.int64).sum())} codes, the tensor has {num_codes}"
        )
    if stream.numel() % 4:
        raise _corrupt("its stream is cut off")
    if num_codes == 0:
        return torch.zeros(0, dtype=torch.int16, device=stream.device)
    words = stream.cpu().numpy().view("<u4").astype(np.uint32)
    try:
        coder = _constriction().stream.stack.AnsCoder(words)
    except ValueError as error:
        raise _corrupt(str(error)) from error
    codes = np.asarray(coder.decode(_model(histogram), num_codes))
    if not coder.is_empty() or not np.array_equal(np.bincount(codes, minlength=histogram.size), histogram):
        raise _corrupt("its stream does not end where the codes do")
    return torch.from_numpy(codes.astype(np.int16)).to(stream.device)


def _model(counts: Any) -> Any:
    """The coder's model of a histogram. Two symbols at least: it knows no alphabet of one."""
    import numpy as np

    padded = np.append(counts, 0) if counts.size == 1 else counts
    probabilities = (padded / max(1, int(padded.sum(dtype=np.int64)))).astype(np.float32)
    return _constriction().stream.model.Categorical(probabilities, perfect=False)


def _constriction() -> Any:
    try:
        import constriction
    except ImportError as error:
        raise UsageError(
            "entropy coding needs the package constriction", hint="pip install 'autoresearch[quantize]'"
        ) from error
    return constriction


def _corrupt(why: str) -> DataCorrupt:
    return DataCorrupt(f"an entropy-coded tensor cannot be read: {why}", hint="quantize the checkpoint again")
