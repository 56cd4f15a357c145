"""What grammars may cost."""

from __future__ import annotations

from dataclasses import dataclass

from llguidance import LLParserLimits

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class GrammarLimits:
    """The last five are llguidance's, of each step and lexer; they leave out some work, which the trial bounds."""

    compile_seconds: float = 5.0  # that a request waits
    trial_seconds: float = 2.0
    trial_bytes: int = 256 * MIB
    mask_seconds: float = 0.1  # of CPU for the first mask over a vocabulary of bytes
    num_workers: int = 2
    max_waiting: int = 64  # grammars being compiled or waiting for it
    cached_grammars: int = 128
    cached_bytes: int = 256 * MIB
    initial_lexer_fuel: int = 1_000_000
    step_lexer_fuel: int = 200_000
    step_max_items: int = 50_000
    max_lexer_states: int = 50_000
    max_grammar_size: int = 100_000

    def for_llguidance(self) -> LLParserLimits:
        return LLParserLimits(
            initial_lexer_fuel=self.initial_lexer_fuel,
            step_lexer_fuel=self.step_lexer_fuel,
            step_max_items=self.step_max_items,
            max_lexer_states=self.max_lexer_states,
            max_grammar_size=self.max_grammar_size,
            verbose_errors=False,
        )


DEFAULT_LIMITS = GrammarLimits()
