"""ONNX models of one operator, several copies of it side by side that have nothing in common.

Copies share no input and no weight, so that nothing can be computed once for two of them. Weights lie in one file of random
numbers, which all models of a folder share: the weight of copy i begins 4 KiB behind that of copy i - 1. To the runtime these are
different constants, each with its own memory on the device, and a case of a gigabyte costs no more disk than one weight.
"""
import math
import pathlib

OPSET = 23
# TensorProto.FLOAT16
HALF = 10
POOL = "weights.bin"
# between the beginnings of two weights
STEP = 4096
# floats as `bespoke bench` fills inputs
RANGE = 0.35
# random numbers before they repeat; odd, so that rows of a matrix are not the same ones again
PERIOD = (1 << 21) + 7


def pool(folder, cases):
    """The file of random numbers, large enough for every weight of the cases."""
    import numpy as np

    largest = max((o.bytes for c in cases for o in c.operands if o.kind == "weight"), default=0)
    offsets = max((STEP * c.copies * len(c.operands) for c in cases), default=0)
    count = math.ceil((largest + offsets) / 2)
    random = ((np.random.default_rng(0).random(PERIOD, np.float32) - 0.5) * RANGE).astype(np.float16)
    with open(folder / POOL, "wb") as file:
        while count > 0:
            file.write(random[:count].tobytes())
            count -= PERIOD


class Model:
    """A model under construction; `element` is the type of its floats, of `onnx.TensorProto`."""

    def __init__(self, folder, element=HALF):
        import numpy as np
        import onnx

        self.folder, self.np, self.onnx, self.element = pathlib.Path(folder), np, onnx, element
        self.inputs, self.outputs, self.constants, self.nodes, self.weights = [], [], [], [], {}
        self.random = np.random.default_rng(1)
        # what a copy's nodes begin the names of their results and constants with
        self.prefix = ""

    def input(self, name, dims, element=None):
        """An input; names among its dims are symbols."""
        self.inputs.append(self.onnx.helper.make_tensor_value_info(name, element or self.element, list(dims)))
        return name

    def output(self, name):
        self.outputs.append(self.onnx.helper.make_tensor_value_info(name, self.element, None))

    def weight(self, name, dims):
        """Random numbers of the pool that no other weight of the model begins with."""
        proto, offset = self.onnx.TensorProto, STEP * len(self.weights)
        self.weights[name] = offset, dims
        tensor = proto(name=name, data_type=proto.FLOAT16, dims=dims, data_location=proto.EXTERNAL)
        for key, value in (("location", POOL), ("offset", offset), ("length", math.prod(dims) * 2)):
            tensor.external_data.add(key=key, value=str(value))
        self.constants.append(tensor)
        return name

    def constant(self, name, array):
        self.constants.append(self.onnx.numpy_helper.from_array(self.np.asarray(array), name))
        return name

    def half(self, name, number):
        return self.constant(name, self.np.float16(number))

    def ints(self, name, numbers):
        return self.constant(name, self.np.asarray(numbers, self.np.int64))

    def node(self, kind, inputs, result, **attributes):
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [result], **attributes))
        return result

    def operand(self, operand, name):
        if operand.kind == "input":
            return self.input(name, operand.dims)
        if operand.kind == "weight":
            return self.weight(name, operand.dims)
        return self.constant(name, self.random.integers(0, operand.below, operand.dims, self.np.int64))

    def save(self, name):
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        file = self.folder / f"{name}.onnx"
        self.onnx.save(model, file)
        return file


def write(folder, name, case, copies):
    """The model of so many copies of a case, as `name`.onnx. Returns the file, and the weights: name -> (offset, dims)."""
    model = Model(folder)
    for i in range(copies):
        names = [model.operand(o, f"{o.name}{i}") for o in case.operands]
        model.prefix = f"c{i}_"
        for result in case.nodes(model, *names):
            model.output(result)
    return model.save(name), model.weights
