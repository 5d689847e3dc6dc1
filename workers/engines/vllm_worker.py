"""Extension of vLLM's worker class, with direct access to the weights in the engine's memory.

vLLM mixes `Extension` into its worker class (`worker_extension_cls`) and imports this module before it loads the model.
That is when the patches must be applied: they keep weights where they can be written (see patches.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import torch

from orchestrator.sweep.points import Point
from workers.engines import patches
from workers.engines.vllm_watch import ReadWatch, derived_copies
from workers.noise.cpu import limit_threads
from workers.noise.definition import DType
from workers.weights.base_placement import HostCopy, Placement, share_on_host
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.device_memory import memory_for, pin
from workers.weights.layout import LayoutError, Region, trace
from workers.weights.resident import Piece, ResidentWeights
from workers.weights.targets import Target, open_endpoints

UNIT_VECTORS = 64  # maximum number of columns that a check reads back through a packed layer

patches.hide_llvmlite_dict()  # the imports above load numba, in a rank's own process too
patches.keep_linear_weights()
patches.keep_expert_weights()
patches.count_ranks_eagerly()
patches.count_undefined_choices()
patches.zero_new_cache_blocks()


@dataclass(frozen=True)
class WeightsConfig:
    """Configuration of a rank's writable weights.

    Attributes:
        model_dir: Folder of the model's checkpoint.
        dtype: Dtype of the weights in the engine.
        targets: Checkpoints and adapters toward which the sweep's directions lead.
        base: Where to keep the unperturbed weights.
        sample: `targets.sample_id` of the checkpoint, which names its copy in shared memory.
        threads: Number of CPU threads for this rank.
    """

    model_dir: str
    dtype: DType
    targets: tuple[Target, ...] = ()
    base: Placement = "mmap"
    sample: str = ""
    threads: int = 1


class Extension:
    """Methods that `collective_rpc` calls on every rank.

    vLLM refuses an extension that shares a name with its worker class, hence the prefix `landscape_`. A mixin has no
    `__init__` of its own, so the attributes are declared here and set by `landscape_open` and `landscape_watch_reads`.
    """

    model_runner: Any  # of vLLM's worker
    vllm_config: Any  # likewise
    _landscape_weights: ResidentWeights
    _landscape_reads: ReadWatch
    _landscape_copy: HostCopy | None = None

    def landscape_arithmetic(self) -> dict[str, Any]:
        """Return the settings of this rank that change how it rounds: its attention backends, and float32 products."""
        layers = self.vllm_config.compilation_config.static_forward_context.values()
        backends = {layer.get_attn_backend().get_name() for layer in layers if hasattr(layer, "get_attn_backend")}
        return {
            "attention_backend": "+".join(sorted(backends)),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        }

    def landscape_open(self, config: WeightsConfig) -> dict[str, list[Region]]:
        """Trace the layout and open this rank's weights for writing.

        Returns:
            This rank's layout: checkpoint tensor -> regions of the engine's parameters.

        Raises:
            LayoutError: A tensor is packed or transformed in the engine, or the engine uses a copy of it, so that it
                cannot be written exactly.
        """
        limit_threads(config.threads)
        model = self.model_runner.get_model()
        for name, reason in derived_copies(model):
            raise LayoutError(f"{name} cannot be written exactly: {reason}")
        checkpoint = MappedCheckpoint(config.model_dir)
        parameters = dict(model.named_parameters())
        layout = trace(model.load_weights, parameters, checkpoint)
        if config.base == "host":
            self._landscape_copy = share_on_host(checkpoint, config.sample)
            checkpoint = MappedCheckpoint(self._landscape_copy.folder, writable=True)
        endpoints = open_endpoints(config.targets, checkpoint)
        device = next(iter(parameters.values())).device
        pinned = config.base == "host" and device.type == "cuda" and pin(checkpoint)  # if not, copies are slower
        memory = memory_for(device, checkpoint, config.base == "gpu", pinned)
        self._landscape_weights = ResidentWeights(checkpoint, layout, parameters, config.dtype, endpoints, memory)
        return layout

    def landscape_close(self) -> None:
        """Release the shared memory that would outlive this process."""
        if self._landscape_copy:
            self._landscape_copy.release()

    def landscape_apply_point(self, point: Point, scalars: Mapping[str, pa.Table]) -> None:
        """Write the weights of a point."""
        self._landscape_weights.apply_point(point, scalars)
        self._landscape_repack()

    def landscape_apply_canary(self) -> None:
        """Perturb every tensor for the canary test (see `ResidentWeights.apply_canary`)."""
        self._landscape_weights.apply_canary()
        self._landscape_repack()

    def landscape_restore(self) -> None:
        """Write the unperturbed weights into the engine's memory again."""
        self._landscape_weights.restore()
        self._landscape_repack()

    def landscape_read(self, name: str) -> list[Piece]:
        """Return copies of the parts of a checkpoint tensor that this rank holds."""
        return self._landscape_weights.read(name)

    def landscape_differences(self, expected: Literal["base", "canary"]) -> dict[str, str]:
        """Return tensor (or packed parameter) -> description, for those that differ from the expected weights."""
        weights = self._landscape_weights
        wrong = weights.differences_from_base() if expected == "base" else weights.differences_from_canary()
        for name, layer in self._landscape_packed():
            if count := _count_packed_differences(layer):
                wrong[name] = f"{count} elements that were read back through the packed layer differ"
        return wrong

    def landscape_watch_reads(self) -> None:
        """Start to record which parameters the engine's operations read."""
        self._landscape_reads = ReadWatch(self.model_runner.get_model())
        self._landscape_reads.__enter__()

    def landscape_unread(self) -> dict[str, str]:
        """Stop recording; return tensor -> reason, for the tensors that the forward passes have not read.

        A parameter with two owners (an embedding tied to the head) must be read by two operations. Layers with packed
        weights do not read the memory that is written; `landscape_differences` checks them.
        """
        recorder = self._landscape_reads
        recorder.__exit__(None, None, None)
        owners: Counter[int] = Counter()
        for module in self.model_runner.get_model().modules():
            owners.update(parameter.untyped_storage().data_ptr() for parameter in module.parameters(recurse=False))
        packed = [layer.weight.untyped_storage().data_ptr() for _, layer in self._landscape_packed()]
        owners.subtract(packed)
        unread: dict[str, str] = {}
        for name, addresses in self._landscape_weights.addresses().items():
            for address in addresses:
                readers = recorder.operations.get(address, set())
                if owners[address] == 0 and address in packed:
                    continue  # used in packed form only
                if not readers:
                    unread[name] = "no operation reads the memory it is written to"
                elif len(readers) < owners[address]:
                    unread[name] = f"it has {owners[address]} uses, and only {', '.join(sorted(readers))} reads it"
        return unread

    def _landscape_packed(self) -> Iterator[tuple[str, Any]]:
        """Yield (parameter, layer) for every linear layer that multiplies with a packed copy."""
        for name, module in self.model_runner.get_model().named_modules():
            if hasattr(module, "landscape_pack"):
                yield f"{name}.weight", module

    def _landscape_repack(self) -> None:
        with torch.inference_mode():
            for _, layer in self._landscape_packed():
                layer.landscape_pack()


def _count_packed_differences(layer: Any) -> int:
    """Count the elements whose values differ between a layer's weight and its packed form.

    Reads up to UNIT_VECTORS columns, spread over all of them, by multiplying with unit vectors: their products are
    exact.
    """
    weight = layer.weight
    columns = torch.linspace(0, weight.shape[1] - 1, min(UNIT_VECTORS, weight.shape[1])).round().long().unique()
    with torch.inference_mode():
        unit_vectors = torch.nn.functional.one_hot(columns, weight.shape[1]).to(weight.dtype)
        products = layer.cpu_linear(unit_vectors, weight, None)
        return int(torch.count_nonzero(products != weight[:, columns].T))
