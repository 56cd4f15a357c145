"""What engines count, as metrics; names and meanings are those of vLLM where it has them."""

from __future__ import annotations

from mistralrs_onnx.runtime.stats import EngineStats

from .metric import counter, gauge, histogram


def _usage(stats: EngineStats) -> float | None:
    """As far as it cannot be taken back."""
    held = stats.running_kv_tokens + stats.kept_kv_tokens
    if not stats.kv_limit:
        return None
    return stats.kv_bytes * stats.running_kv_tokens / held / stats.kv_limit if held else 0.0


REQUESTS = (
    gauge(
        "num_requests_running",
        "requests",
        "Requests that have a slot.",
        lambda stats: stats.running,
        like="vllm:num_requests_running, llamacpp:requests_processing",
    ),
    gauge(
        "num_requests_waiting",
        "requests",
        "Requests that wait for a slot.",
        lambda stats: stats.waiting,
        like="vllm:num_requests_waiting, llamacpp:requests_deferred",
    ),
    counter(
        "request_success_total",
        "requests",
        "Requests that ended: stop, length, cancelled (the client left, or the server stopped) or error.",
        lambda stats: stats.finished,
        label="finished_reason",
        like="vllm:request_success_total",
    ),
    counter(
        "requests_failed_total",
        "requests",
        "Requests that ended with an error, by its code: grammar_violation, no_token_left, internal_error and others.",
        lambda stats: {"internal_error": 0, **stats.failed},
        label="code",
    ),
    counter(
        "requests_rejected_total",
        "requests",
        "Requests refused with 429 since the queue was full.",
        lambda stats: stats.rejected,
    ),
    counter(
        "num_preemptions_total",
        "requests",
        "Running requests that lost their memory to earlier ones and waited again.",
        lambda stats: stats.preemptions,
        like="vllm:num_preemptions_total",
    ),
)
LATENCIES = (
    histogram(
        "time_to_first_token_seconds",
        "seconds",
        "From a request's arrival at the engine to its first token.",
        lambda stats: stats.first_token,
        like="vllm:time_to_first_token_seconds",
    ),
    histogram(
        "inter_token_latency_seconds",
        "seconds",
        "Between two tokens of a request; a guess that was accepted comes with the token before it.",
        lambda stats: stats.next_token,
        like="vllm:inter_token_latency_seconds",
    ),
    histogram(
        "request_time_per_output_token_seconds",
        "seconds",
        "The mean time between tokens of each request that has two or more.",
        lambda stats: stats.mean_next_token,
        like="vllm:request_time_per_output_token_seconds",
    ),
    histogram(
        "e2e_request_latency_seconds",
        "seconds",
        "From a request's arrival at the engine to its end, however it ended.",
        lambda stats: stats.request_time,
        like="vllm:e2e_request_latency_seconds",
    ),
    histogram(
        "request_queue_time_seconds",
        "seconds",
        "From a request's arrival at the engine to its first slot.",
        lambda stats: stats.queue_time,
        like="vllm:request_queue_time_seconds",
    ),
    histogram(
        "request_prefill_time_seconds",
        "seconds",
        "From a request's first slot to its first token.",
        lambda stats: stats.prefill_time,
        like="vllm:request_prefill_time_seconds, llamacpp:prompt_seconds_total",
    ),
    histogram(
        "request_decode_time_seconds",
        "seconds",
        "From a request's first token to its last.",
        lambda stats: stats.decode_time,
        like="vllm:request_decode_time_seconds, llamacpp:tokens_predicted_seconds_total",
    ),
)
TOKENS = (
    counter(
        "prompt_tokens_total",
        "tokens",
        "Tokens of prompts that were read, those that were cached among them.",
        lambda stats: stats.prompt_tokens,
        like="vllm:prompt_tokens_total, llamacpp:prompt_tokens_total",
    ),
    counter(
        "generation_tokens_total",
        "tokens",
        "Tokens drawn.",
        lambda stats: stats.generation_tokens,
        like="vllm:generation_tokens_total, llamacpp:tokens_predicted_total",
    ),
    histogram(
        "request_prompt_tokens",
        "tokens",
        "Tokens of each request's prompt.",
        lambda stats: stats.request_prompt_tokens,
        like="vllm:request_prompt_tokens",
    ),
    histogram(
        "request_generation_tokens",
        "tokens",
        "Tokens drawn for each request.",
        lambda stats: stats.request_generation_tokens,
        like="vllm:request_generation_tokens",
    ),
    counter(
        "prefix_cache_queries_total",
        "tokens",
        "Tokens of requests that were looked up among cached prefixes.",
        lambda stats: stats.prefix_query_tokens,
        like="vllm:prefix_cache_queries_total",
    ),
    counter(
        "prefix_cache_hits_total",
        "tokens",
        "Tokens of requests that were found there, and not computed again.",
        lambda stats: stats.prefix_hit_tokens,
        like="vllm:prefix_cache_hits_total",
    ),
    counter(
        "spec_decode_num_drafts_total",
        "drafts",
        "Times that tokens were guessed and checked.",
        lambda stats: stats.drafts,
        like="vllm:spec_decode_num_drafts_total",
    ),
    counter(
        "spec_decode_num_draft_tokens_total",
        "tokens",
        "Tokens guessed by a drafter or forced by a grammar; 0 where there is no drafter.",
        lambda stats: stats.draft_tokens,
        like="vllm:spec_decode_num_draft_tokens_total",
    ),
    counter(
        "spec_decode_num_accepted_tokens_total",
        "tokens",
        "Tokens guessed that were drawn then.",
        lambda stats: stats.accepted_tokens,
        like="vllm:spec_decode_num_accepted_tokens_total",
    ),
)
ENGINE = (
    counter(
        "engine_steps_total", "steps", "Runs of the model.", lambda stats: stats.steps, like="llamacpp:n_decode_total"
    ),
    counter(
        "engine_seconds_total",
        "seconds",
        "Time of steps: in the graph, and other (scheduling, sampling, text). What is missing to the clock was idle.",
        lambda stats: {"graph": stats.run_seconds, "other": stats.other_seconds},
        label="part",
    ),
    histogram(
        "iteration_tokens",
        "tokens",
        "Tokens computed in each step: of prompts, drawn and guessed.",
        lambda stats: stats.step_tokens,
        like="vllm:iteration_tokens_total",
    ),
    gauge(
        "kv_cache_usage_perc",
        "ratio",
        "Share of --kv-mem that running requests hold, from 0 to 1; what is kept of finished ones makes room for them.",
        _usage,
        like="vllm:kv_cache_usage_perc",
    ),
    gauge(
        "kv_cache_bytes",
        "bytes",
        "Memory of keys and values, of running requests and of those that are kept.",
        lambda stats: stats.kv_bytes,
    ),
    gauge(
        "kv_cache_limit_bytes",
        "bytes",
        "The most memory that keys and values may take: --kv-mem, or what was chosen without it.",
        lambda stats: stats.kv_limit,
    ),
    gauge(
        "kv_cache_tokens",
        "tokens",
        "Tokens for which there is memory, in whole blocks: of running requests, and kept of finished ones.",
        lambda stats: {"running": stats.running_kv_tokens, "kept": stats.kept_kv_tokens},
        label="state",
    ),
    gauge(
        "kv_cache_slots",
        "slots",
        "Slots with a running request, with what is kept of a finished one, and free.",
        lambda stats: {"running": stats.running, "kept": stats.kept_slots, "free": stats.free_slots},
        label="state",
    ),
)
