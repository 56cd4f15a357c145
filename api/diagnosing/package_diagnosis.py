"""Judges a package that was tried on this machine: each check says ok, warn or fail, and what to do about it."""

from __future__ import annotations

from mistralrs_onnx.compiler.estimate import size_text

from .diagnosis import SINGLE, Check, count
from .package_trial import Trial


def diagnose_package(trial: Trial) -> list[Check]:
    """Of a package: that it is whole, that it fits, what it computes here, how much context there is room for."""
    if trial.opening:
        return [Check("package", "fail", trial.opening)]
    whole = Check("package", "ok", f"{trial.name}, {size_text(trial.size)}, all sha256 sums are right")
    fits = _check_fits(trial)
    if fits.status == "fail":
        return [whole, fits]
    if trial.loading:
        return [whole, fits, Check("loading", "fail", trial.loading)]
    return [whole, fits, Check("loading", "ok", f"in {trial.seconds:.1f} s"), _check_same(trial), _check_room(trial)]


def _check_fits(trial: Trial) -> Check:
    text = f"about {size_text(trial.needed)} without keys and values, {size_text(trial.available)} are available"
    if trial.needed >= trial.available:
        return Check("fits", "fail", text, "end other programs, or compile it in fewer bits (see tune)")
    return Check("fits", "ok", text)


def _check_same(trial: Trial) -> Check:
    if trial.is_invariant is None:
        return Check("same bits", "ok", "not probed: it is an X-LoRA, or its context is too short")
    if trial.is_invariant:
        return Check("same bits", "ok", "a request gets the same logits alone and in batches")
    expected = "" if trial.promised == "yes" else f" (its manifest says so: {trial.promised})"
    return Check("same bits", "warn", f"batches change the last bits of its logits{expected}", SINGLE)


def _check_room(trial: Trial) -> Check:
    tokens, whole = trial.room // trial.token_bytes, trial.context_length
    text = f"{size_text(trial.room)} left hold {tokens:,} tokens"
    if tokens < 2 * whole:
        remedy = "--kv-dtype float16 halves what a token takes, --max-model-len N allows no longer requests"
        return Check("context", "warn", f"{text}; one whole context of {whole:,} wants twice as much free", remedy)
    requests = count(tokens // 2 // whole, "request")
    return Check("context", "ok", f"{text}; half of it, which a server takes, {requests} of all {whole:,}")
