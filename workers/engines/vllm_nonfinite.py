"""Detect tokens that vLLM chose from logits that are not finite.

vLLM counts the NaNs in each request's logits if VLLM_COMPUTE_NANS_IN_LOGITS is set, and hands the count from its
workers to the engine's process with each token (`EngineCoreOutput.num_nans_in_logits`). The patch
`patches.count_undefined_choices` lets it count what makes a choice undefined, and `UndefinedChoices` reads the counts.
"""

from __future__ import annotations

from typing import Any


class UndefinedChoices:
    """The first token of each request that was chosen from logits that are not finite.

    Attributes:
        positions: Number of tokens before that token, by the id of the request. Requests without one are missing.
    """

    def __init__(self, engine: Any) -> None:
        """Watch the outputs of a `vllm.v1.engine.llm_engine.LLMEngine`."""
        self.positions: dict[str, int] = {}
        core, get_output = engine.engine_core, engine.engine_core.get_output
        states = engine.output_processor.request_states

        def watched_output() -> Any:
            outputs = get_output()
            for output in outputs.outputs:
                state = states.get(output.request_id) if output.num_nans_in_logits else None
                if state is not None:  # None: a stop string has ended the response
                    self.positions.setdefault(state.external_req_id, state.detokenizer.num_output_tokens())
            return outputs

        core.get_output = watched_output
