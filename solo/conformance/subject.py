"""What is examined: a method by its name, or anybody's callable, and how it is built and called."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from solo.config.resolve import unknown_name
from solo.conformance.samples import labels_of

KNOWN = ("step", "labels")
"""What ``call`` may take beside the loss and z."""
SLICES = ("num_slices", "num_projections", "num_proj", "n_slices", "n_projections")
"""Names under which losses take the number of random directions."""


class UnfitError(ValueError):
    """What cannot be examined; the message says what to change."""


class Subject(NamedTuple):
    """A loss, and the batches that it is examined on.

    Args:
        name: a method, or ``module:callable``, or ``path/to/file.py:callable``.
        make: Python that makes the loss of the callable ``f``, and of D where it takes two
            arguments: ``"lambda f, features: f(features, gamma=2)"``. By default a class is called
            without arguments and anything else is the loss.
        call: Python that calls it, ``"lambda f, z: f(z[0], z[1])"`` with z [V, N, D]; further
            arguments get what they are named after: ``step``, its number, and ``labels``, of 4
            classes, int64 [N]. By default ``f(z)`` with z [N, D], or a view for
            each argument that must be given, and the number of the step where it takes a ``step``
            (one in a tuple where it says so).
        overrides: of a method's config.
        samples, features, views: N, D and V; V is None for what the call asks for.
        ordered: of "samples" and "views", whose order matters.
        even: whether all processes must bring equal numbers of samples.
        cut: whether a part is cut off from the gradient on purpose.
        slices: the parameter that says how many directions there are.
    """

    name: str
    make: str | None = None
    call: str | None = None
    overrides: tuple[str, ...] = ()
    samples: int = 64
    features: int = 32
    views: int | None = None
    ordered: tuple[str, ...] = ()
    even: bool = False
    cut: bool = False
    slices: str | None = None

    @property
    def is_method(self) -> bool:
        """Whether it names a method of ours, not a module's callable."""
        return ":" not in self.name and not self.name.endswith(".py")


class Loss:
    """A subject that was found: builds the loss, and calls it.

    Raises:
        UnfitError: for a name that leads to nothing, or Python that makes nothing callable.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.even, self.cut, self.ordered = subject.even, subject.cut, set(subject.ordered)
        self.module: ModuleType | None = None
        if subject.is_method:
            # Here: who examines another loss need not wait for Lightning and timm.
            from solo.conformance.method import MethodLoss

            self.method = MethodLoss
            MethodLoss.check(subject.name)
            if subject.make or subject.call:
                raise UnfitError(
                    f"{subject.name} is a method; --make and --call are for module:callable"
                )
            self.views = subject.views or 2
            self.even = True  # the sampler's batches are
            self.cut |= MethodLoss.cut(subject.name)
            self.ordered |= MethodLoss.ordered(subject.name)
            options = MethodLoss.options(subject.name)
            self.slices = subject.slices or _slices(options)
            self._check_slices(options)
            return
        if subject.overrides:
            raise UnfitError(
                f"{subject.overrides[0]} is an override of a method's config, but {subject.name} "
                "is none; give arguments by --make"
            )
        self.target: Any = self._found(subject.name)
        self._make = self._python("--make", subject.make, "lambda f, features: f(features)", 1)
        self._call = self._python("--call", subject.call, "lambda f, z: f(z[0], z[1])", 2)
        self._named = [] if self._call is None else _arguments(self._call)[2:]
        if unknown := [name for name in self._named if name not in KNOWN]:
            raise UnfitError(f"--call asks for {unknown[0]}; there are {', '.join(KNOWN)}")
        self.slices = subject.slices
        if inspect.isclass(self.target):
            options = inspect.signature(self.target).parameters
            if self.slices is None and subject.make is None:
                self.slices = _slices(options)
            self._check_slices(options)
        elif self.slices is not None:
            raise UnfitError(f"--slices is for classes; {subject.name} is made without arguments")
        try:
            built = self.build(subject.features, {})
        except UnfitError:
            raise
        except (Exception, SystemExit) as error:
            raise UnfitError(
                f"{subject.name} cannot be made: {type(error).__name__}: {error}; say how by --make"
            ) from error
        if not callable(built):
            raise UnfitError(f"{subject.name} made {built!r}, which cannot be called; give --make")
        self._step, asked = _asks(built)
        self.views = subject.views or (2 if subject.call else asked)
        if not subject.call and asked not in (1, self.views):
            raise UnfitError(
                f"{subject.name} takes {asked} arguments, but there are {self.views} views; say by "
                "--call how it is called"
            )
        self.stacked = bool(subject.call) or (asked == 1 and (subject.views or 1) > 1)

    def _check_slices(self, options: Container[str]) -> None:
        if self.slices is not None and self.slices not in options:
            raise UnfitError(f"{self.subject.name} has no parameter {self.slices}; see --slices")

    def _found(self, name: str) -> Callable[..., Any]:
        where, _, what = name.rpartition(":")
        if not where:
            raise UnfitError(f"{name} is a file; say which loss of it: {name}:<callable>")
        try:
            self.module = _of_file(Path(where)) if where.endswith(".py") else None
            self.module = self.module or importlib.import_module(where)
        except (Exception, SystemExit) as error:  # a user's file can raise anything
            raise UnfitError(
                f"{where} cannot be imported: {type(error).__name__}: {error}"
            ) from error
        found: Any = self.module
        for part in what.split("."):
            if not hasattr(found, part):
                there = [key for key in vars(found) if not key.startswith("_")]
                raise UnfitError(f"{where}: {unknown_name('callable', part, there)}")
            found = getattr(found, part)
        if not callable(found):
            raise UnfitError(f"{name} is a {type(found).__name__}, which cannot be called")
        return found  # type: ignore[no-any-return]

    def _python(
        self, option: str, text: str | None, example: str, takes: int
    ) -> Callable[..., Any] | None:
        if text is None:
            return None
        try:  # what the user types runs in the user's own process
            made = eval(text, {**vars(self.module), "torch": torch})
        except Exception as error:
            raise UnfitError(
                f"{option} {text!r} is no Python that can be run: {error}; such as {example!r}"
            ) from error
        if not callable(made) or len(_arguments(made)) < takes:
            raise UnfitError(f"{option} {text!r} is no function like {example!r}")
        return made  # type: ignore[no-any-return]

    def build(self, features: int, more: Mapping[str, Any]) -> Callable[..., Any]:
        """The loss for embeddings of D features; ``more`` arguments for the constructor."""
        if self.subject.is_method:
            return self.method(
                self.subject.name, self.subject.overrides, self.views, features, more
            )
        if self._make is not None:
            takes = len(_arguments(self._make))
            target = partial(self.target, **more) if more else self.target
            return self._make(target, *[features][: takes - 1])  # type: ignore[no-any-return]
        if not inspect.isclass(self.target):
            return copy.deepcopy(self.target)  # type: ignore[no-any-return]  # an instance may change
        made: Any = self.target
        try:
            return made(**more)  # type: ignore[no-any-return]
        except TypeError as error:
            raise UnfitError(
                f"{self.subject.name} cannot be made without arguments ({error}); say how by --make"
            ) from error

    def check(self) -> None:
        """Build it and call it once.

        Raises:
            UnfitError: where that does not give a scalar.
        """
        subject = self.subject
        z = torch.randn(self.views, subject.samples, subject.features, requires_grad=True)
        rows = torch.arange(subject.samples)
        try:
            with undisturbed():
                value = self(self.build(subject.features, {}), z, rows, 1)
                if subject.call and subject.views is None:
                    self.views = self._views_of_call(value, z, rows)
        except (Exception, SystemExit) as error:
            if isinstance(error, UnfitError) or (
                self.subject.is_method and isinstance(error, ValueError)
            ):
                raise  # it says what to change
            shape = z.shape if self.is_stacked else z.shape[1:]
            raise UnfitError(
                f"{subject.name} cannot be called with z {list(shape)}: {type(error).__name__}: "
                f'{error}; say how by --call, such as "lambda f, z, labels: f(z[0], labels)"'
            ) from error

    def _views_of_call(self, value: Tensor, z: Tensor, rows: Tensor) -> int:
        """One, where the call asks for no more."""
        grad = None
        if value.requires_grad:
            (grad,) = torch.autograd.grad(value, z, allow_unused=True)
        if grad is not None and grad[1:].any():
            return self.views
        try:
            self(self.build(self.subject.features, {}), z.detach()[:1], rows, 1)
        except Exception:
            return self.views
        return 1

    @property
    def is_stacked(self) -> bool:
        """Whether it takes all views as one tensor."""
        return self.subject.is_method or self.stacked

    def __call__(
        self,
        built: Callable[..., Any],
        z: Tensor,
        rows: Tensor,
        step: int,
        views: Sequence[int] | None = None,
    ) -> Tensor:
        """The loss of z [V, n, D], samples of these numbers, at a step; ``views``: their order."""
        if self.subject.is_method:
            value: Tensor = built(z, rows, step, views)
            return value
        z = z.clone()  # a network's output: no leaf, no view, and may be changed in place
        if self._call is not None:
            known = {"step": step, "labels": labels_of(rows)}
            value = self._call(built, z, *(known[name] for name in self._named))
        else:
            more = {}
            if self._step is not None:
                more["step"] = (step,) if "tuple" in self._step else step
            each = [z] if self.stacked else [view.clone() for view in z]
            value = built(*each, **more)
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            if isinstance(value, (int, float)):
                raise UnfitError(
                    f"{self.subject.name} returned a number, which has no gradient; return the "
                    "tensor, without float() or item()"
                )
            raise UnfitError(
                f"{self.subject.name} returned {what}, not a scalar; say by --call which part "
                'of it is the loss, such as "lambda f, z: f(z).mean()"'
            )
        return value.reshape(())


@contextmanager
def undisturbed() -> Iterator[None]:
    """What a call sets of torch is not left for the next; what an import sets is."""
    dtype = torch.get_default_dtype()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(True)


def _slices(names: Container[str]) -> str | None:
    """Which of the names says how many directions there are."""
    return next((name for name in SLICES if name in names), None)


def _arguments(made: Callable[..., Any]) -> list[str]:
    """Names of a lambda's arguments."""
    return list(inspect.signature(made).parameters)


def _asks(built: Callable[..., Any]) -> tuple[str | None, int]:
    """The type of a callable's step, None if it takes none; how many arguments must be given."""
    try:
        called = built.forward if isinstance(built, nn.Module) else built
        parameters = inspect.signature(called).parameters
    except (TypeError, ValueError):  # some built-in functions tell nothing
        return None, 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    asked = [
        p
        for p in parameters.values()
        if p.kind in positional and p.default is p.empty and p.name != "step"
    ]
    step = str(parameters["step"].annotation) if "step" in parameters else None
    return step, max(1, len(asked))


def _of_file(path: Path) -> ModuleType:
    """A file as a module, once."""
    path = path.resolve()
    name = f"_examined_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise OSError(f"there is no file {path}")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # for its neighbours
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
