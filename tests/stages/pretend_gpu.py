"""A GPU for machines without one: tensors that say ``is_cuda``, compute on the CPU, and note what a GPU would do.

Every operator on such a tensor counts as a kernel, and whatever would make the host wait for the GPU as a wait: reading
a number, copies that block in either direction, indices that lie on the host, and sizes that depend on the data. Mixing
tensors of both sides is an error, as it is on a GPU.
"""

from __future__ import annotations

import traceback
from collections import Counter
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

# The one other device that every build of torch knows; its own operators are never reached.
_DEVICE, _HOST = torch.device("meta"), torch.device("cpu")
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_linalg_eigh"}
_COPIES = {"_to_copy", "copy_"}
_DRAWS = {"rand", "randperm", "uniform_"}


class OnDevice(torch.Tensor):
    """A tensor of the pretended GPU; the numbers are in ``held``."""

    is_cuda = True
    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        # Inference tensors of a Python class cannot be written in place.
        with torch.inference_mode(False):
            tensor = torch.Tensor._make_wrapper_subclass(
                cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device=_DEVICE
            )
        tensor.held = held
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside the pretended GPU's context")


class CountedArray(np.ndarray):
    """What CuPy would hold: a NumPy array whose operators count as kernels."""

    gpu: PretendGpu

    def __array_finalize__(self, source: Any) -> None:
        self.gpu = getattr(source, "gpu", None)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **kwargs: Any) -> Any:
        inputs, out = (tuple(_plain(each) for each in group) for group in (inputs, out))
        found = getattr(ufunc, method)(*inputs, **({"out": out} if out else {}), **kwargs)
        return self.gpu.counted(ufunc.__name__, found)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = tree_map_only(CountedArray, _plain, (args, kwargs))
        return tree_map_only(np.ndarray, lambda each: self.gpu.counted(func.__name__, each), func(*args, **kwargs))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.gpu.kernels["setitem"] += 1
        _plain(self)[key] = _plain(value)

    def get(self) -> np.ndarray:
        self.gpu.waits["cupy.get"] += 1
        return _plain(self)


def _plain(each: Any) -> Any:
    return each.view(np.ndarray) if isinstance(each, CountedArray) else each


class CountedNumPy:
    """NumPy in the place of CuPy: all arrays that it makes are `CountedArray`."""

    def __init__(self, gpu: PretendGpu, module: Any = np) -> None:
        self._gpu, self._module = gpu, module

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._module, name)
        if name == "linalg":
            return CountedNumPy(self._gpu, member)
        if isinstance(member, type):
            return member

        def call(*args: Any, **kwargs: Any) -> Any:
            found = member(*args, **kwargs)
            return tree_map_only(np.ndarray, lambda each: self._gpu.counted(name, each), found)

        return call


class _AtThePythonSide(TorchFunctionMode):
    """What torch does before any operator is called: numbers and indices of Python to the device, and numbers back."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.tolist and isinstance(args[0], OnDevice):
            return args[0].cpu().tolist()
        if func is torch.Tensor.new_tensor and isinstance(args[0], OnDevice):
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(_DEVICE)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == _DEVICE:
            del kwargs["device"]
            return func(*args, **kwargs).to(_DEVICE)
        if func is torch.Tensor.__getitem__ and isinstance(args[0], OnDevice) and isinstance(args[1], tuple):
            args = args[0], tuple(torch.tensor(part) if isinstance(part, list) else part for part in args[1])
        return func(*args, **kwargs)


class PretendGpu(TorchDispatchMode):
    """While it is entered, tensors made by `put`, and what is computed from them, live on the pretended GPU.

    Attributes:
        kernels: calls of operators on the device, by name.
        waits: what made the host wait, by kind and line of code.
        draws: calls for random numbers on the host.
        stray: other calls of operators on the host.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels, self.waits, self.draws, self.stray = (
            Counter[str](),
            Counter[str](),
            Counter[str](),
            Counter[str](),
        )
        self._python_side = _AtThePythonSide()

    def clear(self) -> None:
        for counter in (self.kernels, self.waits, self.draws, self.stray):
            counter.clear()

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        return OnDevice(tensor)

    def counted(self, name: str, array: Any) -> Any:
        self.kernels[name] += 1
        if not isinstance(array, np.ndarray):
            return array
        array = array.view(CountedArray)
        array.gpu = self
        return array

    def current_stream(self, _: Any = None) -> Any:
        """Stand in for ``torch.cuda.current_stream``."""
        return SimpleNamespace(synchronize=lambda: self.waits.update(["synchronize"]))

    def __enter__(self) -> PretendGpu:
        # Numbers of Python become tensors on the host first, and are copied then, where this mode sees it.
        torch._C._set_only_lift_cpu_tensors(True)
        self._python_side.__enter__()
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._python_side.__exit__(kind, error, trace)
        torch._C._set_only_lift_cpu_tensors(False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE):
            # Inference mode hands on operators that are made of others; on a device those others count.
            super().__enter__()
            try:
                return func.decompose(*args, **(kwargs or {}))
            finally:
                super().__exit__(None, None, None)
        leaves = tree_leaves((args, kwargs or {}))
        ours = {id(leaf.held): leaf for leaf in leaves if isinstance(leaf, OnDevice)}
        theirs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, OnDevice)]
        if any(tensor.is_meta for tensor in theirs):
            raise AssertionError(f"{func} got numbers past this class at {_line()}: they are lost")
        target = next((leaf.type for leaf in leaves if isinstance(leaf, torch.device)), None)
        on_device = target == "meta" or (bool(ours) and target is None)
        if func.overloadpacket is torch.ops.aten.copy_:
            on_device = isinstance(args[0], OnDevice)
        self._note(func, args, kwargs or {}, ours=bool(ours), theirs=theirs, on_device=on_device)
        held_args, held_kwargs = tree_map_only(OnDevice, lambda leaf: leaf.held, (args, kwargs or {}))
        held_args, held_kwargs = tree_map_only(torch.device, lambda _: _HOST, (held_args, held_kwargs))
        found = func(*held_args, **held_kwargs)
        if not on_device:
            return found
        # What is written in place comes back as the tensor that it was.
        return tree_map_only(torch.Tensor, lambda each: ours[id(each)] if id(each) in ours else OnDevice(each), found)

    def _note(self, func: Any, args: Any, kwargs: Any, *, ours: bool, theirs: Any, on_device: bool) -> None:
        name = func.overloadpacket.__name__
        if not ours and not on_device:
            (self.draws if name in _DRAWS else self.stray)[name] += 1
            return
        self.kernels[name] += 1
        crosses = name in _COPIES and (ours != on_device or bool(theirs))
        no_block = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        by_index = name in ("index", "index_put", "index_put_") and any(
            index is not None and (index.dtype == torch.bool or not isinstance(index, OnDevice)) for index in args[1]
        )
        if name in _WAITING or by_index or (crosses and not no_block):
            self.waits[f"{name} at {_line()}"] += 1
        elif theirs and not crosses and any(tensor.ndim for tensor in theirs):
            raise AssertionError(f"{func} mixes tensors of the host and of the GPU at {_line()}")


def _line() -> str:
    """Name the line of the package that called the operator."""
    frames = [frame for frame in traceback.extract_stack() if "simsam_batch" in frame.filename]
    return f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}" if frames else "outside"
