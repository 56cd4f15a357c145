"""A conversation with a model: what was said so far, how answers are drawn, and who gives them; knows no keyboard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.outputs import outputs
from mistralrs_onnx.runtime.sampling import SamplingParams

from .answering import Answer, Model, recommended, select_adapter
from .screen import Screen

if TYPE_CHECKING:
    from mistralrs_onnx.runtime.grammar.compiler import Grammar

Turn = dict[str, str]  # role and content

CLEAR = "/clear forgets it and keeps the system text"


class Conversation:
    """Answers are written to `screen` as they come. `params`: None draws as the model recommends."""

    def __init__(
        self,
        model: Model,
        screen: Screen,
        system: str = "",
        params: SamplingParams | None = None,
        adapters: Sequence[str] = (),
        grammar: Grammar | None = None,
    ) -> None:
        """Raises RequestError for adapters that cannot answer."""
        self.model = model
        self.screen = screen
        self.system = system
        self.turns: list[Turn] = []
        self.params = params or SamplingParams(**recommended(model))
        self.defaults = self.params
        self.answer: Answer | None = None  # the last one of this conversation
        self.num_answers = 0  # of all, since the start
        self.num_tokens = 0
        self._grammar = grammar
        self.choose(adapters)

    @property
    def messages(self) -> list[Turn]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return system + self.turns

    @property
    def num_context(self) -> int | None:
        """Tokens that the conversation took when it was last answered; None before that."""
        if self.answer is None:
            return None
        usage = self.answer.last.usage
        return usage.prompt_tokens + usage.output_tokens

    @property
    def adapter_name(self) -> str:
        return "the model alone" if self._adapter is None else self._adapter.name

    def choose(self, words: Sequence[str]) -> None:
        """Adapters by name. Raises RequestError, and then nothing has changed."""
        self._adapter = select_adapter(self.model, words)
        self.adapters = tuple(words)

    def begin(self, system: str | None = None, turns: Sequence[Turn] = ()) -> None:
        """Anew, or with what was said elsewhere. `system`: None leaves it as it is."""
        self.system = self.system if system is None else system
        self.turns = [dict(turn) for turn in turns]
        self.answer = None

    def ask(self, question: str) -> None:
        """One turn; a question that got no answer is forgotten, one whose answer was stopped is not."""
        self.turns.append({"role": "user", "content": question})
        if not self._answer(self.params):
            self.turns.pop()
            self.screen.note("Your question is not kept.")

    def regenerate(self) -> None:
        """The last answer once more, drawn with another seed. Raises RequestError when there is none."""
        if not self.turns:
            raise RequestError("there is no answer yet that could be given anew")
        if self.params.is_greedy:
            self.screen.note("The temperature is 0: the answer will be the same. /temperature 0.7 makes it another.")
        seed = self.params.seed
        params = replace(self.params, seed=None if seed is None else (seed + self.num_answers) % 2**63)
        former = self.turns.pop()
        if not self._answer(params):
            self.turns.append(former)
            self.screen.note("The former answer is kept.")

    def _answer(self, params: SamplingParams) -> bool:
        """Whether there is an answer, which is a turn then."""
        answer, note = Answer(), ""
        try:
            prompt_ids = self.model.encode_chat(self.messages)
            source = outputs(self.model.engine, prompt_ids, params, self._adapter, self._grammar)
            answer.take(source, self.screen.answer)
        except RequestError as error:
            self.screen.write("\n" if answer.text else "")
            self.screen.error(self._advice(error))
            return False
        except KeyboardInterrupt:
            note = ", stopped"
        self._keep(answer, note)
        return bool(answer.text) or not note

    def _keep(self, answer: Answer, note: str) -> None:
        """Says how fast it came and how it ended. What was stopped before it began is no turn."""
        self.screen.write("" if answer.text.endswith("\n") else "\n")
        self.screen.note(f"[{answer.speed}{note}{self._ending(answer)}]")
        if answer.text or not note:
            self.turns.append({"role": "assistant", "content": answer.text})
            self.answer = answer
        self.num_answers += 1
        self.num_tokens += answer.num_tokens

    def _ending(self, answer: Answer) -> str:
        if answer.last.finish_reason != "length":
            return ""
        if answer.num_tokens == self.params.max_tokens:
            return f", cut off at {self.params.max_tokens} tokens (/maxtokens)"
        return f", cut off: the context is full]\n[{CLEAR}"

    def _advice(self, error: RequestError) -> str:
        length = self.model.context_length
        if error.code != "context_length_exceeded":
            return f"{error}. /clear begins a new conversation."
        if error.param == "max_tokens":
            limit = self.params.max_tokens
            return f"{limit} more tokens do not fit into the context of {length}. /maxtokens sets another limit."
        return f"the conversation no longer fits into the context of {length} tokens. {CLEAR}."
