"""A checkpoint on disk, opened with suspicion: weights of an untrusted candidate, as a file, a folder or a .pt."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch.contract.description import CONFIG_KEY
from autoresearch.contract.file_facts import file_sha256
from autoresearch.contract.tokenizer import FILE_NAME as TOKENIZER_NAME
from autoresearch.contract.tokenizer import FORMAT, Tokenizer
from autoresearch.hostile_text import one_line
from autoresearch.quantize.architecture import MAX_CONFIG_BYTES, ModelConfig, check_tensors, config_from_json
from autoresearch.vocabulary import DataCorrupt, DataMissing

if TYPE_CHECKING:
    import torch

WEIGHTS_NAMES = ("checkpoint.safetensors", "model.safetensors")  # in a folder, in this order
CONFIG_NAME = "config.json"
MAX_HEADER_BYTES = 1 << 24
MAX_TOKENIZER_BYTES = 1 << 27
_TRAIN = "autoresearch train --save checkpoint   (leaves a folder with all that is needed)"
_COMPILED = "_orig_mod."  # what torch.compile puts before the names of a wrapped model


@dataclass(frozen=True)
class Checkpoint:
    """Weights by name, on the CPU and as they were stored; what model they are; the tokenizer beside them.

    config_text is the configuration as the file gives it, None where it gives none.
    """

    tensors: dict[str, torch.Tensor]
    config_text: str | None
    tokenizer: Tokenizer | None
    path: Path
    sha256: str

    @cached_property
    def config(self) -> ModelConfig:
        """The shipped architecture's configuration, which the tensors agree with.

        Raises:
            DataMissing: the file says nothing of its configuration. DataCorrupt: it says nonsense.
            ArchitectureEdited: it is another model.
        """
        if self.config_text is None:
            raise DataMissing(
                f"{self.path} does not say what model it is: no `{CONFIG_KEY}` in its header, no {CONFIG_NAME} beside it",
                hint=_TRAIN,
            )
        config = config_from_json(self.config_text)
        check_tensors(config, self.tensors)
        return config

    @property
    def needed_tokenizer(self) -> Tokenizer:
        """The tokenizer, of the size of the model's vocabulary.

        Raises:
            DataMissing: there is none beside the weights. DataCorrupt: it is another model's.
        """
        if self.tokenizer is None:
            raise DataMissing(
                f"no {TOKENIZER_NAME} beside {self.path}, and without it ids are not text",
                hint=f"copy it from the prepared data (autoresearch prepare prints where), or: {_TRAIN}",
            )
        if self.tokenizer.get_vocab_size() != self.config.vocab_size:
            raise DataCorrupt(
                f"the tokenizer has {self.tokenizer.get_vocab_size()} ids and the model {self.config.vocab_size}",
                hint="give the tokenizer that the model was trained with: --tokenizer FILE",
            )
        return self.tokenizer


def open_checkpoint(path: Path, tokenizer: Path | None = None) -> Checkpoint:
    """Read weights, configuration and tokenizer.

    path: a .safetensors file; a folder that holds one (a snapshot logs/TAG/N, or what `train --save` left); or a .pt or
    .pth, loaded with weights only. tokenizer: a tokenizer.json of ours; by default the one in the same folder, if any.

    Raises:
        DataMissing: no such file. DataCorrupt: it is another kind of file, damaged, or holds NaN or infinity.
    """
    file = weights_in(path)
    _refuse_other_kinds(file)
    try:
        tensors, config_text = _from_torch(file) if file.suffix in (".pt", ".pth") else _from_safetensors(file)
    except OSError as error:
        raise DataCorrupt(f"cannot read {file}: {error}", hint=_TRAIN) from error
    if not tensors:
        raise DataCorrupt(f"{file} holds no tensors", hint=_TRAIN)
    _refuse_what_is_no_number(file, tensors)
    if config_text is None:
        config_text = _config_beside(file)
    return Checkpoint(tensors, config_text, tokenizer_for(file, tokenizer), file, file_sha256(file))


def weights_in(path: Path) -> Path:
    """The file of weights that `path` is or holds.

    Raises:
        DataMissing: there is none.
    """
    if path.is_dir():
        found = [path / name for name in WEIGHTS_NAMES if (path / name).is_file()]
        if found:
            return found[0]
        others = sorted(path.glob("*.safetensors"))
        if len(others) == 1:
            return others[0]
        raise DataMissing(
            f"no {WEIGHTS_NAMES[0]} in {path} (a snapshot has one when its experiment was kept)", hint=_TRAIN
        )
    if not path.is_file():
        raise DataMissing(f"no checkpoint at {path}", hint=_TRAIN)
    return path


def _refuse_other_kinds(file: Path) -> None:
    """Raises DataCorrupt for a GGUF, and for what is neither safetensors nor a .pt."""
    with file.open("rb") as stream:
        start = stream.read(8)
    if start.startswith(b"GGUF"):
        raise DataCorrupt(f"{file} is a GGUF, not a checkpoint", hint=f"autoresearch sample {file}")
    if file.suffix in (".pt", ".pth"):
        return
    size = file.stat().st_size
    header = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= header <= min(MAX_HEADER_BYTES, size - 8):
        raise DataCorrupt(
            f"{file} is not a safetensors file, or it is cut off ({size:,} bytes)",
            hint="give a .safetensors file, a snapshot folder logs/TAG/N, or a .pt",
        )


def _from_safetensors(file: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    from safetensors import SafetensorError, safe_open

    tensors = {}
    try:
        with safe_open(str(file), framework="pt", device="cpu") as opened:
            metadata = opened.metadata() or {}
            for name in opened.keys():  # noqa: SIM118  (it is no mapping)
                tensors[str(name)] = opened.get_tensor(name)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise DataCorrupt(
            f"{file} is damaged or cut off: {one_line(str(error), 200)}", hint="copy it again, or train again"
        ) from error
    return tensors, metadata.get(CONFIG_KEY)


def _from_torch(file: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    """A state dict, alone or under "model" or "state_dict" beside a "config". No code in the file is run."""
    import torch

    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise DataCorrupt(
            f"{file} cannot be loaded with weights only: {one_line(str(error), 200)}",
            hint="save it again as torch.save(model.state_dict(), FILE), or as safetensors",
        ) from error
    config: Any = None
    if isinstance(content, Mapping):
        config = content.get("config", content.get("model_config"))
        content = next((content[key] for key in ("model", "state_dict") if key in content), content)
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and (isinstance(value, torch.Tensor) or name in ("config", "model_config"))
        for name, value in content.items()
    ):
        raise DataCorrupt(f"{file} holds no state dict", hint="save it as torch.save(model.state_dict(), FILE)")
    tensors = {
        name.removeprefix(_COMPILED): value.detach()
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }
    if isinstance(config, Mapping):
        try:
            config = json.dumps(dict(config), sort_keys=True)
        except (TypeError, ValueError) as error:
            raise DataCorrupt(f"the `config` in {file} is not plain values: {error}", hint=_TRAIN) from error
    return tensors, config if isinstance(config, str) else None


def _refuse_what_is_no_number(file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        bad = int((~tensor.isfinite()).sum())
        if bad:
            raise DataCorrupt(
                f"{file}: {one_line(name, 80)} holds {bad:,} of {tensor.numel():,} values that are NaN or infinite: the run diverged",
                hint="take an earlier checkpoint, or train again",
            )


def _config_beside(file: Path) -> str | None:
    """The text of config.json in the same folder, for weights from elsewhere."""
    path = file.parent / CONFIG_NAME
    if not path.is_file() or path.stat().st_size > MAX_CONFIG_BYTES:
        return None
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise DataCorrupt(f"{path} is not text: {error}", hint=f"mend or remove {path}") from error


def tokenizer_for(file: Path, given: Path | None) -> Tokenizer | None:
    """The tokenizer that is given, or the one beside the weights; None where there is none.

    Raises:
        DataMissing: the given file is not there. DataCorrupt: it is no tokenizer.
    """
    path = given or file.parent / TOKENIZER_NAME
    if not path.is_file():
        if given:
            raise DataMissing(f"no tokenizer at {given}", hint="autoresearch prepare   (prints where it lies)")
        return None
    return read_tokenizer(path)


def read_tokenizer(path: Path) -> Tokenizer:
    """Our tokenizer.json, or the one that an export wrote for `tokenizers`.

    Raises:
        DataCorrupt: neither.
    """
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise DataCorrupt(f"{path} has {path.stat().st_size:,} bytes: no tokenizer", hint=_TRAIN)
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise DataCorrupt(f"tokenizer {path} is not text: {error}", hint=_TRAIN) from error
    if FORMAT in text[:200]:
        return Tokenizer.from_json(text)
    from autoresearch.quantize.token_table import tokenizer_from_huggingface

    return tokenizer_from_huggingface(text)
