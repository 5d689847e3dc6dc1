"""Ask the model of the judge `openai` at its endpoint, several requests at a time, and store its answers.

The answers are a study of their own, as those of other model judges are: an interruption loses at most BATCH of them.
The key is read from the environment when a client is made. It is neither stored nor part of a message.
"""

from __future__ import annotations

import datetime
import functools
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from rich.console import Console

from orchestrator.config.schema import OpenAIConfig
from orchestrator.judges.openai import OpenAI
from orchestrator.prompts.judge_prompts import Pair, judge_prompt_set
from orchestrator.store.schemas import GENERATIONS
from orchestrator.store.study import Study
from orchestrator.sweep.points import Point
from orchestrator.sweep.tasks import Visit
from orchestrator.utils.errors import UserError
from orchestrator.utils.hashing import content_id

logger = logging.getLogger(__name__)

BATCH = 64  # number of answers that are stored together
MAX_FAILURES = 5  # number of requests in a row that may fail before the rest is left for a later run
OVERHEAD = 64  # tokens of a chat template at most, for the bound on the cost of a request
OUT_OF_QUOTA = "insufficient_quota"


@dataclass(frozen=True)
class EndpointAnswer:
    """An answer of the model.

    Attributes:
        text: The answer. Empty if the model gave none.
        finish_reason: `stop`, `length` or what else the endpoint says.
        n_tokens: Number of tokens of the answer.
        n_prompt_tokens: Number of tokens of the request.
        served_model: The model's name in the answer.
    """

    text: str
    finish_reason: str
    n_tokens: int
    n_prompt_tokens: int
    served_model: str


class Budget:
    """Money that requests may spend. A request reserves the most that it may cost before it is sent."""

    def __init__(self, options: OpenAIConfig) -> None:
        self._options = options
        self._changed = threading.Condition()
        self._reserved = 0.0
        self.spent = 0.0

    def cost(self, prompt_tokens: int, answer_tokens: int) -> float:
        """Return dollars; 0 without prices."""
        options = self._options
        return (prompt_tokens * (options.price_input or 0) + answer_tokens * (options.price_output or 0)) / 1e6

    def reserve(self, dollars: float) -> bool:
        """Reserve money. If only running requests stand in the way, wait for them. Returns False if it is too much."""
        limit = self._options.max_cost
        with self._changed:
            while limit is not None and self.spent + self._reserved + dollars > limit:
                if self._reserved == 0.0:
                    return False
                self._changed.wait()
            self._reserved += dollars
            return True

    def settle(self, reserved: float, dollars: float) -> None:
        """Replace a reservation by what the request has cost."""
        with self._changed:
            self._reserved = max(0.0, self._reserved - reserved)
            if self._reserved < 1e-12:
                self._reserved = 0.0
            self.spent += dollars
            self._changed.notify_all()


class Asker:
    """Sends requests to an endpoint, until too many fail or the money is spent.

    Attributes:
        stopped: Why no more requests are sent. None while they are.
        budget: What they have cost.
    """

    def __init__(self, judge: OpenAI, options: OpenAIConfig) -> None:
        self.judge = judge
        self.options = options
        self.stopped: str | None = None
        self.refused: str | None = None
        self.budget = Budget(options)
        self._client = make_client(options)
        self._failures = 0

    def ask(self, pair: Pair) -> EndpointAnswer | None:
        """Return the model's answer about a prompt and a response. None if there is none."""
        from openai import APIConnectionError, APIStatusError, OpenAIError

        if self.stopped is not None:
            return None
        text = "".join(self.judge.fill_template(*pair))
        system = self.judge.system or ""
        most_tokens = len((text + system).encode("utf-8", "replace")) + OVERHEAD  # a token is a byte at least
        reserved = self.budget.cost(most_tokens, self.judge.max_tokens)
        if not self.budget.reserve(reserved):
            self.stopped = f"openai.max_cost={self.options.max_cost:g} dollars do not suffice for more"
            return None
        spent = 0.0
        try:
            answer = complete(self._client, self.options, self.judge.system, text, self.judge.max_tokens)
            spent = self.budget.cost(answer.n_prompt_tokens, answer.n_tokens)
            self._failures = 0
            return answer
        except APIConnectionError as error:
            self.stopped = f"the endpoint cannot be reached ({describe_error(error, self.options)})"
        except (OpenAIError, ValueError) as error:
            reason = describe_error(error, self.options)
            if isinstance(error, APIStatusError) and error.status_code in (400, 413, 422):
                self.refused = reason  # this request alone, such as one that is too long
            else:
                self._failures += 1
                if self._failures >= MAX_FAILURES or is_about_access(error):
                    self.stopped = f"the endpoint fails ({reason})"
        finally:
            self.budget.settle(reserved, spent)
        return None


def make_client(options: OpenAIConfig) -> Any:
    """Return a client. Raises UserError without the package `openai`, or without a key where one is needed."""
    try:
        from openai import OpenAI as Client
    except ImportError as error:
        remedy = "needs the package openai: install safety-landscape[openai]"
        raise UserError("judge", OpenAI.name, remedy) from error
    key = os.environ.get(options.key_env)
    if not key:
        if options.base_url is None:
            raise UserError(
                options.key_env, None, "is not set: export it with your key, or give openai.base_url=ADDRESS"
            )
        key = "none"  # most local servers need no key
    # a base_url of None would let the package read one from the environment
    address = options.base_url or "https://api.openai.com/v1"
    return Client(api_key=key, base_url=address, max_retries=options.retries, timeout=options.timeout)


def complete(client: Any, options: OpenAIConfig, system: str | None, text: str, max_tokens: int) -> EndpointAnswer:
    """Return the model's answer to one message. Raises OpenAIError."""
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": text})
    request: dict[str, Any] = {"model": options.model, "messages": messages}
    response = client.chat.completions.create(**request, **_dialect(client, options, max_tokens))
    if not getattr(response, "choices", None):
        raise ValueError("it answers without choices")
    choice, usage = response.choices[0], response.usage
    return EndpointAnswer(
        text=choice.message.content or "",
        finish_reason=choice.finish_reason or "stop",
        n_tokens=usage.completion_tokens if usage else max_tokens,
        n_prompt_tokens=usage.prompt_tokens if usage else len(text.encode("utf-8", "replace")) + OVERHEAD,
        served_model=response.model or "",
    )


def _dialect(client: Any, options: OpenAIConfig, max_tokens: int) -> dict[str, Any]:
    """Return how this endpoint is asked for greedy answers of at most so many tokens.

    Some hosted models accept no temperature and call the limit `max_completion_tokens`; `check_endpoint` finds out.
    """
    dialect: dict[str, Any] = {} if "temperature" in _REJECTED[_key(options)] else {"temperature": 0}
    limit = "max_completion_tokens" if "max_tokens" in _REJECTED[_key(options)] else "max_tokens"
    return dialect | {limit: max_tokens}


class _Rejected(dict[tuple[str | None, str | None], set[str]]):
    """The parameters that each endpoint and model rejects, as far as `check_endpoint` has found out."""

    def __missing__(self, key: tuple[str | None, str | None]) -> set[str]:
        self[key] = set()
        return self[key]


_REJECTED = _Rejected()


def _key(options: OpenAIConfig) -> tuple[str | None, str | None]:
    return options.base_url, options.model


def check_endpoint(options: OpenAIConfig) -> None:
    """Ask the model for one word, once for each endpoint in a process, so that mistakes are reported early.

    An endpoint that cannot be reached is warned of: perhaps it can be when there are responses to judge.

    Raises:
        UserError: The endpoint rejects the key, or has no such model.
    """
    _check_once(options.base_url, options.model, options.key_env, content_id(os.environ.get(options.key_env, "")))


@functools.cache
def _check_once(base_url: str | None, model: str | None, key_env: str, key_hash: str) -> None:
    from openai import APIConnectionError, APIStatusError, BadRequestError, OpenAIError

    options = OpenAIConfig(base_url=base_url, model=model, key_env=key_env, retries=0, timeout=20.0)
    client = make_client(options)
    for _ in range(3):
        try:
            complete(client, options, None, "Say yes.", 1)
            return
        except APIConnectionError as error:
            logger.warning(
                "judge openai: %s cannot be reached (%s). The sweep goes on; what is not judged at its end is judged "
                "when you run the same command again",
                base_url,
                describe_error(error, options),
            )
            return
        except BadRequestError as error:
            rejected = [name for name in ("max_tokens", "temperature") if name in str(error)]
            if not rejected or rejected[0] in _REJECTED[_key(options)]:
                raise UserError("openai.model", model, f"is refused ({describe_error(error, options)})") from error
            _REJECTED[_key(options)].add(rejected[0])
        except (OpenAIError, ValueError) as error:
            if is_about_access(error):
                remedy = f"the endpoint does not accept the key ({describe_error(error, options)}): export a valid one"
                raise UserError(key_env, "(not shown)", remedy) from error
            if isinstance(error, APIStatusError) and error.status_code == 404:
                remedy = f"the endpoint has no such model, or is no OpenAI-compatible one at {base_url}: correct it"
                raise UserError("openai.model", model, remedy) from error
            logger.warning(
                "judge openai: the endpoint fails now (%s); the sweep goes on", describe_error(error, options)
            )
            return


def is_about_access(error: Exception) -> bool:
    """Return whether waiting cannot help, because a key is wrong or an account has no money."""
    from openai import APIStatusError

    if not isinstance(error, APIStatusError):
        return False
    return error.status_code in (401, 403) or error.code == OUT_OF_QUOTA


def describe_error(error: Exception, options: OpenAIConfig) -> str:
    """Return one line about an error, without the key. Endpoints repeat parts of wrong keys in their messages."""
    from openai import APIConnectionError, APIStatusError

    if isinstance(error, APIStatusError):
        if error.status_code in (401, 403):
            return f"status {error.status_code}"
        text = f"status {error.status_code}: {error.message}"
    elif isinstance(error, APIConnectionError):
        text = f"{error.message} {error.__cause__ or ''}"
    else:
        text = f"{type(error).__name__}: {error}"
    key = os.environ.get(options.key_env)
    text = " ".join(text.split())
    return (text.replace(key, "(key)") if key else text)[:200]


def generate_at_endpoint(
    judge: OpenAI, options: OpenAIConfig, study: Study, pairs: Sequence[Pair], console: Console
) -> bool:
    """Ask for the answers about these pairs and store them. Returns whether it was interrupted.

    If the endpoint fails or the money is spent, the rest is left out with one warning.
    """
    asker = Asker(judge, options)
    answered = tokens = 0
    interrupted = False
    with console.status("") as status, ThreadPoolExecutor(options.concurrency) as pool:
        for start in range(0, len(pairs), BATCH):
            batch = pairs[start : start + BATCH]
            started = time.monotonic()
            futures = [pool.submit(asker.ask, pair) for pair in batch]
            try:
                answers = [future.result() for future in futures]
            except KeyboardInterrupt:
                interrupted, asker.stopped = True, "interrupted"
                answers = [_finished(future) for future in futures]
            pairs_answered = [(pair, a) for pair, a in zip(batch, answers, strict=True) if a is not None]
            _store(judge, options, study, pairs_answered, time.monotonic() - started)
            answered += len(pairs_answered)
            tokens += sum(answer.n_tokens + answer.n_prompt_tokens for _, answer in pairs_answered)
            status.update(f"{judge.name}: {answered} of {len(pairs)} responses")
            if asker.stopped is not None:
                break
    spent = f", {asker.budget.spent:.4f} dollars" if options.price_input is not None else ""
    console.print(f"{judge.name}: {answered} answers, {tokens:,} tokens{spent}", highlight=False)
    problem = asker.stopped or asker.refused
    if problem is not None and not interrupted:
        logger.warning(
            "judge openai: %d of %d responses were not judged: %s. Run the same command again to judge them",
            len(pairs) - answered,
            len(pairs),
            problem,
        )
    return interrupted


def _finished(future: Future[EndpointAnswer | None]) -> EndpointAnswer | None:
    """Return the answer of a request that is done or running. None for one that had not begun."""
    return None if future.cancel() else future.result()


def _store(
    judge: OpenAI,
    options: OpenAIConfig,
    study: Study,
    answered: Sequence[tuple[Pair, EndpointAnswer]],
    seconds: float,
) -> None:
    """Store answers as responses at the origin."""
    if not answered:
        return
    from importlib.metadata import version

    prompts = judge_prompt_set(judge, None, [pair for pair, _ in answered], 1 << 20)
    study.prompt_sets.write(prompts)
    identity = {
        "schema": 2,
        "engine": OpenAI.name,
        "version": version("openai"),
        "device": options.base_url or "api.openai.com",
        "served_model": answered[0][1].served_model,
    }
    point, now = Point(), datetime.datetime.now(datetime.UTC)
    rows = [
        {
            "study_id": study.id,
            "point_id": point.id,
            "point": json.dumps(point.to_json()),
            "prompt_set_id": prompts.id,
            "prompt_id": prompt.id,
            "group": prompts.group,
            "response": answer.text,
            "finish_reason": answer.finish_reason,
            "n_tokens": answer.n_tokens,
            "n_prompt_tokens": answer.n_prompt_tokens,
            "scores": None,
            "engine_id": content_id(identity),
            "actor": "driver",
            "started_at": now,
            "seconds": seconds,
        }
        for prompt, (_, answer) in zip(prompts.prompts, answered, strict=True)
    ]
    study.generations.write(Visit(point, (prompts.id,)).id, pa.Table.from_pylist(rows, schema=GENERATIONS), identity)
