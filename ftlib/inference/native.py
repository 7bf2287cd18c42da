"""Builds and loads the kernels of `native.cpp`, `products.cpp` and `layers.cpp`: what decoder layers compute, on a CPU.

They are compiled once for a CPU, in some ten seconds, with the machine's C++ compiler (`CXX`, else `g++`), and kept in
`FTLIB_HOME`. Where that fails the engine computes the same with PyTorch's functions, more slowly.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import c_float, c_int64, c_long, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftlib.core.logging import get_logger
from ftlib.core.storage import state_home

logger = get_logger(__name__)

HEAD_DIMS = frozenset({32, 64, 96, 128})
LANES = 16
"""What other widths must be a multiple of."""

COLUMNS = 32
"""Outputs that lie together in packed weights."""

_SOURCES = tuple(Path(__file__).with_name(name) for name in ("native.cpp", "products.cpp", "layers.cpp"))
_HEADER = Path(__file__).with_name("native.h")
_FLAGS = ("-O3", "-march=native", "-std=c++17", "-fopenmp", "-fPIC", "-fno-math-errno", "-Wno-psabi")
_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_BUILD_SECONDS = 120


class AttentionSizes(ctypes.Structure):
    """`Attention` of native.h."""

    _fields_ = [
        *((name, c_int64) for name in ("heads", "kv_heads", "head_dim", "capacity", "window")),
        ("scaling", c_float),
        ("epsilon", c_float),
    ]


class AdapterSizes(ctypes.Structure):
    """`Adapters` of native.cpp."""

    _fields_ = [*((name, c_int64) for name in ("width", "columns", "ranks", "parts")), ("ends", c_void_p)]


class PackedProduct(ctypes.Structure):
    """`Product` of layers.cpp: sizes, and addresses of what `int8_linear` or (no scales) `bfloat16_linear` take."""

    _fields_ = [
        *((name, c_int64) for name in ("width", "columns")),
        *((name, c_void_p) for name in ("packed", "scales", "shifts")),
    ]


class PackedLayer(ctypes.Structure):
    """`Layer` of layers.cpp."""

    _fields_ = [
        ("attention", AttentionSizes),
        ("epsilons", c_float * 2),
        ("norms", c_void_p * 2),
        *((name, c_void_p) for name in ("q_norm", "k_norm", "keys", "values")),
        *((name, PackedProduct) for name in ("qkv", "out", "gate_up", "down")),
    ]


class Kernels:
    """The kernels for one dtype, on tensors that are contiguous and on the CPU."""

    def __init__(self, library: Path, dtype: torch.dtype) -> None:
        """Load a built library; `dtype` is float32 or bfloat16."""
        name = _NAMES[dtype]
        # The short ones keep the interpreter's lock: another thread may hold on to it for longer than they take.
        short, long = ctypes.PyDLL(str(library)), ctypes.CDLL(str(library))
        self._add_norm = _typed(short[f"add_norm_{name}"], [c_void_p] * 4, [c_long, c_long, c_float])
        self._silu_mul = _typed(short[f"silu_mul_{name}"], [c_void_p] * 2, [c_long, c_long])
        self._attend = _typed(long[f"attend_{name}"], [c_void_p] * 2, [c_long], [c_void_p] * 8)
        self._add_adapters = _typed(long[f"add_adapters_{name}"], [c_void_p] * 2, [c_long], [c_void_p] * 4)
        self.has_int8 = hasattr(long, f"int8_linear_{name}")
        """Whether the CPU multiplies bytes (AVX-512 VNNI)."""
        if self.has_int8:
            self._int8_linear = _typed(long[f"int8_linear_{name}"], [c_void_p] * 5, [c_long] * 3)
            self._run_layers = _typed(long[f"run_layers_{name}"], [c_void_p, c_long] * 2, [c_void_p] * 4, [c_long])
        self.has_bfloat16 = hasattr(long, f"bfloat16_linear_{name}")
        """Whether the CPU multiplies bfloat16 (AVX-512 BF16), and that is the dtype."""
        if self.has_bfloat16:
            self._bfloat16_linear = _typed(long[f"bfloat16_linear_{name}"], [c_void_p] * 3, [c_long] * 3)

    def add_norm(self, states: Tensor, added: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        """Add to the states in place, if there is something to add, and return their root-mean-square norm.

        Args:
            states: 1 × tokens × width.
            added: likewise, or None.
            weight: width.
            epsilon: of the norm.
        """
        out = torch.empty_like(states)
        self._add_norm(
            states.data_ptr(), None if added is None else added.data_ptr(), weight.data_ptr(), out.data_ptr(),
            states.shape[1], states.shape[2], epsilon,
        )  # fmt: skip
        return out

    def silu_mul(self, both: Tensor) -> Tensor:
        """SiLU of the first half of the columns times the second: 1 × tokens × 2·width → 1 × tokens × width."""
        width = both.shape[2] // 2
        out = both.new_empty(1, both.shape[1], width)
        self._silu_mul(both.data_ptr(), out.data_ptr(), both.shape[1], width)
        return out

    def attend(  # noqa: PLR0917
        self,
        sizes: AttentionSizes,
        segments: Any,
        qkv: Tensor,
        angles: tuple[Tensor, Tensor],
        norms: tuple[Tensor | None, Tensor | None],
        states: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Turn a step's queries and keys by their positions, write keys and values to their slots, and attend.

        Args:
            sizes: the layer's.
            segments: int64[segments, 4], a NumPy array: slot, states before, tokens, first token.
            qkv: 1 × tokens × (heads + 2·kv_heads)·head_dim.
            angles: cosines and sines, 1 × tokens × head_dim, both halves alike or not.
            norms: weights of the norms of queries and keys, head_dim each, or None.
            states: keys and values, slots × kv_heads × capacity × head_dim.

        Returns:
            1 × tokens × heads·head_dim.
        """
        out = qkv.new_empty(1, qkv.shape[1], sizes.heads * sizes.head_dim)
        query_norm, key_norm = norms
        self._attend(
            ctypes.addressof(sizes), segments.ctypes.data, len(segments), qkv.data_ptr(),
            angles[0].data_ptr(), angles[1].data_ptr(),
            None if query_norm is None else query_norm.data_ptr(), None if key_norm is None else key_norm.data_ptr(),
            states[0].data_ptr(), states[1].data_ptr(), out.data_ptr(),
        )  # fmt: skip
        return out

    def add_adapters(  # noqa: PLR0917
        self, sizes: AdapterSizes, spans: Any, x: Tensor, a: Tensor, b: Tensor, y: Tensor
    ) -> None:
        """Add what adapters make of the inputs of a product to its outputs, in place.

        Args:
            sizes: of the product; widths and the ends of its parts are multiples of LANES.
            spans: int64[spans, 3], a NumPy array: index of an adapter, its first token, the one behind its last.
            x: tokens × in.
            a: adapters × ranks × in.
            b: adapters × ranks × out.
            y: tokens × out.
        """
        self._add_adapters(
            ctypes.addressof(sizes), spans.ctypes.data, len(spans),
            x.data_ptr(), a.data_ptr(), b.data_ptr(), y.data_ptr(),
        )  # fmt: skip

    def int8_linear(self, x: Tensor, packed: Tensor, scales: Tensor, shifts: Tensor, columns: int) -> Tensor:
        """Product of tokens, rounded to 8 bits each by its largest value, with INT8 weights.

        Args:
            x: … × in.
            packed: int8, blocks × in / 4 × COLUMNS × 4: the weights of each block's outputs, four inputs a time.
            scales: float32, blocks · COLUMNS: what a weight of one stands for.
            shifts: float32, likewise: 128 times the sum of an output's weights.
            columns: outputs.

        Returns:
            … × columns.
        """
        y = x.new_empty(*x.shape[:-1], columns)
        self._int8_linear(
            x.data_ptr(), packed.data_ptr(), scales.data_ptr(), shifts.data_ptr(), y.data_ptr(),
            x.numel() // x.shape[-1], x.shape[-1], columns,
        )  # fmt: skip
        return y

    def bfloat16_linear(self, x: Tensor, packed: Tensor, columns: int) -> Tensor:
        """Product of tokens with bfloat16 weights.

        Args:
            x: … × in.
            packed: blocks × in / 2 × COLUMNS × 2: the weights of each block's outputs, two inputs a time.
            columns: outputs.

        Returns:
            … × columns.
        """
        y = x.new_empty(*x.shape[:-1], columns)
        self._bfloat16_linear(
            x.data_ptr(), packed.data_ptr(), y.data_ptr(), x.numel() // x.shape[-1], x.shape[-1], columns
        )
        return y

    def run_layers(self, layers: Any, segments: Any, states: Tensor, angles: tuple[Tensor, Tensor]) -> None:
        """Layers one after the other, on states that are changed in place.

        Args:
            layers: an array of PackedLayer, all of the same widths.
            segments: as `attend` takes them.
            states: 1 × tokens × width.
            angles: as `attend` takes them.
        """
        each = layers[0]
        values = 2 * each.qkv.width + each.qkv.columns + each.out.width + each.gate_up.columns + each.down.width
        scratch = states.new_empty(states.shape[1] * values)
        self._run_layers(
            ctypes.addressof(layers), len(layers), segments.ctypes.data, len(segments), states.data_ptr(),
            angles[0].data_ptr(), angles[1].data_ptr(), scratch.data_ptr(), states.shape[1],
        )  # fmt: skip


def _typed(function: Any, *arguments: list[Any]) -> Any:
    function.argtypes, function.restype = [kind for some in arguments for kind in some], None
    return function


def kernels_for(dtype: torch.dtype) -> Kernels | None:
    """The kernels for float32 or bfloat16; None for another dtype, and where they cannot be built."""
    library = _library() if dtype in _NAMES else None
    return Kernels(library, dtype) if library is not None else None


@functools.cache
def _library() -> Path | None:
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        logger.info("no C++ compiler: the engine's own kernels are not built, PyTorch's take their place")
        return None
    flags = [*_FLAGS, *(["-mprefer-vector-width=512"] if torch.cpu._is_avx512_supported() else [])]
    try:
        library = _built(compiler, flags)
        ctypes.CDLL(str(library)).use_tiles(1)
        return library
    except (OSError, subprocess.SubprocessError) as error:
        shown = (getattr(error, "stderr", None) or str(error)).strip()[-500:]
        logger.warning("%s could not build the engine's kernels, PyTorch's take their place: %s", compiler, shown)
        return None


def _built(compiler: str, flags: list[str]) -> Path:
    """The library for this source, compiler and CPU, built if it was not before."""
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=10).stdout
    texts = [source.read_text() for source in (_HEADER, *_SOURCES)]
    known = "\0".join([*texts, version, *flags, _cpu()])
    folder = state_home() / "kernels"
    path = folder / f"native-{hashlib.sha256(known.encode()).hexdigest()[:16]}.so"
    if path.exists():
        return path
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        compiled, linked = [f"{scratch}/{source.stem}.o" for source in _SOURCES], f"{scratch}/native.so"
        # Linked without OpenMP's library: the one that PyTorch has loaded serves, with its threads.
        for command in (
            *([*flags, "-c", str(source), "-o", path] for source, path in zip(_SOURCES, compiled, strict=True)),
            ["-shared", *compiled, "-o", linked],
        ):
            subprocess.run([compiler, *command], capture_output=True, text=True, check=True, timeout=_BUILD_SECONDS)
        os.replace(linked, path)
    return path


def _cpu() -> str:
    """What the instructions that may be used depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    return "\n".join([platform.machine(), platform.processor(), *flags])
