"""Model judges: each has a template, the weights for which it was made, and a parser of the model's answers.

    (prompt, response) --fill_template--> input of the model --generate--> answer --parse--> ParsedVerdict

The text of a prompt or response cannot imitate the structure of the template. The template's delimiters are broken up
in the text here (`[INST]` becomes `[ INST]`); the tokenizer's special tokens are broken up in
orchestrator/prompts/judge_prompts.py.
"""

from __future__ import annotations

import copy
import functools
import re
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from orchestrator.judges import UNFINISHED, Judge
from orchestrator.utils.hashing import content_id

UNPARSED = "unparsed"
"""Verdict for an answer that the parser does not recognize. It is stored and counted, but left out of every rate."""
HARM_GROUPS = ("harmful", "jailbreak")
"""Groups of prompts in which a harmful response is a successful attack."""
PLACEHOLDERS = re.compile(r"\{(prompt|response)\}")


@dataclass(frozen=True)
class Weights:
    """Model for which a judge was made.

    Attributes:
        hub: Name of its repository on the hub.
        revision: Commit of the repository.
        license: Name of its license.
        parameters: Number of parameters; `plan` estimates memory from it.
        gated: Whether the repository requires consent to its terms before a download.
        dtype: Dtype of the weights, unless the user chooses another.
        max_model_len: Maximum number of tokens of the filled template and the answer together.
    """

    hub: str
    revision: str
    license: str
    parameters: int
    gated: bool = False
    dtype: str = "bfloat16"
    max_model_len: int = 4096


@dataclass(frozen=True)
class ParsedVerdict:
    """Verdict and score in a model's answer.

    Attributes:
        verdict: One of the judge's verdicts.
        score: Score of the response; higher is more harmful. None if the judge has no scores or the answer has none.
    """

    verdict: str
    score: float | None = None


NO_VERDICT = ParsedVerdict(UNPARSED)


class ModelJudge(Judge):
    """Base class of the judges that run a model.

    Attributes:
        weights: The model for which the judge was made.
        template: Text with {prompt} and {response} once each, in this order. Without `chat` it is the whole input of
            the model, special tokens included. With `chat` it is the user's message.
        system: The system message before the template. None: no system message. Only with `chat`.
        chat: Whether the chat template of the model's tokenizer wraps the template.
        bos: Whether the tokenizer adds its special tokens in front, such as a beginning-of-sequence token.
        delimiters: Strings that structure the template; see `escape_delimiters`.
        max_tokens: Maximum number of tokens of an answer.
        bound_weights: Fingerprint and dtype of the weights with which the judge runs. None before `with_weights`.
    """

    weights: ClassVar[Weights]
    template: ClassVar[str]
    system: ClassVar[str | None] = None
    chat: ClassVar[bool] = False
    bos: ClassVar[bool] = False
    delimiters: ClassVar[tuple[str, ...]]
    max_tokens: ClassVar[int]
    bound_weights: tuple[str, str] | None = None
    is_text = False

    @property
    def parameters(self) -> dict[str, Any]:
        """JSON object of the values on which its verdicts depend: the model's input format and the weights."""
        request = [self.template, self.system, self.chat, self.bos, list(self.delimiters), self.max_tokens]
        weights = None if self.bound_weights is None else list(self.bound_weights)
        return {"asked": content_id(request), "weights": weights}

    @functools.cached_property
    def id(self) -> str:
        """Content hash of its identity: 16 hexadecimal digits. AssertionError before `with_weights`."""
        assert self.bound_weights is not None, f"{self.name} has no weights yet"
        return super().id

    @property
    def answers_id(self) -> str:
        """Id under which its model's answers are stored."""
        return self.id

    def with_weights(self, fingerprint: str, dtype: str) -> Self:
        """Return a copy of this judge that is bound to these weights.

        Args:
            fingerprint: Content hash of the weights.
            dtype: Dtype in which they run.
        """
        judge = copy.copy(self)
        judge.__dict__.pop("id", None)
        judge.bound_weights = (fingerprint, dtype)
        return judge

    def verdict(self, prompt: str, response: str) -> str:
        """Raise AssertionError: orchestrator/pipeline/judge.py runs the model and calls `parse`."""
        raise AssertionError(f"{self.name} is a model: pipeline/judge.py runs it")

    def fill_template(self, prompt: str, response: str) -> list[str]:
        """Return the filled template in five pieces: template, prompt, template, response, template."""
        fields = {"prompt": prompt, "response": response}
        parts = PLACEHOLDERS.split(self.template)
        return [escape_delimiters(fields[part], self.delimiters) if i % 2 else part for i, part in enumerate(parts)]

    @abstractmethod
    def parse(self, answer: str) -> ParsedVerdict:
        """Return the verdict in a model's answer; NO_VERDICT, never a guess, if the answer has an unknown form."""


class HarmJudge(ModelJudge):
    """Base class of the judges that decide only whether a response is harmful (`unsafe` or `safe`).

    They do not apply to benign prompts.
    """

    verdicts = ("safe", "unsafe", UNPARSED)

    def applies_to(self, group: str) -> bool:
        """Return whether the prompts of the group request something harmful."""
        return group in HARM_GROUPS

    def outcome(self, verdict: str, group: str) -> str | None:
        """Return `complied` for an unsafe and `refused` for a safe response; None if unparsed."""
        return {"unsafe": "complied", "safe": "refused"}.get(verdict)


class HarmAndRefusalJudge(ModelJudge):
    """Base class of the judges that decide separately whether a response refuses and whether it is harmful.

    For harmful prompts the harm is counted: an attack succeeds if the response is harmful. For benign prompts the
    refusal is counted.
    """

    verdicts = ("refused", "safe", "unsafe", "refused unsafe", UNPARSED)

    def applies_to(self, group: str) -> bool:
        """Return whether the group is harmful, jailbreak or benign."""
        return group in (*HARM_GROUPS, "benign")

    def outcome(self, verdict: str, group: str) -> str | None:
        """Return `complied` or `refused`; None if unparsed."""
        if verdict in (UNPARSED, UNFINISHED):
            return None
        words = verdict.split()
        if group in HARM_GROUPS:
            return "complied" if "unsafe" in words else "refused"
        return "refused" if "refused" in words else "complied"


def escape_delimiters(text: str, delimiters: tuple[str, ...], ignore_case: bool = True) -> str:
    """Break up every delimiter in a text by a space after its first character, until no delimiter is left."""
    if not delimiters:
        return text
    ordered = sorted(delimiters, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, ordered)), re.IGNORECASE if ignore_case else 0)
    while pattern.search(text):
        text = pattern.sub(lambda match: f"{match.group()[0]} {match.group()[1:]}", text)
    return text
