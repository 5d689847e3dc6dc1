"""The result of the verb `plan` as rows of text."""

from __future__ import annotations

from orchestrator.planning.cost import JudgePlan, Plan, ReadingPlan
from orchestrator.planning.gpus import find_gpu
from orchestrator.planning.memory import PLACEMENT_TEXT, MemoryEstimate, format_bytes
from orchestrator.planning.timing import BASIS_TEXT
from orchestrator.report.narrative import plan_sentence
from orchestrator.utils.choices import EngineKind
from orchestrator.utils.console import duration


def plan_rows(plan: Plan) -> list[tuple[str, str]]:
    """Return the plan as pairs of label and text, in the order in which they are printed."""
    model = plan.model
    rows = [
        ("model", f"{model.name} ({_parameters(model.parameters)} parameters, {model.dtype})"),
        ("points", f"{plan.points:,}"),
        ("tasks", f"{plan.tasks:,}, {plan.tasks_stored:,} of them stored"),
        ("visits", f"{plan.visits:,}"),
        ("responses", f"{plan.responses:,}"),
        ("tokens", f"{plan.prompt_tokens:,} in prompts, at most {plan.generated_tokens:,} generated"),
    ]
    rows += [("prompts", str(rendering)) for rendering in plan.rendering]
    if plan.memory is not None:
        rows.append((f"memory per {'GPU' if plan.setup.gpu else 'actor'}", _memory(plan.memory)))
    rows.append(_device(plan))
    if plan.seconds_per_visit is not None:
        bound = f"; most of it is {plan.seconds.binds}" if plan.seconds and plan.seconds.binds else ""
        rows.append(("a visit", f"{duration(plan.seconds_per_visit)} ({BASIS_TEXT[plan.basis]}){bound}"))
    if plan.wall_hours is not None:
        rows.append(("time", f"at most {duration(plan.wall_hours * 3600)}"))
    if plan.gpu_hours is not None:
        rows.append(("GPU-hours", f"at most {plan.gpu_hours:.2f}"))
    rows.append(("disk", f"at most {format_bytes(plan.disk_bytes)}"))
    if plan.log_probability is not None:
        rows.append(("log-probability", _reading(plan.log_probability)))
    rows += [(f"judge {judge.judge}", _judge(judge)) for judge in plan.judging]
    if plan.precision is not None:
        rows.append(("precision", plan_sentence(plan.precision)))
    return rows + [("note", note) for note in plan.notes]


def _parameters(count: int | None) -> str:
    if count is None:
        return "an unknown number of"
    return f"{count / 1e9:.1f} billion" if count >= 10**9 else f"{count / 1e6:.0f} million"


def _memory(memory: MemoryEstimate) -> str:
    place = "" if memory.base_at is None else f" ({PLACEMENT_TEXT[memory.base_at]})"
    return (
        f"{format_bytes(memory.peak)}: weights {format_bytes(memory.weights)}, keys and values "
        f"{format_bytes(memory.kv)}, the rest {format_bytes(memory.overhead)}; pristine base "
        f"{format_bytes(memory.base)}{place}"
    )


def _device(plan: Plan) -> tuple[str, str]:
    """Return the row of the GPUs, with whether the model fits them, or that of the CPU."""
    setup, memory = plan.setup, plan.memory
    if not setup.gpu:
        return "CPU", f"{setup.actors} {'actor' if setup.actors == 1 else 'actors'}, {setup.cores} cores each"
    groups = f"{setup.actors} x {setup.tensor_parallel} {find_gpu(setup.gpu).name}"
    if memory is None:
        return "GPUs", groups
    if memory.fits:
        return "GPUs", f"{groups}: fits"
    remedy = "nor on eight"
    if setup.gpu_share < 1:
        remedy = f"the share of an actor is {setup.gpu_share:g}"
    elif setup.engine == EngineKind.transformers:
        remedy = "engine=vllm can use several for each actor"
    elif plan.suggested_tensor_parallel:
        remedy = f"engine.tensor_parallel={plan.suggested_tensor_parallel} does"
    return "GPUs", f"{groups}: does not fit; {remedy}"


def _reading(reading: ReadingPlan) -> str:
    costs = f"at most {reading.responses:,} responses, {reading.tokens:,} tokens to read"
    if reading.share is not None:
        costs = (
            f"about {reading.responses:,} responses, {reading.tokens:,} tokens to read "
            f"(an estimate: {100 * reading.share:.0f}% of the texts are uncertain)"
        )
    return costs if reading.seconds is None else f"{costs}; {duration(reading.seconds)}"


def _judge(judge: JudgePlan) -> str:
    costs = [f"at most {judge.responses:,} responses, {judge.tokens:,} tokens to read"]
    if judge.wall_hours is not None:
        costs.append(duration(judge.wall_hours * 3600))
    if judge.dollars is not None:
        costs.append(f"{judge.dollars:.2f} dollars")
    if judge.gpu_hours is not None:
        costs.append(f"{judge.gpu_hours:.2f} GPU-hours")
    if judge.memory is not None and judge.memory.fits is False:
        costs.append(f"{format_bytes(judge.memory.peak)} a GPU, which does not fit: raise judging.tensor_parallel")
    return "; ".join(costs)
