"""Several specs of one type as one model, with an input for each of their operands and an output for each spec.

Specs have nothing in common: neither operands nor symbols. One process of bespoke then computes all of them, and its kernels
compile at the same time.
"""
import model


class Together(model.Model):
    """The model under construction."""

    def __init__(self, folder, kind):
        super().__init__(folder, kind.onnx)
        self.files = {}

    def proto(self, name, element, dims, data):
        return self.onnx.TensorProto(name=name, data_type=element, dims=dims, raw_data=data)

    def number(self, name, kind, number):
        """A constant of the type."""
        self.constants.append(self.proto(name, kind.onnx, [], kind.encode(self.np, self.np.float32(number).reshape(1))))
        return name

    def place(self, spec, operand, array):
        """An operand of a spec with its numbers. Returns its name."""
        name = f"{self.prefix}{operand.name}"
        if operand.kind == "mask":
            element, data = self.onnx.TensorProto.BOOL, array.tobytes()
        else:
            element, data = spec.type.onnx, spec.type.encode(self.np, array)
        proto = self.proto(name, element, array.shape, data)
        if operand.kind == "weight":
            self.constants.append(proto)
        else:
            self.input(name, [f"{self.prefix}{d}" if isinstance(d, str) else d for d in operand.dims], element)
            self.files[name] = self.folder / f"{name}.pb"
            self.files[name].write_bytes(proto.SerializeToString())
        return name


def write(folder, specs, arrays):
    """Writes the model and a file for each input to an empty folder. Returns the model's file, and name -> file of the inputs."""
    together = Together(folder, specs[0].type)
    for i, (spec, given) in enumerate(zip(specs, arrays)):
        together.prefix = f"s{i}_"
        names = [together.place(spec, operand, array) for operand, array in zip(spec.operands, given)]
        together.output(spec.nodes(together, *names))
    return together.save("model"), together.files


def read(np, onnx, folder, specs):
    """The results that `bespoke run --output` wrote, in the specs' order, as float32."""
    found = []
    for i, spec in enumerate(specs):
        proto = onnx.TensorProto.FromString((folder / f"output_{i}.pb").read_bytes())
        if proto.data_type != spec.type.onnx or not proto.raw_data:
            raise ValueError(f"{spec.text}: the result has type {proto.data_type} of TensorProto and {len(proto.raw_data)} bytes")
        found.append(spec.type.decode(np, proto.raw_data, tuple(proto.dims)))
    return found
