"""From the body of a request to sampling parameters."""

from __future__ import annotations

from mistralrs_onnx.server.schemas import ChatRequest

MESSAGES = [{"role": "user", "content": "hi"}]


def test_what_a_request_leaves_unsaid_the_model_recommends() -> None:
    body = ChatRequest(messages=MESSAGES, temperature=0.5)
    params = body.sampling_params(7, {"temperature": 0.9, "top_p": 0.8})
    assert (params.max_tokens, params.temperature, params.top_p, params.top_k) == (7, 0.5, 0.8, 0)


def test_without_recommendations_defaults_are_those_of_the_api() -> None:
    params = ChatRequest(messages=MESSAGES).sampling_params(None, {})
    assert (params.max_tokens, params.temperature, params.top_p) == (None, 1.0, 1.0)
