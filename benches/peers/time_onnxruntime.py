"""Times ONNX Runtime's CUDA provider on the exported models.

    python3 benches/peers/time_onnxruntime.py bert unet --work target/full

See peer.py for what it prints. Two modes: `cuda` is one session for all shapes, as the model's dims are symbolic. `cuda-graph`
is a session a shape, with every dim fixed and the run captured as one CUDA graph: with symbolic dims the provider refuses to
capture, as shapes are computed on the processor.
"""
import time

import peer

MODES = {"cuda": "one session, symbolic dims", "cuda-graph": "a session a shape, dims fixed, one CUDA graph"}
TYPES = {"tensor(float16)": "float16", "tensor(float)": "float32", "tensor(int64)": "int64", "tensor(int32)": "int32",
         "tensor(bool)": "bool"}


class OnnxRuntime(peer.Peer):
    __doc__ = __doc__
    name = "onnxruntime"
    modes = MODES

    def __init__(self, args):
        super().__init__(args)
        try:
            import numpy
            import onnxruntime
        except ImportError as error:
            raise peer.Missing(str(error)) from error
        self.ort, self.numpy, self.where = onnxruntime, numpy, args.device
        if args.device == "cuda":
            if hasattr(onnxruntime, "preload_dlls"):
                onnxruntime.preload_dlls()
            if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
                raise peer.Missing(f"onnxruntime {onnxruntime.__version__} here has no CUDA provider; that is onnxruntime-gpu")
        self.card = peer.Card()
        self.session = None

    def begin(self, model):
        self.file(model)

    def load(self, model, graph, fixed):
        options = self.ort.SessionOptions()
        options.log_severity_level = 3
        for name, extent in fixed.items():
            options.add_free_dimension_override_by_name(name, extent)
        providers = ["CPUExecutionProvider"]
        if self.where == "cuda":
            settings = {"enable_cuda_graph": "1" if graph else "0", "use_tf32": "1", "prefer_nhwc": "1"}
            providers = [("CUDAExecutionProvider", settings)]
        return self.ort.InferenceSession(str(self.file(model)), options, providers=providers)

    def open(self, model, mode):
        self.session, self.bind_s = self.load(model, False, {}), 0

    def tensors(self, session, dims):
        """Inputs as `bespoke bench` has them, on the device."""
        numpy = self.numpy
        chance = numpy.random.default_rng(1)
        for port in session.get_inputs():
            dtype, shape = numpy.dtype(TYPES[port.type]), dims[port.name]
            floats = numpy.issubdtype(dtype, numpy.floating)
            content = (chance.random(shape, dtype=numpy.float32) - 0.5) * 0.35 if floats else numpy.ones(shape)
            yield port.name, self.ort.OrtValue.ortvalue_from_numpy(content.astype(dtype), self.where, 0)

    def bind(self, model, mode, dims):
        session = self.session
        if mode == "cuda-graph":
            symbols = {}
            for port in session.get_inputs():
                symbols |= {d: n for d, n in zip(port.shape, dims[port.name]) if isinstance(d, str)}
            start = time.perf_counter()
            session = self.load(model, True, symbols)
            self.bind_s = time.perf_counter() - start
        binding = session.io_binding()
        held = []
        for name, value in self.tensors(session, dims):
            binding.bind_ortvalue_input(name, value)
            held.append(value)
        for port in session.get_outputs():
            if mode != "cuda-graph":
                binding.bind_output(port.name, self.where)
                continue
            # a graph keeps its addresses, so that they must be there before it is captured
            if not all(isinstance(d, int) for d in port.shape):
                raise peer.Missing(f"{port.name} has extents that are known only after a run: {port.shape}")
            dtype = self.numpy.dtype(TYPES[port.type]).type
            value = self.ort.OrtValue.ortvalue_from_shape_and_type(port.shape, dtype, self.where, 0)
            binding.bind_ortvalue_output(port.name, value)
            held.append(value)

        def run(held=held):
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return run

    def memory(self):
        return self.card.more()

    def close(self, model, mode):
        self.session = None


if __name__ == "__main__":
    peer.main(OnnxRuntime)
