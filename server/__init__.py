"""HTTP in, HTTP out: an OpenAI-compatible API over one engine, on Sanic."""
