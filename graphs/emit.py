"""A writer of ONNX graphs: nodes, scopes, constants, and weights by name. Knows operators, not blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import InlinePass
from onnxscript import OnnxFunction

from mistralrs_onnx.ops.embedding import DenseEmbedding
from mistralrs_onnx.ops.formats import Bytes, find_format
from mistralrs_onnx.ops.functions import CONTRIB_DOMAIN, DOMAIN, OPSET, definitions
from mistralrs_onnx.ops.half import half_definitions
from mistralrs_onnx.ops.linear import FLOAT_ACTIVATIONS, INT8_ACTIVATIONS, DenseLinear
from mistralrs_onnx.ops.packed import embedding_of, linear_of

from .weights import DENSE, Field, Matrix, Split, Stacked, WeightFile, Weights

IR_VERSION = 10  # with opset 21: the newest that all hosts accept

Attribute = int | float | str | Sequence[int] | ir.Graph | ir.Attr | ir.TensorProtocol


@dataclass(frozen=True, slots=True)
class Drawing:
    """How a graph is drawn: int8 or float activations, and functions kept or expanded to stock operators.

    `row_multiple`: where a graph itself decides how many rows kernels see, a multiple of this, unless an input says it.
    `half`: what is multiplied is float16, and what is summed and normed between is float32.
    """

    float_activations: bool = False
    expand: bool = False
    row_multiple: Literal[1, 2] = 1
    half: bool = False

    @property
    def accuracy_level(self) -> int:
        return FLOAT_ACTIVATIONS if self.float_activations else INT8_ACTIVATIONS


class Adapting(Protocol):
    """What is done to linears besides their weights."""

    def adapt(self, emit: Emit, linears: tuple[str, ...], x: ir.Value, y: ir.Value) -> ir.Value:
        """What becomes of `y`, which linears of these canonical names made of `x`."""


class Emit:
    """Draws one graph. Weights go to the shared file; small constants stay in the graph.

    `tokens`: which of the packed tokens the rows of activations are, int64 (rows,); None for all of them.
    `row_multiple`: of rows that experts see, int64 (1,); None for any number.
    """

    adapting: Adapting | None = None
    tokens: ir.Value | None = None

    def __init__(self, name: str, weights: Weights, file: WeightFile, drawing: Drawing) -> None:
        opsets = {"": OPSET, CONTRIB_DOMAIN: 1, DOMAIN: 1}
        self.graph = ir.Graph([], [], nodes=[], opset_imports=opsets, name=name)
        self.drawing = drawing
        self._nodes = self.graph  # or a branch of it
        self._weights = weights
        self._file = file
        self._functions: dict[ir.OperatorIdentifier, ir.Function] = {}
        self._scope: list[str] = []
        self._names: dict[str, int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self.row_multiple = None if drawing.row_multiple == 1 else self.ints(drawing.row_multiple)
        self.dtype: np.dtype[np.floating] = np.dtype(np.float16 if drawing.half else np.float32)  # that linears take

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        """Names of weights and nodes inside are relative to `name`."""
        self._scope.append(name)
        yield
        self._scope.pop()

    @contextmanager
    def of(self, tokens: ir.Value) -> Iterator[None]:
        """Activations inside are those of these tokens only."""
        outer, self.tokens = self.tokens, tokens
        yield
        self.tokens = outer

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str | None]) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self.graph.inputs.append(value)
        return value

    def overridable(self, name: str, default: NDArray[np.generic], shape: Sequence[int | str]) -> ir.Value:
        """An input that need not be fed. `shape`: of what may be fed."""
        value = self.input(name, ir.DataType.from_numpy(default.dtype), shape)
        value.const_value = ir.tensor(default, name=name)
        self.graph.register_initializer(value)
        return value

    def output(self, value: ir.Value, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> None:
        value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(dtype)
        self.graph.outputs.append(value)

    def op(self, kind: str, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute) -> ir.Value:
        return self.ops(kind, 1, *inputs, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, num_outputs: int, *inputs: ir.Value | None, domain: str = "", **attributes: Attribute
    ) -> Sequence[ir.Value]:
        name = self._unique(kind)
        outputs = [ir.Value(name=name if i == 0 else f"{name}.{i}") for i in range(num_outputs)]
        node = ir.node(kind, inputs, attributes=dict(attributes), domain=domain, outputs=outputs, name=name)
        self._nodes.append(node)
        return outputs

    def contrib(self, kind: str, *inputs: ir.Value | None, **attributes: Attribute) -> ir.Value:
        return self.op(kind, *inputs, domain=CONTRIB_DOMAIN, **attributes)

    def narrow(self, x: ir.Value) -> ir.Value:
        """float32 as linears take it."""
        return self.op("Cast", x, to=ir.DataType.FLOAT16) if self.drawing.half else x

    def wide(self, x: ir.Value) -> ir.Value:
        """What linears give as float32."""
        return self.op("Cast", x, to=ir.DataType.FLOAT) if self.drawing.half else x

    def when(self, condition: ir.Value, then: Callable[[], ir.Value], otherwise: ir.Value) -> ir.Value:
        """What `then` draws, run only where the condition holds, and else `otherwise`. Both are what linears give."""
        dtypes = [ir.DataType.from_numpy(self.dtype)]
        other = self._branch(lambda: [self.op("Identity", otherwise)], dtypes)
        return self.op("If", condition, then_branch=self._branch(lambda: [then()], dtypes), else_branch=other)

    def if_any(
        self, condition: ir.Value, then: Callable[[], Sequence[ir.Value]], otherwise: Sequence[NDArray[np.generic]]
    ) -> Sequence[ir.Value]:
        """What `then` draws, run only where the condition holds, and else constants of the same types."""
        dtypes = [ir.DataType.from_numpy(value.dtype) for value in otherwise]
        other = self._branch(lambda: [self.op("Constant", value=ir.tensor(value)) for value in otherwise], dtypes)
        return self.ops("If", len(dtypes), condition, then_branch=self._branch(then, dtypes), else_branch=other)

    def call(
        self, function: OnnxFunction, *inputs: ir.Value, num_outputs: int = 1, **attributes: float
    ) -> Sequence[ir.Value]:
        made = half_definitions(function) if self.drawing.half else definitions(function)
        self._functions |= {each.identifier(): each for each in made}
        if self._nodes is not self.graph:
            return self._spread(made[0], inputs, attributes)
        return self.ops(function.name, num_outputs, *inputs, domain=DOMAIN, **attributes)

    def const(self, constant: NDArray[np.generic] | np.generic) -> ir.Value:
        """A small constant, each value once in a graph."""
        value = np.asarray(constant)
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = self._initializer(f"const.{len(self._constants)}", ir.tensor(value))
        return self._constants[key]

    def ints(self, *values: int) -> ir.Value:
        return self.const(np.array(values, np.int64))

    def vector(self, name: str) -> ir.Value:
        """A float32 weight of one axis, such as `input_layernorm.weight`."""
        path = self.path(name)
        if path in self.graph.initializers:
            return self.graph.initializers[path]
        return self._initializer(path, ir.tensor(self._weights.vector(path)))

    def vector_or_none(self, name: str) -> ir.Value | None:
        return self.vector(name) if self.path(name) in self._weights else None

    def linear(self, x: ir.Value, *names: str) -> ir.Value:
        """x · Wᵀ + b for the matrices of these names, side by side; matrices of one format make one node.

        x and the result are of `dtype`.
        """
        matrices = [self._weights.matrix(self.path(f"{name}.weight")) for name in names]
        if len({matrix.format for matrix in matrices}) == 1:
            product = self._linear(x, self.path("+".join(names)), Stacked(tuple(matrices)))
        else:
            parts = [self._linear(x, self.path(name), matrix) for name, matrix in zip(names, matrices, strict=True)]
            product = self.op("Concat", *parts, axis=-1)
        bias = self._biases(names, matrices)
        y = product if bias is None else self.op("Add", product, bias)
        return y if self.adapting is None else self.adapting.adapt(self, tuple(map(self.path, names)), x, y)

    def shape(self, name: str) -> tuple[int, int]:
        """(N, K) of the matrix of this canonical name."""
        return self._weights.matrix(f"{name}.weight").shape

    def embed(self, ids: ir.Value, name: str) -> ir.Value:
        """The rows of a matrix, float32 (..., K)."""
        path = self.path(name)
        matrix = self._weights.matrix(f"{path}.weight")
        if matrix.format in DENSE:
            return self.call(DenseEmbedding, ids, *self._dense(path, matrix))[0]
        return self.call(embedding_of(find_format(matrix.format)), ids, *self._compact(path, matrix))[0]

    def path(self, name: str) -> str:
        return ".".join([*self._scope, name])

    def finish(self) -> ir.Model:
        model = ir.Model(
            self.graph, ir_version=IR_VERSION, producer_name=DOMAIN, functions=list(self._functions.values())
        )
        if self.drawing.expand:
            InlinePass()(model)
            del self.graph.opset_imports[DOMAIN]
        return model

    def _branch(self, draw: Callable[[], Sequence[ir.Value]], dtypes: Sequence[ir.DataType]) -> ir.Graph:
        branch = ir.Graph([], [], nodes=[], name=self._unique("branch"))
        with self._inside(branch):
            results = draw()
        for result, dtype in zip(results, dtypes, strict=True):
            result.type = ir.TensorType(dtype)
            branch.outputs.append(result)
        return branch

    def _spread(
        self, function: ir.Function, inputs: Sequence[ir.Value], attributes: Mapping[str, float]
    ) -> Sequence[ir.Value]:
        """The nodes of a function, those over constants outside of the branch: hosts free only there what they fold."""
        values = dict(zip(function.inputs, inputs, strict=True))
        constants = {value for value in inputs if value.const_value is not None}
        for node in function:
            given = [None if value is None else values[value] for value in node.inputs]
            folds = constants.issuperset(value for value in given if value is not None)
            own = {name: attributes.get(a.ref_attr_name or "", a) for name, a in node.attributes.items()}
            with self._inside(self.graph if folds else self._nodes):
                made = self.ops(node.op_type, len(node.outputs), *given, domain=node.domain, **own)
            values |= zip(node.outputs, made, strict=True)
            constants.update(made if folds else ())
        return [values[output] for output in function.outputs]

    @contextmanager
    def _inside(self, graph: ir.Graph) -> Iterator[None]:
        outer, self._nodes = self._nodes, graph
        yield
        self._nodes = outer

    def _linear(self, x: ir.Value, path: str, matrix: Matrix) -> ir.Value:
        if matrix.format in DENSE:
            return self.call(DenseLinear, x, *self._dense(path, matrix))[0]
        rows, columns = matrix.shape
        shape = {"K": columns, "N": rows, "accuracy_level": self.drawing.accuracy_level}
        meaning = find_format(matrix.format)
        functions = linear_of(meaning)
        if not self.drawing.expand:
            return self.call(functions.compact, x, *self._compact(path, matrix), **shape, **functions.attributes)[0]
        bits = {"bits": meaning.bits, "block_size": meaning.nbits_block}
        return self.call(functions.widened, x, *self._widened(path, matrix), **shape, **bits)[0]

    def _biases(self, names: Sequence[str], matrices: Sequence[Matrix]) -> ir.Value | None:
        """Biases side by side, zeros for a matrix without one; None when no matrix has one."""
        paths = [self.path(f"{name}.bias") for name in names]
        if not any(path in self._weights for path in paths):
            return None
        parts = [
            self._weights.vector(path) if path in self._weights else np.zeros(matrix.shape[0], np.float32)
            for path, matrix in zip(paths, matrices, strict=True)
        ]
        bias = self._initializer(self.path(f"{'+'.join(names)}.bias"), ir.tensor(np.concatenate(parts)))
        with self._inside(self.graph):
            return self.narrow(bias)

    def _dense(self, path: str, matrix: Matrix) -> list[ir.Value]:
        dtype = DENSE[matrix.format]
        return self._placed(path, matrix, (Field("w", dtype, (matrix.shape[1],)),), lambda raw: {"w": raw.view(dtype)})

    def _compact(self, path: str, matrix: Matrix) -> list[ir.Value]:
        """The planes of the format, as its functions take them."""
        meaning = find_format(matrix.format)
        blocks = matrix.shape[1] // meaning.block_size
        fields = tuple(
            Field(plane.name, np.dtype(plane.dtype), (blocks, plane.per_block) if plane.per_block > 1 else (blocks,))
            for plane in meaning.planes
        )
        return self._placed(path, matrix, fields, meaning.split)

    def _widened(self, path: str, matrix: Matrix) -> list[ir.Value]:
        """What the planes fold to, for hosts that fold nothing."""
        meaning = find_format(matrix.format)

        def split(raw: Bytes) -> Mapping[str, NDArray[np.generic]]:
            return meaning.nbits(meaning.split(raw)).operands()

        fields = tuple(Field(name, plane.dtype, plane.shape[1:]) for name, plane in split(matrix.rows(0, 1)).items())
        return self._placed(path, matrix, fields, split)

    def _placed(self, path: str, matrix: Matrix, fields: tuple[Field, ...], split: Split) -> list[ir.Value]:
        return [self._initializer(t.name, t) for t in self._file.place(path, matrix, fields, split)]

    def _initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        if name not in self.graph.initializers:
            value = ir.Value(
                name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            self.graph.register_initializer(value)
        return self.graph.initializers[name]

    def _unique(self, kind: str) -> str:
        path = self.path(kind)
        count = self._names.get(path, 0)
        self._names[path] = count + 1
        return f"{path}_{count}" if count else path
