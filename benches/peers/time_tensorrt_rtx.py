"""Times TensorRT for RTX on the exported models.

    python3 benches/peers/time_tensorrt_rtx.py bert unet --work target/full

See peer.py for what it prints. The engine is built once a model, for a profile from the least to the largest shape that is
measured; kernels are specialised eagerly, so that no timed run is on a fallback, and runs are captured as whole graphs. Two
modes: `cold` begins with an empty runtime cache, `warm` with the one that `cold` has left. PyTorch lends device memory and a
stream.
"""
import peer
import workloads

# the compute capabilities that its support matrix names
SUPPORTED = ["7.5", "8.6", "8.9", "12.0", "12.1"]


class TensorRtRtx(peer.Peer):
    __doc__ = __doc__
    name = "tensorrt-rtx"
    modes = {"cold": "runtime cache empty at first", "warm": "runtime cache full"}

    def __init__(self, args):
        super().__init__(args)
        try:
            import tensorrt_rtx
        except ImportError as error:
            raise peer.Missing(str(error)) from error
        try:
            import torch
        except ImportError as error:
            raise peer.Missing(f"{error}, which lends device memory") from error
        if args.device != "cuda" or not torch.cuda.is_available():
            raise peer.Missing("there is no CUDA device")
        here = ".".join(map(str, torch.cuda.get_device_capability()))
        if here not in SUPPORTED:
            raise peer.Missing(f"it does not run on compute capability {here}, only on {', '.join(SUPPORTED)}")
        self.trt, self.torch = tensorrt_rtx, torch
        self.logger = tensorrt_rtx.Logger(tensorrt_rtx.Logger.ERROR)
        self.runtime = tensorrt_rtx.Runtime(self.logger)
        self.stream = torch.cuda.Stream()
        self.card = peer.Card()
        self.plans, self.caches = {}, {}

    def build(self, model):
        """The engine of a model, for all shapes that are measured."""
        trt, args = self.trt, self.args
        builder = trt.Builder(self.logger)
        network = builder.create_network()
        parser = trt.OnnxParser(network, self.logger)
        if not parser.parse_from_file(str(self.file(model))):
            raise RuntimeError("; ".join(parser.get_error(i).desc() for i in range(parser.num_errors)))
        traced = workloads.read_trace(args.shape_trace) if args.shape_trace else None
        shapes = [workloads.opt(model, args.size), *(args.shapes or traced or workloads.points(model, args.size))]
        config, profile = builder.create_builder_config(), builder.create_optimization_profile()
        for i in range(network.num_inputs):
            port = network.get_input(i)
            if -1 in port.shape:
                extents = list(zip(*(s[port.name] for s in shapes), strict=True))
                profile.set_shape(port.name, [min(e) for e in extents], shapes[0][port.name], [max(e) for e in extents])
        config.add_optimization_profile(profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise RuntimeError("the engine cannot be built")
        return plan

    def begin(self, model):
        self.file(model)
        self.plans[model] = self.build(model)

    def open(self, model, mode):
        trt = self.trt
        self.engine = self.runtime.deserialize_cuda_engine(self.plans[model])
        config = self.engine.create_runtime_config()
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        # the configuration does not keep the cache alive
        self.config, self.cache = config, config.create_runtime_cache()
        if mode == "warm":
            if model not in self.caches:
                raise peer.Missing("`warm` needs what `cold` leaves: name both modes, `cold` first")
            self.cache.deserialize(self.caches[model])
        config.set_runtime_cache(self.cache)
        self.context = self.engine.create_execution_context(config)
        if self.context is None:
            raise RuntimeError("no execution context")

    def bind(self, model, mode, dims):
        trt, torch, context, engine = self.trt, self.torch, self.context, self.engine
        types = {trt.float16: torch.float16, trt.float32: torch.float32, trt.int64: torch.int64, trt.int32: torch.int32,
                 trt.bool: torch.bool}
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        tensors = {}
        for name in inputs:
            dtype = types[engine.get_tensor_dtype(name)]
            content = torch.rand(dims[name], device="cuda") * 0.35 - 0.175 if dtype.is_floating_point else \
                torch.ones(dims[name], device="cuda")
            tensors[name] = content.to(dtype)
        for name in inputs:
            context.set_input_shape(name, dims[name])
        for name in names:
            if name not in tensors:
                shape, dtype = tuple(context.get_tensor_shape(name)), types[engine.get_tensor_dtype(name)]
                tensors[name] = torch.empty(shape, dtype=dtype, device="cuda")
        torch.cuda.synchronize()

        def run():
            # shapes and addresses are the context's, which another shape may have had meanwhile
            for name in inputs:
                context.set_input_shape(name, dims[name])
            for name, tensor in tensors.items():
                context.set_tensor_address(name, tensor.data_ptr())
            if not context.execute_async_v3(self.stream.cuda_stream):
                raise RuntimeError("the run was refused")
            self.stream.synchronize()

        return run

    def memory(self):
        return self.card.more()

    def close(self, model, mode):
        if mode == "cold" and getattr(self, "cache", None) is not None:
            self.caches[model] = bytes(memoryview(self.cache.serialize()))
        self.context = self.engine = self.config = self.cache = None
        self.torch.cuda.empty_cache()


if __name__ == "__main__":
    peer.main(TensorRtRtx)
