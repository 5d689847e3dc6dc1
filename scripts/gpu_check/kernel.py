"""Stage 1: the noise kernel and resident weights, without vLLM, Ray or a network.

It needs Python 3.11 or newer, torch, triton, transformers, numba, safetensors and numpy, so that it also runs on a bare
machine that is lent for a few minutes. On a CPU it rehearses with Triton's interpreter (TRITON_INTERPRET=1).
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from orchestrator.sweep.directions.random import RandomDirection
from orchestrator.sweep.points import ORIGIN, Point
from orchestrator.utils.choices import Norm
from workers.noise import gpu, reference
from workers.noise.definition import DTYPES, Array, DType, SeedTerms, Slab, Term
from workers.noise.gpu_table import SlabTable, TableEntry
from workers.weights.checkpoint import MappedCheckpoint
from workers.weights.device_memory import TORCH_DTYPES, GpuMemory, pin
from workers.weights.layout import Region
from workers.weights.perturbation import Scalars, measure_columns, terms
from workers.weights.resident import ResidentWeights

SPECIAL = np.array(  # bits of float32: zeros, infinities, subnormals, the largest, and ties of both 16-bit dtypes
    [
        *(0, 0x80000000, 0x7F800000, 0xFF800000, 1, 0x807FFFFF, 0x00800000, 0x7F7FFFFF),
        *(0x33800000, 0x3F808000, 0x3F818000, 0x477FE000, 0x477FF000, 0x387FC000, 0x33000000),
    ],
    np.uint32,
).view(np.float32)
LINE, ACROSS = RandomDirection(11), RandomDirection(12, orthogonal_to=11)
ROWS = RandomDirection(13, Norm.filter)
Row = tuple[str, str]


@dataclass
class Comparisons:
    """Counts of comparisons with the reference."""

    done: int = 0
    wrong: list[str] = field(default_factory=list)

    def compare(self, what: str, actual: Array, expected: Array) -> None:
        """Compare bits; a NaN must be a NaN, whichever it is."""
        self.done += 1
        expected = np.ascontiguousarray(expected).view(actual.dtype)
        kinds = {4: np.float32, 2: np.float16}
        differ = actual != expected
        if actual.itemsize == 4 or "bfloat16" not in what:
            kind = kinds[actual.itemsize]
            differ &= ~(np.isnan(actual.view(kind)) & np.isnan(expected.view(kind)))
        else:
            differ &= ~((actual & 0x7FFF > 0x7F80) & (expected & 0x7FFF > 0x7F80))
        if count := int(np.count_nonzero(differ)):
            self.wrong.append(f"{what}: {count} of {actual.size} differ, first at {int(np.flatnonzero(differ)[0])}")


def weights(n: int, dtype: DType, seed: int = 0) -> Array:
    """Return n weights with special values among them."""
    x = (np.random.default_rng(seed).standard_normal(n) * 0.05).astype(np.float32)
    places = x[:: max(1, n // 500)]
    places[:] = np.resize(SPECIAL, len(places))
    return reference.from_float32(x, dtype)


def to_device(bits: Array, dtype: DType, device: torch.device) -> torch.Tensor:
    """Return weights as a tensor on the device."""
    copied = bits.copy() if dtype == "float32" else bits.view(np.int16).copy()
    return torch.from_numpy(copied).view(TORCH_DTYPES[dtype]).to(device)


def to_bits(tensor: torch.Tensor) -> Array:
    """Return a tensor's bits on the host, as unsigned integers."""
    whole: Array = tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16).cpu().numpy()
    return whole.view(np.uint32 if whole.itemsize == 4 else np.uint16)


def check_bits(device: torch.device, small: bool) -> Comparisons:
    """Compare the kernel with the reference, in all forms and dtypes."""
    comparisons = Comparisons()
    n = 1_100 if small else 40_001
    for (dtype, base), count, unit in itertools.product(itertools.product(DTYPES, DTYPES), (0, 1, 2), (n, 700)):
        if small and unit != n and count < 2:
            continue
        bits = weights(n, base)
        scales = np.random.default_rng(count).uniform(0.01, 0.2, (count, -(-n // unit))).astype(np.float32)
        scales[:, ::3] *= np.float32(unit == n)  # some rows do not move
        added = [Term(seed, scale, unit) for seed, scale in enumerate(scales)]
        out = torch.empty(n, dtype=TORCH_DTYPES[dtype], device=device)
        gpu.write_slab(out, to_device(bits, base, device), Slab.whole(n), "w", added)
        expected = reference.perturb(bits, "w", added, dtype, base)
        comparisons.compare(f"{dtype} from {base}, {count} terms, unit {unit}", to_bits(out), expected)
    for k in (2**31 - 1500, 2**32 - 3000, 2**35 - 3000, 2**39 + 5):  # 64-bit places, and the counter's high word
        bits = weights(6000, "bfloat16")
        far = [Term(seed, np.array([s], np.float32), k + 6000) for seed, s in ((5, 0.5), (-7, -0.25))]
        out = torch.empty(6000, dtype=torch.bfloat16, device=device)
        source = to_device(bits, "bfloat16", device)
        gpu.write_slab(out, source, Slab(1, 6000, k, 6000, 0, 6000), "w", far, None, (0, 6000))
        expected = reference.perturb(bits, "w", far, "bfloat16", "bfloat16", start=k)
        comparisons.compare(f"bfloat16 at {k}", to_bits(out), expected)
    check_blends(comparisons, device, small)
    return comparisons


def check_blends(comparisons: Comparisons, device: torch.device, small: bool) -> None:
    """Compare slices of rows, and blends of one to three sources."""
    rows, stride = (3, 701) if small else (37, 3001)
    kinds: tuple[DType, ...] = ("bfloat16", "float32", "float16")
    sources = [weights(rows * stride, kind, i) for i, kind in enumerate(kinds)]
    scale = np.float32(0.1) * np.arange(rows).astype(np.float32)
    added = [Term(9, scale, stride)]
    blends: tuple[tuple[float, ...] | None, ...] = (None, (1.0,), (0.7,), (0.6, 0.4), (0.5, 0.3, 0.2), (-0.2, 1.2))
    for (cols, first), factors in itertools.product(((stride // 3, 0), (stride // 2, stride // 2), (1, 7)), blends):
        blend = None if factors is None else list(zip(factors, sources, kinds, strict=False))
        whole = reference.perturb(sources[0], "w", added, "bfloat16", "bfloat16", blend)
        out = torch.zeros(rows * (cols + 5) + 3, dtype=torch.bfloat16, device=device)
        on_device = None if blend is None else [(c, to_device(bits, kind, device)) for c, bits, kind in blend]
        slab = Slab(rows, cols, first, stride, 3, cols + 5)
        base = to_device(sources[0], "bfloat16", device)
        gpu.write_slab(out, base, slab, "w", added, on_device, (first, stride))
        actual = to_bits(out)[3:].reshape(rows, -1)[:, :cols]
        expected = whole.reshape(rows, stride)[:, first : first + cols]
        comparisons.compare(
            f"bfloat16 columns {cols} at {first}, blend {factors}", actual.reshape(-1), expected.reshape(-1)
        )


def seconds(action: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median time of an action on the device, after two rounds that do not count."""
    times = []
    for _ in range(rounds + 2):
        if device.type == "cuda":
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            action()
            stop.record()
            torch.cuda.synchronize()
            times.append(float(start.elapsed_time(stop)) / 1e3)
        else:
            begin = time.perf_counter()
            action()
            times.append(time.perf_counter() - begin)
    return statistics.median(times[2:])


def measure_rates(device: torch.device, small: bool) -> list[Row]:
    """Measure the kernel's rate in each dtype, against a device copy and against its gather and arithmetic alone."""
    from scripts.gpu_check import probes

    rows: list[Row] = []
    rounds = 1 if small else 10
    for dtype in ("bfloat16", "float16", "float32"):
        torch_dtype = TORCH_DTYPES[dtype]
        n = 4096 if small else (1 << 30) // torch_dtype.itemsize
        source, target = (
            torch.zeros(n, dtype=torch_dtype, device=device),
            torch.empty(n, dtype=torch_dtype, device=device),
        )
        copy = seconds(lambda t=target, s=source: t.copy_(s), device, rounds)  # type: ignore[misc]
        rows.append((f"{dtype}: device copy", _rate(2 * source.nbytes, copy, n)))
        units = {"one term": (1, n), "two terms": (2, n), "one term, filter norm": (1, min(4096, n))}
        for name, (count, unit) in units.items():
            added = [Term(seed, np.full(-(-n // unit), 0.1, np.float32), unit) for seed in range(count)]
            took = seconds(
                lambda t=target, s=source, a=added: gpu.write_slab(t, s, Slab.whole(len(s)), "w", a),  # type: ignore[misc]
                device,
                rounds,
            )
            share = f"{100 * copy / took:.0f}% of the copy's bandwidth"
            rows.append((f"{dtype}: {name}", f"{_rate(2 * source.nbytes, took, n)}, {share}"))
        del source, target
    n = 4096 if small else 1 << 28
    for name, probe in (("table look-up alone", probes.gather), ("Philox alone", probes.philox)):
        took = seconds(lambda p=probe: p(n, device), device, rounds)  # type: ignore[misc]
        rows.append((name, f"{1e12 * took / n:.2f} ps per element"))
    return rows


def _rate(moved: int, took: float, n: int) -> str:
    return f"{moved / took / 1e9:,.0f} GB/s, {1e12 * took / n:.2f} ps per element"


def measure_writes(device: torch.device, small: bool) -> list[Row]:
    """Measure what a write of many small slabs costs: its launches and copies, not its elements."""
    count, size = (6, 1024) if small else (18_674, 4096)
    memory = torch.zeros(count * size, dtype=torch.bfloat16, device=device)
    base = torch.zeros_like(memory)
    names = [f"w{i}" for i in range(count)]
    slabs = [Slab(1, size, 0, size, i * size, size) for i in range(count)]
    entries = [TableEntry(i, slab, memory, base[i * size :][:size]) for i, slab in enumerate(slabs)]
    table = SlabTable(names, entries, device)
    ones = np.ones(count, np.float32)
    one_term = [SeedTerms(3, np.arange(count + 1), np.full(count, size))]
    everything = np.ones(count, bool)

    rows = size // 64
    scalars = torch.ones(count * rows, dtype=torch.float64, device=device)
    row_terms = [SeedTerms(3, rows * np.arange(count + 1), np.full(count, 64))]

    def write(terms: Sequence[SeedTerms], by_row: bool = False) -> None:
        row_scales = torch.empty(count * rows, dtype=torch.float32, device=device) if by_row else None
        if row_scales is not None:
            gpu.weighted_sum(row_scales, [(0.5, scalars), (0.25, scalars)])
        table.write(everything, terms, [ones], row_scales)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def one_by_one(entries: Sequence[TableEntry]) -> None:
        for i, entry in enumerate(entries):
            term = Term(3, np.ones(1, np.float32), size)
            gpu.write_slab(entry.dst, entry.source, entry.slab, f"w{i}", [term], None, (0, size))
        if device.type == "cuda":
            torch.cuda.synchronize()

    some = entries[:300]
    return [
        (f"write of {count:,} small slabs at once", f"{1e3 * _wall(lambda: write(one_term)):.1f} ms"),
        (
            f"the same with {count * rows:,} scales of rows",
            f"{1e3 * _wall(lambda: write(row_terms, by_row=True)):.1f} ms",
        ),
        ("write of one slab by itself", f"{1e6 * _wall(lambda: one_by_one(some)) / len(some):.0f} us"),
    ]


def _wall(action: Callable[[], None]) -> float:
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[1:])


def check_pinning(device: torch.device, folder: Path) -> list[Row]:
    """Register a mapped checkpoint with CUDA, and launch a kernel after it."""
    if device.type != "cuda":
        return [("registration with CUDA", "not on a CPU")]
    checkpoint = MappedCheckpoint(folder, writable=True)
    pinned = pin(checkpoint)
    try:
        torch.ones(8, device=device).add_(1)
        torch.cuda.synchronize()
        after = "the next kernel runs"
    except RuntimeError as error:
        after = f"THE NEXT KERNEL FAILS: {error}"
    return [("registration with CUDA", f"{'accepted' if pinned else 'declined'}; {after}")]


def scalars_of(checkpoint: MappedCheckpoint, direction: RandomDirection) -> Scalars:
    """Return the scalars of a direction by tensor."""
    tensors = [(t.name, checkpoint.base(t.name), t.shape, t.dtype) for t in checkpoint.tensors()]
    names, _, on_self, on_other, _ = measure_columns(direction, tensors)
    units: dict[str, list[tuple[float, float]]] = {}
    for name, one, other in zip(names, on_self, on_other, strict=True):
        units.setdefault(name, []).append((one, other))
    return {name: (np.array([a for a, _ in u]), np.array([b for _, b in u])) for name, u in units.items()}


def check_resident(device: torch.device, folder: Path, small: bool) -> tuple[Comparisons, list[Row]]:
    """Move a live Llama through points, with the base on the device and on the host; compare weights and logits."""
    import transformers

    checkpoint, comparisons, rows = MappedCheckpoint(folder, writable=True), Comparisons(), list[Row]()
    pinned = device.type == "cuda" and pin(checkpoint)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    layout = {info.name: [Region(info.name, Slab.whole(info.size))] for info in checkpoint.tensors()}
    ids = torch.arange(0, 64, device=device)[None]
    scalars = {d.id: scalars_of(checkpoint, d) for d in (LINE, ACROSS, ROWS)}
    points = [Point.from_coefficients([(LINE, x), (ACROSS, y)]) for x, y in ((0.3, 0.1), (-0.2, -0.4))]
    points.append(Point.from_coefficients([(ROWS, 0.2)]))
    points = points[small:] + [Point.from_coefficients([(LINE, 0.1)])] * (not small) + [ORIGIN]
    with torch.inference_mode():
        before = model(ids).logits
    for resident in (True, False):
        memory = GpuMemory(checkpoint, device, resident, pinned)
        live = ResidentWeights(checkpoint, layout, parameters, "bfloat16", {}, memory)
        problems = live.differences_from_base()
        live.apply_canary()
        problems |= live.differences_from_canary()
        live.restore()
        problems |= live.differences_from_base()
        comparisons.wrong += [f"canary, {name}: {why}" for name, why in problems.items()]
        took = []
        for point in points:
            begin = time.perf_counter()
            live.apply_point(point, scalars)
            took.append(time.perf_counter() - begin)
            compare_point(comparisons, live, checkpoint, point, scalars)
        with torch.inference_mode():
            if not torch.equal(before, model(ids).logits):
                comparisons.wrong.append("the logits at the origin changed")
        place = "on the device" if resident else "on the host"
        size = sum(info.size for info in checkpoint.tensors()) / 1e6
        rows.append((f"write of a Llama of {size:.0f}M, base {place}", f"{1e3 * statistics.median(took[1:]):.1f} ms"))
    return comparisons, rows


def compare_point(
    comparisons: Comparisons,
    live: ResidentWeights,
    checkpoint: MappedCheckpoint,
    point: Point,
    scalars: dict[str, Scalars],
) -> None:
    """Compare the first 100,000 elements of some tensors with the reference."""
    infos = checkpoint.tensors()
    for info in infos[:: max(1, len(infos) // 20)]:
        n = min(info.size, 100_000)
        added = terms(point, info.name, info.shape, scalars)
        expected = reference.perturb(checkpoint.base(info.name)[:n], info.name, added, "bfloat16", info.dtype)
        actual = live.read(info.name)[0].values.reshape(-1)[:n]
        comparisons.compare(f"bfloat16 {info.name}", actual, expected.view(np.uint16))


def make_llama(folder: Path, small: bool) -> None:
    """Save a random Llama in bfloat16: of the embedded model's shape, or a tiny one."""
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=256 if small else 49152,
        hidden_size=32 if small else 576,
        intermediate_size=48 if small else 1536,
        num_hidden_layers=1 if small else 30,
        num_attention_heads=2 if small else 9,
        num_key_value_heads=1 if small else 3,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def run(device: torch.device) -> tuple[list[Row], list[str]]:
    """Run stage 1. Returns the rows of the result's table, and what is wrong."""
    small = device.type != "cuda"
    rows: list[Row] = []
    begin = time.perf_counter()
    bits = check_bits(device, small)
    rows.append(("kernel against the reference", _verdict(bits)))
    with tempfile.TemporaryDirectory() as folder:
        make_llama(Path(folder), small)
        resident, writes = check_resident(device, Path(folder), small)
        rows.append(("resident weights against the reference", _verdict(resident)))
        rows += [*writes, *check_pinning(device, Path(folder))]
    rows += [*measure_rates(device, small), *measure_writes(device, small)]
    rows.append(("stage 1", f"{time.perf_counter() - begin:.0f} s"))
    return rows, [*bits.wrong, *resident.wrong, *_failures(rows)]


def _verdict(comparisons: Comparisons) -> str:
    return f"{comparisons.done - len(comparisons.wrong)} of {comparisons.done} comparisons equal"


def _failures(rows: Iterable[Row]) -> list[str]:
    return [value for _, value in rows if "FAILS" in value]


def card_name(device: torch.device) -> str:
    """Return the name of the GPU, which begins every row of the table, so that those of several cards can be joined."""
    return torch.cuda.get_device_name() if device.type == "cuda" else "CPU (rehearsal: times mean nothing)"


def versions(device: torch.device) -> str:
    """Name the device and the versions that matter."""
    import triton

    return f"{card_name(device)}, torch {torch.__version__}, triton {triton.__version__}"
