"""Probes of several turns: a row's messages, as in data sets of chats, become a conversation and its text.

The text is what judges and people read, and what identifies the prompt. The conversation is what the chat template
renders for the model.
"""

from __future__ import annotations

from typing import Any

from orchestrator.prompts.few_shot import Conversation
from orchestrator.sweep.thoughts import USER_TURN
from orchestrator.utils.parsing import FOREIGN_DIGITS, FormatError, parse_json

MESSAGES_COLUMN = "messages"
"""Usual name of the column with the messages."""


def read_messages(value: object, where: str, column: str) -> Conversation:
    """Return the conversation in a cell: a list of {"role": ..., "content": ...}, or that list as JSON text.

    A system message may come first. Then the user and the assistant take turns, and the last message is the user's.

    Args:
        value: The cell.
        where: The row, for errors, such as "line 3".
        column: The column's name, for errors.

    Raises:
        ValueError: The cell holds something else.
    """
    problem = f"{where} holds no conversation in column {column}"
    if isinstance(value, str):
        try:
            value = parse_json(value, FOREIGN_DIGITS)
        except FormatError as error:
            raise ValueError(f"{problem} (it {error}): give a list of messages") from None
    if not isinstance(value, list) or not value:
        raise ValueError(f"{problem}: give a list of messages, each with role and content")
    messages = [_role_and_text(message, problem) for message in value]
    system = messages.pop(0)[1] if messages[0][0] == "system" else None
    roles = [role for role, _ in messages]
    if not roles or roles != [("user", "assistant")[i % 2] for i in range(len(roles))] or roles[-1] != "user":
        remedy = "user and assistant must take turns, from the user's first message to the user's last one"
        raise ValueError(f"{problem}: {remedy}, after at most one system message")
    return Conversation(system, tuple(text for _, text in messages))


def _role_and_text(message: Any, problem: str) -> tuple[str, str]:
    """Return role and text of a message. Its content may be a list of text parts."""
    role, content = (message.get(key) for key in ("role", "content")) if isinstance(message, dict) else (None, None)
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        texts = [text for text in parts if isinstance(text, str)]
        content = "".join(texts) if len(texts) == len(content) else None
    if not isinstance(role, str) or not isinstance(content, str) or not content.strip():
        raise ValueError(f"{problem}: each message needs a role and a content of text that is not empty")
    return role, content


def transcript(conversation: Conversation) -> str:
    """Return a conversation as text: the message itself if it is the only one, else each after its speaker's name."""
    if conversation.system is None and len(conversation.turns) == 1:
        return conversation.turns[0]
    system = [] if conversation.system is None else [f"System: {conversation.system}"]
    speakers = ((USER_TURN.strip(), "Assistant:")[i % 2] for i in range(len(conversation.turns)))
    turns = (f"{speaker} {turn}" for speaker, turn in zip(speakers, conversation.turns, strict=True))
    return "\n\n".join([*system, *turns])


def under_system(conversation: Conversation, system: str | None) -> Conversation:
    """Return a conversation with the sweep's system prompt before its own system message."""
    texts = [text for text in (system, conversation.system) if text is not None]
    return Conversation("\n\n".join(texts) if texts else None, conversation.turns)
