"""The verbs that differ between array libraries: torch and numpy say the same, and hand out no shared storage."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoresearch.backends.runtime import NumpyRuntime, TorchRuntime, runtime_in_use

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def on_cpu():
    """The torch runtime on the CPU, whatever this machine has."""
    return torch_on_cpu()


def torch_on_cpu():
    runtime = TorchRuntime()
    runtime.device = torch.device("cpu")
    return runtime


def table_models(vocab_size, seed, scale=2.0):
    """The same bigram table as a numpy and as a torch model."""
    table = (np.random.default_rng(seed).normal(size=(vocab_size, vocab_size)) * scale).astype(np.float32)
    weight = torch.nn.Parameter(torch.from_numpy(table))
    return lambda inputs: table[inputs], lambda inputs: weight[inputs]


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 9), st.integers(2, 300), st.integers(0, 2**32), st.sampled_from([0.1, 2.0, 8.0])
)
def test_torch_and_numpy_agree_on_claims_and_logits(B, T, V, seed, scale):  # noqa: N803
    random = np.random.default_rng(seed)
    inputs, targets = random.integers(0, V, (B, T)), random.integers(0, V, (B, T))
    rows, columns = random.integers(0, B, 6), random.integers(0, T, 6)
    plain_model, torch_model = table_models(V, seed, scale)
    answers = []
    for runtime, model in ((NumpyRuntime(), plain_model), (torch_on_cpu(), torch_model)):
        logits = runtime.logits(model, inputs)
        answers.append((runtime.nll(logits, targets), runtime.pick(logits, rows, columns)))
    for nll, picked in answers:
        assert (nll.shape, nll.dtype) == ((B, T), np.float32)
        assert (picked.shape, picked.dtype) == ((6, V), np.float32)
    np.testing.assert_allclose(answers[0][0], answers[1][0], atol=1e-5, rtol=1e-6)
    np.testing.assert_allclose(answers[0][1], answers[1][1], atol=1e-5)


@pytest.mark.parametrize("runtime_class", [NumpyRuntime, torch_on_cpu])
def test_claims_are_nats_by_hand(runtime_class):
    runtime = runtime_class()
    logits = np.log(np.array([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]], dtype=np.float32)) + 3.0  # normalised by nll
    model = (lambda _: logits) if isinstance(runtime, NumpyRuntime) else (lambda _: torch.from_numpy(logits))
    nll = runtime.nll(runtime.logits(model, np.zeros((1, 2), dtype=np.int64)), np.array([[0, 2]]))
    np.testing.assert_allclose(nll, [[np.log(2), -np.log(0.7)]], atol=1e-6)


@pytest.mark.parametrize("runtime_class", [NumpyRuntime, torch_on_cpu])
def test_huge_logits_give_finite_claims(runtime_class):
    runtime = runtime_class()
    logits = np.array([[[1e4, -1e4]]], dtype=np.float32)
    given_logits = logits if isinstance(runtime, NumpyRuntime) else torch.from_numpy(logits)
    assert runtime.nll(given_logits, np.array([[0]])).tolist() == [[0.0]]
    assert runtime.nll(given_logits, np.array([[1]])).tolist() == [[2e4]]


def test_placed_tokens_have_storage_of_their_own_and_of_their_size(on_cpu):
    rows = np.arange(5 * 9, dtype=np.int64).reshape(5, 9)
    for view in (rows[:, :-1], rows[:, 1:], rows[2], rows):
        tensor = on_cpu.place(view)
        assert tensor.dtype == torch.int64
        assert tensor.tolist() == view.tolist()
        assert tensor.untyped_storage().nbytes() == view.size * 8
        assert tensor.storage_offset() == 0
        plain = NumpyRuntime().place(view)
        assert plain.base is None
        assert plain.tolist() == view.tolist()
        assert not np.shares_memory(plain, rows)
        rows_before = rows.copy()
        tensor.zero_()
        plain[:] = 0
        np.testing.assert_array_equal(rows, rows_before)


def test_read_only_tokens_from_the_wire_can_be_placed(on_cpu):
    tokens = np.frombuffer(bytes(24), dtype=np.int64)
    assert not tokens.flags.writeable
    assert on_cpu.place(tokens).tolist() == [0, 0, 0]
    assert NumpyRuntime().place(tokens).flags.writeable


def test_tied_weights_are_packed_once_by_each_name(on_cpu):
    from safetensors.numpy import load

    embedding = torch.nn.Embedding(5, 3)
    head = torch.nn.Linear(3, 5, bias=False)
    head.weight = embedding.weight
    model = torch.nn.ModuleDict({"wte": embedding, "lm_head": head})
    state = load(on_cpu.pack(model.state_dict()))
    assert sorted(state) == ["lm_head.weight", "wte.weight"]
    for value in state.values():
        np.testing.assert_array_equal(value, embedding.weight.detach().numpy())


def test_views_and_bf16_are_packed_with_their_values(on_cpu):
    from safetensors.torch import load

    whole = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    state = {"column": whole[:, 1], "transposed": whole.T, "half": whole.to(torch.bfloat16), "step": torch.tensor(7)}
    again = load(on_cpu.pack(state))
    for name, value in state.items():
        assert again[name].dtype == value.dtype
        assert torch.equal(again[name], value)


def test_numpy_packs_arrays_that_are_not_contiguous_or_shared():
    from safetensors.numpy import load

    whole = np.arange(12.0).reshape(3, 4)
    state = {"whole": whole, "transposed": whole.T, "tied": whole}
    again = load(NumpyRuntime().pack(state))
    for name, value in state.items():
        np.testing.assert_array_equal(again[name], value)


def test_torch_weights_come_back_as_they_were_packed(on_cpu):
    embedding = torch.nn.Embedding(5, 3)
    head = torch.nn.Linear(3, 5, bias=False)
    head.weight = embedding.weight
    state = torch.nn.ModuleDict({"wte": embedding, "lm_head": head}).state_dict()
    state |= {"half": torch.arange(6).to(torch.bfloat16).reshape(2, 3).T, "step": torch.tensor(7)}
    again = on_cpu.unpack(on_cpu.pack(state))
    assert set(again) == set(state)
    for name, value in state.items():
        assert again[name].dtype == value.dtype
        assert torch.equal(again[name], value)
        assert not again[name].requires_grad
    assert on_cpu.pack(again) == on_cpu.pack(state)


def test_torch_weights_are_unpacked_onto_the_device(on_cpu):
    elsewhere = torch_on_cpu()
    elsewhere.device = torch.device("meta")
    assert elsewhere.unpack(on_cpu.pack({"a": torch.ones(2)}))["a"].device.type == "meta"


def test_numpy_weights_come_back_as_they_were_packed():
    whole = np.arange(12.0).reshape(3, 4)
    state = {"whole": whole, "transposed": whole.T, "few": np.arange(3, dtype=np.int32)}
    again = NumpyRuntime().unpack(NumpyRuntime().pack(state))
    assert set(again) == set(state)
    for name, value in state.items():
        assert again[name].dtype == value.dtype
        np.testing.assert_array_equal(again[name], value)


def test_equal_weights_have_equal_bytes(on_cpu):
    """The row of a trial carries the hash of these bytes."""
    state = {"b": np.ones((2, 2), dtype=np.float32), "a": np.zeros(3, dtype=np.float32)}
    tensors = {name: torch.from_numpy(value.copy()) for name, value in state.items()}
    assert NumpyRuntime().pack(state) == NumpyRuntime().pack(dict(reversed(state.items())))
    assert on_cpu.pack(tensors) == NumpyRuntime().pack(state)


def test_logits_are_computed_without_gradients_and_returned_in_float32(on_cpu):
    weight = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    recording = []

    def model(inputs):
        recording.append(torch.is_grad_enabled())
        return weight[inputs]

    logits = on_cpu.logits(model, np.zeros((1, 2), dtype=np.int64))
    assert recording == [False]
    assert logits.dtype == torch.float32
    assert not logits.requires_grad


def test_a_model_cannot_change_the_question_it_is_asked():
    inputs = np.arange(6).reshape(2, 3)

    def model(given):
        given[:] = 0
        return np.zeros((2, 3, 4))

    NumpyRuntime().logits(model, inputs)
    assert inputs.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_cpu_has_nothing_in_flight_to_wait_for(on_cpu):
    for runtime in (on_cpu, NumpyRuntime()):
        for _ in range(5):
            runtime.pace()
        runtime.synchronize()
    assert len(on_cpu._in_flight) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
def test_at_most_two_steps_are_in_flight_on_an_accelerator():
    runtime = TorchRuntime()
    matrix = torch.randn(2048, 2048, device=runtime.device)
    for _ in range(20):
        matrix = (matrix @ matrix).clamp(-1, 1)
        runtime.pace()
        assert sum(not event.query() for event in runtime._in_flight) <= 2
    runtime.synchronize()
    assert all(event.query() for event in runtime._in_flight)
    assert runtime.place(np.arange(3)).device.type == "cuda"


def test_the_runtime_is_that_of_the_library_the_experiment_imported(monkeypatch):
    assert isinstance(runtime_in_use(), TorchRuntime)
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    assert isinstance(runtime_in_use(), NumpyRuntime)


@pytest.mark.parametrize("runtime_class", [NumpyRuntime, torch_on_cpu])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_tokens_of_any_width_are_widened_into_storage_of_their_own(runtime_class, dtype):
    rows = np.array([[1, 2, 60_000], [4, 5, 6]], dtype=dtype)
    placed = runtime_class().place(rows[:, 1:])
    assert placed.tolist() == [[2, 60_000], [5, 6]]
    assert str(placed.dtype).removeprefix("torch.") == "int64"
    rows[:] = 0
    assert placed.tolist() == [[2, 60_000], [5, 6]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")
def test_tokens_reach_the_device_whole_though_nobody_waits_for_the_copy():
    runtime = TorchRuntime()
    batches = [np.random.default_rng(step).integers(0, 60_000, (64, 2048)).astype(np.uint16) for step in range(20)]
    placed = [runtime.place(rows) for rows in batches]
    for rows, tokens in zip(batches, placed, strict=True):
        assert tokens.is_cuda
        np.testing.assert_array_equal(tokens.cpu().numpy(), rows)


def test_metadata_travels_in_the_header_and_changes_no_weight(on_cpu, tmp_path):
    from safetensors import safe_open

    for runtime, state in ((on_cpu, {"w": torch.arange(3.0)}), (NumpyRuntime(), {"w": np.arange(3.0)})):
        packed = runtime.pack(state, {"config": '{"depth": 2}'})
        assert packed == runtime.pack(state, {"config": '{"depth": 2}'})
        (tmp_path / "w.safetensors").write_bytes(packed)
        with safe_open(tmp_path / "w.safetensors", framework="np") as opened:
            assert opened.metadata() == {"config": '{"depth": 2}'}
        assert runtime.unpack(packed)["w"].tolist() == [0.0, 1.0, 2.0]
        assert runtime.pack(state, {}) == runtime.pack(state) == runtime.pack(state, None)
