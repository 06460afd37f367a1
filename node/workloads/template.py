"""A model's chat template: messages in, the text that the model was trained to answer out.

Templates are Jinja, and come with a model: they run in Jinja's sandbox, without access to anything but messages.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from node.models import CachedModel, ModelError
from node.workloads import BadInput
from node.workloads.weights import config_of


class ChatTemplate:
    """The template of one model."""

    def __init__(self, source: str, tokens: Mapping[str, str]) -> None:
        sandbox = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        sandbox.globals.update(raise_exception=_refuse, strftime_now=_now)
        self._template = sandbox.from_string(source)
        self._tokens = tokens

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt, up to where the answer begins. Raises BadInput when the template refuses the messages."""
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._tokens)
        except (TemplateError, TypeError, ValueError) as error:
            raise BadInput(f"the model's chat template refuses these messages: {error}") from None


def template_of(model: CachedModel) -> ChatTemplate:
    """The chat template among a model's files. Raises ModelError when there is none."""
    config = config_of(model, "tokenizer_config.json")
    source: Any = config.get("chat_template")
    if isinstance(source, list):
        source = next((entry["template"] for entry in source if entry["name"] == "default"), None)
    file = model.directory / "chat_template.jinja"
    if file.is_file():
        source = file.read_text(encoding="utf-8")
    if not source:
        raise ModelError(f"{model.name} has no chat template: a chat model brings one in tokenizer_config.json")
    tokens = {key: config[key] for key in ("bos_token", "eos_token", "pad_token", "unk_token") if config.get(key)}
    names = {key: token["content"] if isinstance(token, dict) else token for key, token in tokens.items()}
    try:
        return ChatTemplate(source, names)
    except TemplateError as error:
        raise ModelError(f"the chat template of {model.name} cannot be read: {error}") from None


def _refuse(message: str) -> NoReturn:
    raise ValueError(message)


def _now(form: str) -> str:
    return datetime.now(UTC).strftime(form)
