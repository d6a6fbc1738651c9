"""A folder that the `transformers` library loads: a stock class where one computes the model, else our modelling file.

    ApertusForCausalLM      portable models without a softcap; others that read the class run it too (vLLM, llama.cpp's
                            converter)
    NanoChatForCausalLM     portable but for a softcap, which that class has
    AutoresearchForCausalLM any shipped model: modeling_autoresearch.py lies in the folder, loaded with trust_remote_code

Writing needs no transformers. `autoresearch.json` in the folder is for our own loader.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoresearch.contract.building import aside
from autoresearch.contract.tokenizer import SPECIALS
from autoresearch.hostile_text import one_line
from autoresearch.quantize.architecture import MAX_CONFIG_BYTES, RMS_EPS, ModelConfig, check_tensors, config_from_values
from autoresearch.quantize.checkpoint import open_checkpoint
from autoresearch.quantize.folding import fold, foldable, swapped
from autoresearch.quantize.gguf_file import XIELU_ALPHA_N, XIELU_ALPHA_P, XIELU_BETA, XIELU_EPS, Written, export_error
from autoresearch.quantize.token_table import huggingface_json
from autoresearch.vocabulary import DataCorrupt, UsageError

if TYPE_CHECKING:
    import torch

    from autoresearch.contract.tokenizer import Tokenizer
    from autoresearch.quantize.checkpoint import Checkpoint

APERTUS, NANOCHAT, OWN = "ApertusForCausalLM", "NanoChatForCausalLM", "AutoresearchForCausalLM"
TYPES = ("f32", "bf16")
OWN_FILE = "autoresearch.json"
WEIGHTS_FILE = "model.safetensors"
MODELING_FILE = "modeling_autoresearch.py"
FORMAT_VERSION = 1
_AGAIN = "autoresearch export CHECKPOINT --format hf"

_SHARED = {
    "attn.c_q.weight": "self_attn.q_proj.weight",
    "attn.c_k.weight": "self_attn.k_proj.weight",
    "attn.c_v.weight": "self_attn.v_proj.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
}
_MLP_NAMES = {
    APERTUS: {"mlp.c_fc.weight": "mlp.up_proj.weight", "mlp.c_proj.weight": "mlp.down_proj.weight"},
    NANOCHAT: {"mlp.c_fc.weight": "mlp.fc1.weight", "mlp.c_proj.weight": "mlp.fc2.weight"},
}


def class_for(checkpoint: Checkpoint) -> str:
    """The class of transformers that computes this checkpoint."""
    config, tensors = checkpoint.config, checkpoint.tensors
    if not foldable(config, tensors):
        return APERTUS
    return OWN if foldable(config, tensors, with_softcap=True) else NANOCHAT


def stock_name(name: str, cls: str) -> str:
    """The name of one of train.py's tensors in a stock class."""
    if name == "wte.weight":
        return "model.embed_tokens.weight"
    if not name.startswith("layers."):
        return name
    _, number, part = name.split(".", 2)
    return f"model.layers.{number}.{(_SHARED | _MLP_NAMES[cls])[part]}"


def meant(checkpoint: Checkpoint, cls: str) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """The configuration and the tensors that the folder is to hold, under their names there, float32."""
    import torch

    config, tensors = checkpoint.config, dict(checkpoint.tensors)
    if cls == OWN:
        if not config.x0_mix:
            tensors.pop("x0_lambdas", None)
        return config, {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
    stock = cls == APERTUS
    config, folded = fold(config, tensors, normalise=stock, swap=stock, with_softcap=not stock)
    del folded["resid_lambdas"]
    found = {stock_name(name, cls): tensor for name, tensor in folded.items()}
    if not stock:
        return config, found
    for i in range(config.n_layer):
        at = f"model.layers.{i}"
        found[f"{at}.attention_layernorm.weight"] = torch.ones(config.n_embd)
        found[f"{at}.feedforward_layernorm.weight"] = torch.ones(config.n_embd)
        found[f"{at}.self_attn.q_norm.weight"] = torch.ones(config.head_dim)
        found[f"{at}.self_attn.k_norm.weight"] = torch.ones(config.head_dim)
        found[f"{at}.mlp.act_fn.alpha_p"] = torch.tensor([XIELU_ALPHA_P])
        found[f"{at}.mlp.act_fn.alpha_n"] = torch.tensor([XIELU_ALPHA_N])
        found[f"{at}.mlp.act_fn.beta"] = torch.tensor(XIELU_BETA)
        found[f"{at}.mlp.act_fn.eps"] = torch.tensor(XIELU_EPS)
    found["model.norm.weight"] = torch.ones(config.n_embd)
    return config, found


def config_json(config: ModelConfig, cls: str, type_name: str) -> dict[str, Any]:
    """What config.json holds."""
    bos = config.vocab_size - len(SPECIALS)
    common: dict[str, Any] = {
        "architectures": [cls],
        "dtype": {"f32": "float32", "bf16": "bfloat16"}[type_name],
        "vocab_size": config.vocab_size,
        "bos_token_id": bos,
        "eos_token_id": bos,
        "pad_token_id": bos + 1,  # another special: `generate` masks out what equals it
        "tie_word_embeddings": False,
        "use_cache": True,
    }
    if cls == OWN:
        names = ["sequence_len", "n_layer", "n_head", "n_kv_head", "n_embd", "softcap", "rope_base"]
        names += ["value_embeddings", "x0_mix"]
        return common | {
            "model_type": "autoresearch",
            "auto_map": {
                "AutoConfig": "modeling_autoresearch.AutoresearchConfig",
                "AutoModelForCausalLM": "modeling_autoresearch.AutoresearchForCausalLM",
            },
            **{name: getattr(config, name) for name in names},
            "windows": config.windows,
        }
    stock = {
        "hidden_size": config.n_embd,
        "intermediate_size": 4 * config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "max_position_embeddings": config.sequence_len,
        "rms_norm_eps": RMS_EPS,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_base},
        "attention_bias": False,
        "attention_dropout": 0.0,
    }
    if cls == APERTUS:
        return common | stock | {"model_type": "apertus", "hidden_act": "xielu"}
    cap = {"final_logit_softcapping": config.softcap or None}
    return common | stock | {"model_type": "nanochat", "hidden_act": "relu2", **cap}


def write_hf_folder(
    checkpoint: Checkpoint, path: Path, *, type_name: str = "f32", title: str = ""
) -> tuple[Written, ...]:
    """Write the folder, whole or not at all; an earlier export in its place is replaced. What each tensor became.

    type_name: of the matrices, f32 or bf16.

    Raises:
        UsageError: the type cannot be, or `path` holds something else. DataMissing, DataCorrupt, ArchitectureEdited: as the
        checkpoint's configuration and tokenizer. DiskError: no space.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if type_name not in TYPES:
        raise UsageError(f"a folder for transformers holds f32 or bf16, not {type_name!r:.40}", hint="--type bf16")
    if path.exists() and not (path / OWN_FILE).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"{path} is there and is no export of ours", hint=f"--out {path.name}-2")
    cls = class_for(checkpoint)
    tokenizer = checkpoint.needed_tokenizer
    config, tensors = meant(checkpoint, cls)
    if type_name == "bf16":
        tensors = {name: t.to(torch.bfloat16) if t.dim() == 2 else t for name, t in tensors.items()}
    own = {
        "format_version": FORMAT_VERSION,
        "class": cls,
        "config": json.loads(config.to_json()),
        "checkpoint_sha256": checkpoint.sha256,
    }
    files = {
        "config.json": config_json(config, cls, type_name),
        "generation_config.json": _generation(config),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIALS[0],
            "eos_token": SPECIALS[0],
            "pad_token": SPECIALS[1],
            "model_max_length": config.sequence_len,
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,  # the name of a special inside a text is text, as in our own encoder
        },
        OWN_FILE: own,
    }
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        with aside(path.absolute()) as folder:
            for name, value in files.items():
                (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
            (folder / "tokenizer.json").write_text(huggingface_json(tokenizer), encoding="utf-8")
            (folder / "README.md").write_text(
                _card(title or checkpoint.path.parent.name, cls, config), encoding="utf-8"
            )
            if cls == OWN:
                text = Path(__file__).with_name(MODELING_FILE).read_text(encoding="utf-8")
                (folder / MODELING_FILE).write_text(text.removeprefix("# mypy: ignore-errors\n"), encoding="utf-8")
            save_file(tensors, str(folder / WEIGHTS_FILE), {"format": "pt"})
    except OSError as error:
        raise export_error(error, path) from error
    except SafetensorError as error:  # how it reports a full disk
        raise export_error(OSError(None, f"requested and not written: {error}"), path) from error
    names = {torch.float32: "f32", torch.bfloat16: "bf16"}
    return tuple(
        Written(name, names[t.dtype], tuple(t.shape), t.numel() * t.element_size()) for name, t in tensors.items()
    )


def _generation(config: ModelConfig) -> dict[str, Any]:
    bos = config.vocab_size - len(SPECIALS)
    return {
        "bos_token_id": bos,
        "eos_token_id": bos,
        "pad_token_id": bos + 1,  # another special: `generate` masks out what equals it
        "do_sample": True,
        "temperature": 0.8,
        "top_k": 50,
        "max_new_tokens": max(1, min(256, config.sequence_len // 2)),
    }


def _card(title: str, cls: str, config: ModelConfig) -> str:
    trust = ", trust_remote_code=True" if cls == OWN else ""
    return f"""# {one_line(title, 80).translate({ord(c): None for c in "<>[]`"}) or "autoresearch"}

A GPT trained by autoresearch, exported for transformers as {cls}: {config.n_layer} layers, width {config.n_embd}, context
{config.sequence_len}, vocabulary {config.vocab_size}. It continues text; it was not taught to answer.

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("."{trust})
    model = AutoModelForCausalLM.from_pretrained("."{trust})
    print(tokenizer.decode(model.generate(**tokenizer("Once", return_tensors="pt"))[0]))
"""


# -- reading ------------------------------------------------------------------------------------------------------------


def is_hf_folder(path: Path) -> bool:
    """Whether this folder is an export of ours."""
    return (path / OWN_FILE).is_file()


def open_hf_folder(path: Path) -> tuple[ModelConfig, dict[str, torch.Tensor], Tokenizer, str, tuple[Written, ...]]:
    """Configuration, float32 tensors under the names of train.py, tokenizer, class and table of a folder of ours.

    Raises:
        DataMissing, DataCorrupt: a file is missing, cut off or damaged. ArchitectureEdited: wrong tensors.
    """
    import torch

    own = path / OWN_FILE
    try:
        text = own.read_bytes()[: MAX_CONFIG_BYTES + 1].decode()
        values = json.loads(text)
        cls, version, config_values = values["class"], values["format_version"], values["config"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataCorrupt(f"{own} is damaged: {one_line(str(error), 120)}", hint=_AGAIN) from error
    if version != FORMAT_VERSION or cls not in (APERTUS, NANOCHAT, OWN) or not isinstance(config_values, dict):
        raise DataCorrupt(f"{own} was written by another version of this program", hint=_AGAIN)
    config = config_from_values(config_values)
    opened = open_checkpoint(path / WEIGHTS_FILE)
    names = {torch.float32: "f32", torch.bfloat16: "bf16"}
    table = tuple(
        Written(name, names.get(t.dtype, str(t.dtype)), tuple(t.shape), t.numel() * t.element_size())
        for name, t in opened.tensors.items()
    )
    tensors = named_as_trained(config, {name: t.to(torch.float32) for name, t in opened.tensors.items()}, cls)
    tokenizer = replace(opened, config_text=config.to_json(), tensors=tensors).needed_tokenizer
    return config, tensors, tokenizer, cls, table


def named_as_trained(config: ModelConfig, tensors: dict[str, torch.Tensor], cls: str) -> dict[str, torch.Tensor]:
    """Tensors of a folder under the names of train.py, in its rotation.

    Raises:
        ArchitectureEdited: names or shapes are not those of the class.
    """
    import torch

    from autoresearch.quantize.architecture import shapes_of

    if cls == OWN:
        check_tensors(config, tensors)
        return tensors
    names = {stock_name(name, cls): name for name in shapes_of(config) if not name.endswith("_lambdas")}
    ours = ("norm.weight", "_layernorm.weight")
    found = {
        names.get(name, name): tensor
        for name, tensor in tensors.items()
        if not (cls == APERTUS and (name.endswith(ours) or ".mlp.act_fn." in name))
    }
    found["resid_lambdas"] = torch.ones(config.n_layer)
    check_tensors(config, found)
    if cls == APERTUS:
        for i in range(config.n_layer):
            for name in (f"layers.{i}.attn.c_q.weight", f"layers.{i}.attn.c_k.weight"):
                found[name] = swapped(found[name], config.head_dim)
    return found
