"""Running passes in order, and the presets. Importing this module registers every built-in pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from kopt.errors import UsageError
from kopt.ir.graph import Graph
from kopt.passes.base import Pass, PassContext, PassRecord, run_pass
from kopt.passes.spec import format_pass, parse_passes

BUILTIN_MODULES = (
    "kopt.passes.bind_shapes",
    "kopt.passes.fold_constants",
    "kopt.passes.cleanup",
    "kopt.passes.fuse.batch_norm",
    "kopt.passes.fuse.bias",
    "kopt.passes.fuse.activation",
    "kopt.passes.fuse.gelu",
    "kopt.passes.fuse.layer_norm",
    "kopt.passes.fuse.rms_norm",
    "kopt.passes.fuse.attention",
    "kopt.passes.fuse.pad",
    "kopt.passes.fuse.epilogue",
    "kopt.passes.fuse.inverted_residual",
    "kopt.passes.fuse.swish",
    "kopt.passes.precision",
    "kopt.passes.narrow_results",
    "kopt.passes.quantize.masks",
    "kopt.passes.quantize.smooth",
    "kopt.passes.quantize.static",
    "kopt.passes.quantize.expand",
    "kopt.passes.quantize.weights",
    "kopt.passes.quantize.dynamic",
    "kopt.passes.quantize.half",
    "kopt.passes.quantize.integerise",
    "kopt.passes.layout",
    "kopt.passes.rebatch",
    "kopt.passes.prune.channels",
    "kopt.passes.prune.masks",
)

for _module in BUILTIN_MODULES:
    import_module(_module)


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; every result is verified and recorded.

    Attributes:
        passes: what to run.
    """

    passes: tuple[Pass, ...]

    def run(self, graph: Graph, ctx: PassContext | None = None) -> tuple[Graph, tuple[PassRecord, ...]]:
        """The transformed graph and what each pass did.

        Raises:
            PassError: a pass broke the graph (a defect of kopt).
            KoptError: whatever a pass finds wrong with the model or its own options.
        """
        ctx = ctx or PassContext()
        records = []
        for pass_ in self.passes:
            graph, record = run_pass(pass_, graph, ctx, format_pass(pass_))
            records.append(record)
        return graph, tuple(records)

    def __str__(self) -> str:
        return ",".join(format_pass(pass_) for pass_ in self.passes)


def _passes(*names: str) -> tuple[Pass, ...]:
    """Passes by spelling; an unknown name is an error."""
    return tuple(pass_ for name in names for pass_ in parse_passes(name))


_FUSIONS = ("fold-constants", "cleanup", "fold-batch-norm", "fold-pad", "fuse-bias", "fuse-gelu", "fuse-layer-norm", "fuse-rms-norm")
"""What every preset that transforms begins with."""


def preset_none() -> tuple[Pass, ...]:
    """No passes: the graph as it was loaded."""
    return ()


def preset_import() -> tuple[Pass, ...]:
    """After loading: fold and clean up, in a form that any later pass and the exporter take."""
    return _passes("fold-constants", "cleanup")


def preset_onnx() -> tuple[Pass, ...]:
    """For `kopt optimize`: standard ONNX with fused operators."""
    return _passes(
        *_FUSIONS,
        "fuse-swish",
        "fold-constants",
        "cleanup",
    )


def preset_onnxruntime() -> tuple[Pass, ...]:
    """Like "onnx", and with the contrib operators ONNX Runtime has, such as FusedConv."""
    return (*preset_onnx(), *_passes("fuse-attention", "fuse-activation", "cleanup"))


def preset_xla() -> tuple[Pass, ...]:
    """For the XLA backend, on bound shapes: XLA fuses elementwise work itself, so only what it cannot see is rewritten."""
    return _passes(
        *_FUSIONS,
        "fold-constants",
        "expand-quantized",
        "layout-nhwc",
        "integerise",
        "dequantize-weights",
        "cleanup",
    )


def preset_xla_attention() -> tuple[Pass, ...]:
    """The "xla" preset with attention subgraphs as one Attention node."""
    passes = preset_xla()
    return (*passes[:-5], *_passes("fuse-attention{shared_masks=true}"), *passes[-5:])


def preset_xla_kernels() -> tuple[Pass, ...]:
    """The "xla-attention" preset with everything that a kernel applies to its results fused into products and convolutions."""
    return (*preset_xla_attention(), *_passes("fuse-epilogue", "cleanup"))


def preset_xla_inverted() -> tuple[Pass, ...]:
    """The "xla-kernels" preset with inverted residual blocks as one node each: f32 alone, and searches decide whether it pays."""
    return (*preset_xla_kernels(), *_passes("fuse-inverted-residual", "cleanup"))


PRESETS: dict[str, Callable[[], tuple[Pass, ...]]] = {
    "none": preset_none,
    "import": preset_import,
    "default": preset_import,
    "onnx": preset_onnx,
    "onnxruntime": preset_onnxruntime,
    "xla": preset_xla,
    "xla-attention": preset_xla_attention,
    "xla-kernels": preset_xla_kernels,
    "xla-inverted": preset_xla_inverted,
}


def preset(name: str) -> tuple[Pass, ...]:
    """The passes of a preset.

    Raises:
        UsageError: unknown name.
    """
    if name not in PRESETS:
        raise UsageError(f"unknown preset '{name}'", next_step=f"choose one of: {', '.join(PRESETS)}")
    return PRESETS[name]()
