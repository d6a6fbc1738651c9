"""GGUF files: what is in them, that they come back, and which are refused."""

import errno
import os
import struct

import numpy as np
import pytest
import torch
from small_models import full_config, portable_config, some_ids, tokenizer, write_checkpoint

from autoresearch.files import DiskError
from autoresearch.quantize import gguf as ours
from autoresearch.quantize.checkpoint import open_checkpoint
from autoresearch.quantize.gguf import open_gguf, type_for, type_named, write_gguf
from autoresearch.quantize.gguf_file import LibraryMissing, read_raw
from autoresearch.quantize.reference import ReferenceGPT, load_reference
from autoresearch.vocabulary import DataCorrupt, DataMissing, UsageError

gguf = pytest.importorskip("gguf", reason="pip install 'autoresearch[export]'")


def logits_of(path, ids):
    found = open_gguf(path)
    return ReferenceGPT(found.config).take(found.tensors)(ids)


def test_a_portable_model_becomes_apertus_and_computes_the_same(portable, tmp_path):
    table = write_gguf(portable, tmp_path / "m.gguf", type_name="f32")
    found = open_gguf(tmp_path / "m.gguf")
    assert found.architecture == "apertus" and found.tokenizer.sha256 == tokenizer().sha256
    assert found.table == table
    ids = some_ids(portable.config)
    torch.testing.assert_close(logits_of(tmp_path / "m.gguf", ids), load_reference(portable)(ids), atol=2e-5, rtol=0)


def test_a_full_model_comes_back_bit_for_bit(full, tmp_path):
    write_gguf(full, tmp_path / "m.gguf", type_name="f32")
    found = open_gguf(tmp_path / "m.gguf")
    assert found.architecture == "autoresearch" and found.config == full.config
    assert set(found.tensors) == set(full.tensors)
    assert all(torch.equal(found.tensors[name], full.tensors[name]) for name in full.tensors)


def test_the_metadata_is_what_llama_cpp_asks_for(portable, tmp_path):
    write_gguf(portable, tmp_path / "m.gguf", title="nov21-7")
    _, fields, arrays = read_raw(tmp_path / "m.gguf")
    assert fields["GGUF.version"] == 3 and fields["general.name"] == "nov21-7"
    assert fields["general.architecture"] == "apertus" and fields["general.file_type"] == 32
    wanted = {
        "context_length": 32, "embedding_length": 64, "block_count": 3, "feed_forward_length": 256, "vocab_size": 384,
        "attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 16, "rope.freq_base": 10000.0,
    }  # fmt: skip
    assert {name: fields[f"apertus.{name}"] for name in wanted} == wanted
    assert fields["apertus.attention.layer_norm_rms_epsilon"] == 2.0**-23
    assert fields["autoresearch.checkpoint_sha256"] == portable.sha256
    assert len(fields["xielu.alpha_p"]) == 3 and np.log1p(np.exp(fields["xielu.alpha_p"][0])) == pytest.approx(
        1, abs=1e-7
    )
    assert fields["xielu.beta"] == [0, 0, 0] and np.exp(fields["xielu.alpha_n"][0]) < 1e-43
    assert sorted(name for name in arrays if name.startswith("blk.1.")) == [
        f"blk.1.{part}.weight"
        for part in (
            "attn_k", "attn_k_norm", "attn_norm", "attn_output", "attn_q", "attn_q_norm", "attn_v", "ffn_down", "ffn_norm",
            "ffn_up",
        )
    ]  # fmt: skip


def test_a_stock_reader_accepts_the_file(full, tmp_path):
    write_gguf(full, tmp_path / "m.gguf", type_name="q8_0")
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert types["token_embd.weight"] == types["blk.2.value_embd.weight"] == "Q8_0"
    assert types["blk.2.attn_ve_gate.weight"] == types["resid_lambdas"] == "F32"


@pytest.mark.parametrize(
    ("kind", "close"), [("bf16", 0.2), ("q8_0", 0.6), ("q5_1", 3), ("q5_0", 3), ("q4_1", 6), ("q4_0", 6)]
)
def test_every_type_is_read_back_and_is_smaller_than_the_one_before(portable, tmp_path, kind, close):
    table = write_gguf(portable, tmp_path / "m.gguf", type_name=kind)
    assert {entry.type for entry in table} == {"f32", kind}
    ids = some_ids(portable.config)
    off = (logits_of(tmp_path / "m.gguf", ids) - load_reference(portable)(ids)).abs().max()
    assert 0 < off < close
    bits = {"bf16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5}[kind]
    matrix = next(entry for entry in table if entry.name == "output.weight")
    assert 8 * matrix.num_bytes == bits * 384 * 64


def test_columns_that_do_not_divide_become_bf16(tmp_path):
    config = full_config(n_embd=48, n_head=2, n_kv_head=2)  # 48 is no multiple of 32; 4 * 48 is
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", config))
    types = {entry.name: entry.type for entry in write_gguf(checkpoint, tmp_path / "m.gguf", type_name="q4_0")}
    assert types["blk.0.attn_q.weight"] == types["output.weight"] == "bf16"
    assert types["blk.0.ffn_down.weight"] == "q4_0"
    assert open_gguf(tmp_path / "m.gguf").config == config


def test_f16_is_never_written_and_ternary_types_are_no_turboquant():
    assert type_for("x.weight", (4, 64), "q8_0") == "q8_0"
    with pytest.raises(UsageError, match="overflows"):
        type_named("F16")
    with pytest.raises(UsageError, match="ternary"):
        type_named("tq1_0")
    with pytest.raises(UsageError, match="can write"):
        type_named("q3_k")


def test_apertus_is_refused_for_a_full_model_with_all_that_is_in_the_way(full, tmp_path):
    with pytest.raises(UsageError, match="value embeddings, x0 mixing, sliding windows, softcap 15") as raised:
        write_gguf(full, tmp_path / "m.gguf", architecture="apertus")
    assert 'ARCHITECTURE = "portable"' in raised.value.hint
    assert not (tmp_path / "m.gguf").exists()


def test_our_own_architecture_can_be_asked_for_a_portable_model(portable, tmp_path):
    write_gguf(portable, tmp_path / "m.gguf", type_name="f32", architecture="autoresearch")
    found = open_gguf(tmp_path / "m.gguf")
    assert all(torch.equal(found.tensors[name], portable.tensors[name]) for name in portable.tensors)


def test_a_lambda_of_zero_cannot_be_folded(tmp_path, portable):
    portable.tensors["resid_lambdas"][1] = 0
    assert {entry.name for entry in write_gguf(portable, tmp_path / "m.gguf")} >= {"resid_lambdas"}
    with pytest.raises(UsageError, match="resid_lambda of exactly 0"):
        write_gguf(portable, tmp_path / "n.gguf", architecture="apertus")


@pytest.mark.parametrize("keep", [0, 4, 23, 400, 9_000, 120_000])
def test_a_truncated_file_is_refused(portable, tmp_path, keep):
    write_gguf(portable, tmp_path / "m.gguf")
    os.truncate(tmp_path / "m.gguf", keep)
    with pytest.raises(DataCorrupt):
        open_gguf(tmp_path / "m.gguf")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataMissing):
        open_gguf(tmp_path / "none.gguf")
    (tmp_path / "m.gguf").write_bytes(b"GGML" + bytes(200))
    with pytest.raises(DataCorrupt, match="no GGUF: it begins with b'GGML'"):
        open_gguf(tmp_path / "m.gguf")
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60) + bytes(200))
    with pytest.raises(DataCorrupt, match="cut off or damaged"):
        open_gguf(tmp_path / "m.gguf")


def test_a_gguf_of_another_program_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("x", np.zeros((2, 2), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(DataCorrupt, match=r"another program.*llama"):
        open_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), OSError("100 requested and 3 written")]
)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(portable, tmp_path, monkeypatch, error):
    (tmp_path / "m.gguf").write_text("older")

    def full_disk(*_arguments, **_options):
        raise error

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensors_to_file", full_disk)
    with pytest.raises(DiskError, match="disk full") as raised:
        write_gguf(portable, tmp_path / "m.gguf")
    assert "export again" in raised.value.hint
    assert (tmp_path / "m.gguf").read_text() == "older"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["m.gguf"]


def test_without_the_library_it_says_what_to_install(portable, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(LibraryMissing) as raised:
        write_gguf(portable, tmp_path / "m.gguf")
    assert "autoresearch[export]" in raised.value.hint


def test_portable_with_a_softcap_goes_under_our_own_name(tmp_path):
    checkpoint = open_checkpoint(write_checkpoint(tmp_path / "c", portable_config(softcap=15.0)))
    assert ours.architecture_for(checkpoint) == "autoresearch"
