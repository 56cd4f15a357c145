"""The benchmark of the sampler runs every setting; its times decide nothing."""

from __future__ import annotations

import numpy as np
from click.testing import CliRunner

from mistralrs_onnx.tools.benching.sampler_bench import SETTINGS, likely_logits, main, requests


def test_every_setting_has_a_row() -> None:
    result = CliRunner().invoke(main, ["--vocab", "2048", "--batch", "2", "--context", "64", "--repeat", "1"])
    assert result.exit_code == 0, result.output
    head, _, *rows = result.stdout.splitlines()
    assert head == "| setting | ms | of a step of 100 ms | with numpy alone |"
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(SETTINGS)


def test_rows_are_peaked_and_requests_have_outputs() -> None:
    logits = likely_logits(3, 5000)
    probabilities = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities /= probabilities.sum(-1, keepdims=True)
    assert (np.sort(probabilities, -1)[:, -300:].sum(-1) > 0.9).all()
    made = requests(3, 5000, 64, {"top_p": 0.9}, 300)
    assert [(request.num_prompt, request.num_output) for request in made] == [(32, 32)] * 3
    for request in made:
        assert request.mask is not None
        assert np.bitwise_count(request.mask.view(np.uint32)).sum() == 300
    assert requests(1, 5000, 64, {}, 5000)[0].mask is None
