"""One training step in pieces that can be timed apart, for each array library, built from an experiment file's own names."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from autoresearch.backends.runtime import Runtime
from autoresearch.bench.experiment_file import SETTINGS
from autoresearch.bench.order import Mode
from autoresearch.vocabulary import AutoresearchError

DATA = "data"
OPTIMIZER = "optimizer"
_PROGRESS = 0.5  # of the budget, at which schedules are asked: learning rate and decay are then not zero


class PartsUnknown(AutoresearchError):
    """The file has our names, and they cannot be called in our way: whole steps can still be measured."""


class Phases(Protocol):
    """The step of one experiment file under one array library.

    passes: what a micro-step consists of, in order. PyTorch runs forward and backward one after the other; MLX takes loss
    and gradients in one call, whose halves cannot be told apart.
    """

    passes: tuple[str, ...]

    def micro_step(self, inputs: Any, targets: Any) -> tuple[Callable[[], object], ...]:
        """One call per name in `passes`, to be made in that order."""

    def update(self) -> object:
        """The optimizer's part of the step: uses up the gradients of all micro-steps."""

    def wait(self) -> None:
        """Return when the device has done everything so far."""

    def release(self) -> None:
        """Drop optimizer and gradients, as a file does before its evaluation."""


class TorchPhases:
    """PyTorch: model(inputs, targets) is the loss, .backward() its gradients, optimizer.step(...) the update."""

    passes: tuple[str, ...] = ("forward", "backward")

    def __init__(
        self, names: Mapping[str, Any], model: Any, optimizer: Any, runtime: Runtime, num_micro_steps: int
    ) -> None:
        self._model = model
        self._optimizer: Any = optimizer
        self._num_micro_steps = num_micro_steps
        self._schedules = Schedules(names, _known(optimizer, "step"))
        self._runtime = runtime
        self._loss: Any = None

    def micro_step(self, inputs: Any, targets: Any) -> tuple[Callable[[], object], ...]:
        """Forward, which keeps the loss, and backward from it."""

        def forward() -> None:
            self._loss = self._model(inputs, targets) / self._num_micro_steps

        def backward() -> None:
            self._loss.backward()
            self._loss = None

        return forward, backward

    def update(self) -> object:
        """optimizer.step with what its schedules say."""
        return self._schedules.call()

    def wait(self) -> None:
        """Until the device is idle."""
        self._runtime.synchronize()

    def release(self) -> None:
        """Gradients and optimizer state."""
        for parameter in self._model.parameters():
            parameter.grad = None
        self._optimizer = self._schedules = None  # type: ignore[assignment]


class MlxPhases:
    """MLX: model.loss(weights, inputs, targets) with its gradients in one call, then optimizer.update as a pure function.

    Nothing runs before `mx.eval` asks for it. Compiled, the two are two graphs here, where a file may have one: the graph
    that is cut is the price of telling them apart.
    """

    passes: tuple[str, ...] = ("forward_backward",)

    def __init__(
        self, names: Mapping[str, Any], model: Any, optimizer: Any, num_micro_steps: int, *, compiled: bool
    ) -> None:
        # by name: MLX ships type stubs that do not export what its own pages use
        mx: Any = importlib.import_module("mlx.core")
        self._mx = mx
        self._model = model
        self._optimizer: Any = optimizer
        self._num_micro_steps = num_micro_steps
        self._numbers = Schedules(names, _known(optimizer, "numbers"))
        loss_and_grads, update = mx.value_and_grad(_known(model, "loss")), _known(optimizer, "update")
        self._loss_and_grads = mx.compile(loss_and_grads) if compiled else loss_and_grads
        self._update = mx.compile(update) if compiled else update
        self._grads: dict[str, Any] = {}

    def micro_step(self, inputs: Any, targets: Any) -> tuple[Callable[[], object], ...]:
        """Loss and gradients, added to those of the micro-steps before."""

        def forward_backward() -> None:
            tokens = self._mx.array(inputs), self._mx.array(targets)
            loss, grads = self._loss_and_grads(self._model.weights, *tokens)
            if self._num_micro_steps > 1:
                before = self._grads
                grads = {name: grad / self._num_micro_steps + before.get(name, 0) for name, grad in grads.items()}
            self._grads = grads
            self._mx.eval(loss, grads)

        return (forward_backward,)

    def update(self) -> object:
        """The optimizer's step, evaluated: weights and state."""
        numbers = self._numbers.call()
        model, optimizer = self._model, self._optimizer
        model.weights, optimizer.state = self._update(model.weights, self._grads, optimizer.state, numbers)
        self._grads = {}
        return self._mx.eval(model.weights, optimizer.state)

    def wait(self) -> None:
        """Until the default stream is idle."""
        self._mx.synchronize()

    def release(self) -> None:
        """Gradients and optimizer state, and the buffers that MLX keeps for reuse."""
        self._optimizer = self._numbers = self._update = None  # type: ignore[assignment]
        self._grads = {}
        self._mx.clear_cache()


def _known(owner: Any, name: str) -> Any:
    """A function of the model or the optimizer. Raises PartsUnknown where it has none."""
    function = getattr(owner, name, None)
    if not callable(function):
        raise PartsUnknown(f"{type(owner).__name__} has no {name}(...)")
    return function


class Schedules:
    """Calls a function whose parameters follow schedules: `lr_multiplier` is what the file's `lr_multiplier_at` says.

    A schedule takes `progress` (0..1) or `step`. All of the file's are asked once, here, so that the timed call is the
    function alone.
    """

    def __init__(self, names: Mapping[str, Any], function: Callable[..., Any]) -> None:
        self._function = function
        self._fixed = {}
        for name, parameter in inspect.signature(function).parameters.items():
            schedule = names.get(f"{name}_at")
            if callable(schedule):
                self._fixed[name] = call_by_name(schedule, progress=_PROGRESS, step=0)
            elif parameter.default is parameter.empty:
                raise PartsUnknown(f"optimizer.{function.__name__} takes {name}, and the file has no {name}_at(...)")

    def call(self) -> Any:
        """The function with its schedules' values."""
        return self._function(**self._fixed)


def call_by_name(function: Callable[..., Any], **offered: Any) -> Any:
    """`function` with those of `offered` that it has parameters for.

    Raises:
        PartsUnknown: it wants a parameter that is not offered.
    """
    given = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if name in offered:
            given[name] = offered[name]
        elif parameter.default is parameter.empty:
            called = getattr(function, "__name__", type(function).__name__)
            raise PartsUnknown(f"{called} takes {name}; offered are {', '.join(sorted(offered))}")
    return function(**given)


def with_mode(settings_for: Callable[..., Any], mode: Mode) -> Callable[..., Any]:
    """The file's settings_for with the compiler switched as `mode` says: the last value that it returns, a bool.

    Raises (when it is called):
        PartsUnknown: it returns something else.
    """

    @functools.wraps(settings_for)
    def switched(*arguments: Any, **more: Any) -> Any:
        found = settings_for(*arguments, **more)
        if not isinstance(found, tuple) or not isinstance(found[-1], bool):
            raise PartsUnknown("settings_for does not return (..., whether to compile)")
        return found if mode is Mode.OWN else (*found[:-1], mode is Mode.COMPILED)

    return switched


def build_phases(
    names: Mapping[str, Any], library: str, runtime: Runtime, vocab_size: int, device: Any, num_micro_steps: int
) -> tuple[Phases, Any, bool]:
    """(phases, the model, whether it is compiled) from a file's names, in the order in which its main builds them.

    Raises:
        PartsUnknown: a name cannot be called in our way, or the library is none that we know the phases of.
    """
    config = call_by_name(names["config_from_hyperparameters"], vocab_size=vocab_size)
    settings_for = next(names[name] for name in SETTINGS if name in names)
    *found, compiled = call_by_name(settings_for, device=device)
    dtype = found[0] if found else None
    model = call_by_name(names["build_model"], config=config, device=device, autocast_dtype=dtype, dtype=dtype)
    if library == "torch":
        import torch

        optimizer = call_by_name(
            names["build_optimizer"], model=model, muon_dtype=dtype or torch.float32, compiled=compiled
        )
        if compiled and hasattr(model, "speed_up"):
            call_by_name(model.speed_up, device=device, compiled=True)
        elif compiled:
            model.compile(dynamic=False)
        return TorchPhases(names, model, optimizer, runtime, num_micro_steps), model, compiled
    if library == "mlx":
        optimizer = call_by_name(names["build_optimizer"], model=model, compiled=compiled)
        return MlxPhases(names, model, optimizer, num_micro_steps, compiled=compiled), model, compiled
    raise PartsUnknown(f"a step of {library} has no parts that are known here")
