"""Constrained decoding: from what a request asks for to masks over the vocabulary; knows neither engine nor HTTP."""
