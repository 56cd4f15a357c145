"""A chat engine of LlamaIndex, with a model in this process.

usage: python llama_index_chat.py [MODEL]        needs: mistralrs-onnx[cpu,llama-index]

MODEL: a package, a GGUF file, a folder of safetensors, the name of a repository of the hub, or demo (the default).
"""

import sys

from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer

from mistralrs_onnx import LLM
from mistralrs_onnx.llama_index import MistralRS

model = sys.argv[1] if len(sys.argv) > 1 else "demo"

with LLM(model) as plain:
    llm = MistralRS(plain, max_tokens=32, temperature=0)
    print(llm.complete("The capital of France is").text)

    for piece in llm.stream_chat([ChatMessage(role="user", content="Say hello.")]):
        print(piece.delta, end="", flush=True)
    print()

    # Tokens are counted as the model does, so that the conversation stays within its context.
    memory = ChatMemoryBuffer.from_defaults(token_limit=llm.metadata.context_window // 2, tokenizer_fn=plain.tokenize)
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
    print(engine.chat("My name is Ann.").response)
    print(engine.chat("What is my name?").response)
