"""How torch sees the operators: fake kernels, autograd, compile, export, autocast, devices."""

import contextlib

import pytest
import torch

from op_cases import (
    OPERATORS,
    SHAPES,
    deformable_inputs,
    key_aware_inputs,
    largest_errors,
    needs_extension,
    with_gradients,
)
from skips import version_lacks
from sparse_encoders.ops import deformable_attention, key_aware_attention

opcheck = getattr(torch.library, "opcheck", None)
if opcheck is None:
    with contextlib.suppress(ImportError):  # before it was public; needs a package of torch's tests
        from torch.testing._internal.optests import opcheck
needs_opcheck = pytest.mark.skipif(opcheck is None, reason=version_lacks("torch.library.opcheck"))
pytestmark = pytest.mark.skipif(bool(needs_extension), reason=needs_extension or "-")
FLAT = [side for shape in SHAPES for side in shape]


def operator_arguments(name, requires_grad, dtype=torch.float32, **settings):
    inputs = OPERATORS[name][1](dtype=dtype, **settings)
    return tuple(
        x.detach().requires_grad_(requires_grad) if torch.is_tensor(x) else FLAT for x in inputs
    )


@needs_opcheck
@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("queries", [0, 5])
def test_opcheck_forward(name, requires_grad, queries):
    arguments = operator_arguments(name, requires_grad, queries=queries)
    operator = getattr(torch.ops.sparse_encoders, f"{name}_attention").default
    opcheck(operator, arguments)


@needs_opcheck
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck_backward(name):
    arguments = operator_arguments(name, False)
    operator = getattr(torch.ops.sparse_encoders, f"{name}_attention_backward").default
    opcheck(operator, (torch.randn(2, 11, 16), *arguments))


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(name, dynamic):
    operator, make = OPERATORS[name]
    inputs = make(dtype=torch.float32)
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    actual = with_gradients(compiled, inputs, "auto")
    expected = with_gradients(operator, inputs, "fused")
    assert max(largest_errors(actual, expected)) == 0.0


@pytest.mark.parametrize("name", OPERATORS)
def test_exports(name):
    operator, make = OPERATORS[name]
    inputs = make(dtype=torch.float32)
    tensors = tuple(x for x in inputs if torch.is_tensor(x))
    at = next(i for i, x in enumerate(inputs) if not torch.is_tensor(x))

    class Model(torch.nn.Module):
        def forward(self, *tensors):
            return operator(*tensors[:at], SHAPES, *tensors[at:])

    program = torch.export.export(Model(), tensors)
    targets = [str(node.target) for node in program.graph.nodes]
    assert f"sparse_encoders.{name}_attention.default" in targets
    exported = program.module() if hasattr(program, "module") else program
    assert torch.equal(exported(*tensors), operator(*inputs))


def test_autocast_leaves_locations_alone():
    value, shapes, *rest = deformable_inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = deformable_attention(value.bfloat16(), shapes, *rest, backend="fused")
    assert actual.dtype == torch.bfloat16
    expected = deformable_attention(value, shapes, *rest)
    assert largest_errors([actual], [expected])[0] < 1e-2


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_autocast_joins_dtypes_of_query_key_and_value(backend):
    query, key, value, shapes, locations = key_aware_inputs(dtype=torch.float32)
    mixed = (query.bfloat16(), key, value, shapes, locations)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = with_gradients(key_aware_attention, mixed, backend)
    assert [x.dtype for x in actual[:3]] == [torch.float32, torch.bfloat16, torch.float32]
    expected = with_gradients(key_aware_attention, (query, *mixed[1:]), backend)
    assert max(largest_errors(actual, expected)) < 2e-2
    with pytest.raises(TypeError, match="query, key and value must have one dtype"):
        key_aware_attention(*mixed, backend=backend)


def test_second_derivatives_are_refused():
    value, shapes, *rest = deformable_inputs()
    value.requires_grad_()
    output = deformable_attention(value, shapes, *rest, backend="fused")
    (grad,) = torch.autograd.grad(output.square().sum(), value, create_graph=True)
    with pytest.raises(NotImplementedError, match="cannot be differentiated"):
        torch.autograd.grad(grad.sum(), value)


# ---- bad input, straight to the dispatcher: the C++ checks ----


def broken(name, index, change):
    arguments = list(operator_arguments(name, False))
    arguments[index] = change(arguments[index])
    return arguments


BAD = [
    ("deformable", 0, lambda x: x[0], "value must be .B, N, M, D., got"),
    ("deformable", 0, lambda x: x.long(), "value must be a floating-point tensor"),
    ("deformable", 0, lambda x: x.half(), "value must be float32, float64 or bfloat16 on the CPU"),
    ("deformable", 0, lambda x: x[:, :-1], "hold 90 tokens, value holds 89"),
    ("deformable", 0, lambda x: x[..., :0], "at least one head and one channel"),
    ("deformable", 1, lambda x: [0, 9, *x[2:]], "every level in shapes must be at least 1 x 1"),
    ("deformable", 1, lambda x: [-7, -9, *x[2:]], "every level in shapes must be at least 1 x 1"),
    ("deformable", 1, lambda x: [2**32, 2**32, *x[2:]], "fewer than 2.31 tokens"),
    ("deformable", 1, lambda x: x[:-1], "shapes must be h0, w0, h1, w1"),
    ("deformable", 1, lambda x: [], "shapes must be h0, w0, h1, w1"),
    ("deformable", 2, lambda x: x[..., :1], "reference_points must be .B, Q, L, 2 or 4."),
    ("deformable", 2, lambda x: x[:, :, :2], "reference_points must be .B, Q, L, 2 or 4."),
    ("deformable", 3, lambda x: x[..., 0], "offsets must be .B, Q, M, L, P, 2."),
    ("deformable", 3, lambda x: x[:1], "offsets must be .B, Q, M, L, P, 2. = "),
    ("deformable", 3, lambda x: x[:, :, :, :, :0], "offsets must have at least one point"),
    ("deformable", 4, lambda x: x[:, 1:], "logits must be .B, Q, M, L, P. = "),
    ("deformable", 4, lambda x: x.int(), "logits must be a floating-point tensor"),
    ("deformable", 4, lambda x: x.to("meta"), "logits must be on value's device cpu, got meta"),
    ("key_aware", 0, lambda x: x[:, 1:], "query must be .B, Q, M, D. = "),
    ("key_aware", 0, lambda x: x.double(), "query, key and value must have one dtype"),
    ("key_aware", 1, lambda x: x[:, 1:], "key must be .B, N, M, D. = "),
    ("key_aware", 2, lambda x: x[:, 1:], "hold 90 tokens, value holds 89"),
    ("key_aware", 3, lambda x: [7, 0, *x[2:]], "every level in shapes must be at least 1 x 1"),
    ("key_aware", 4, lambda x: x[..., :1], "locations must be .B, Q, M, L, P, 2. = "),
    ("key_aware", 4, lambda x: x[:, :, :, :, :0], "locations must have at least one point"),
    ("key_aware", 4, lambda x: x.half(), "locations must be float32, float64 or bfloat16"),
]


def reject(operator, arguments, text):
    with pytest.raises((ValueError, TypeError), match=text):
        operator(*arguments)


@pytest.mark.parametrize(("name", "index", "change", "text"), BAD)
def test_bad_arguments_are_refused(name, index, change, text):
    arguments = broken(name, index, change)
    if any(torch.is_tensor(x) and x.is_meta for x in arguments):
        # one fake tensor sends a call to the fake kernel: go to the CPU's own
        reject(lambda *a: operator_on_cpu(name, *a), arguments, text)
        return
    reject(getattr(torch.ops.sparse_encoders, f"{name}_attention"), arguments, text)
    backward = getattr(torch.ops.sparse_encoders, f"{name}_attention_backward")
    reject(backward, (torch.randn(2, 11, 16), *arguments), text)


def operator_on_cpu(name, *arguments):
    operator = getattr(torch.ops.sparse_encoders, f"{name}_attention").default
    return operator._op_dk(torch._C.DispatchKey.CPU, *arguments)


@pytest.mark.parametrize("name", OPERATORS)
def test_a_wrong_gradient_is_refused(name):
    backward = getattr(torch.ops.sparse_encoders, f"{name}_attention_backward").default
    reject(backward, (torch.randn(2, 11, 15), *operator_arguments(name, False)), "grad must be")
