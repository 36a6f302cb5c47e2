//! A run of a flow: the [`Machine`] whose tensors are on the device and whose segments are sessions.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bespoke_device::{DevicePtr, Stream};
use bespoke_ir::DType;
use bespoke_ir::flow::Machine;

use super::Segments;
use super::pool::Buffer;
use crate::border::Source;
use crate::error::Error;
use crate::event::EventKind;
use crate::patience::Patience;
use crate::request::{GraphUse, RunOptions, RunReport};
use crate::shared::Core;
use crate::tensor::{Tensor, TensorView, byte_length};

/// A tensor of a run, with what keeps it alive.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub(super) view: TensorView,
    _memory: Option<Arc<Buffer>>,
    /// The bytes, where they came from the host.
    host: Option<Arc<Vec<u8>>>,
}

impl Value {
    /// A tensor of the caller.
    pub(super) fn of(view: TensorView) -> Value {
        Value {
            view,
            _memory: None,
            host: None,
        }
    }
}

/// A run under way.
pub(super) struct Run<'a> {
    pub(super) segments: &'a Segments,
    pub(super) core: &'a Core,
    /// For what is moved between segments; `None` once it is given back.
    pub(super) stream: Option<Box<dyn Stream>>,
    pub(super) options: &'a RunOptions,
    pub(super) patience: Patience<'a>,
    pub(super) start: Instant,
    /// Whether the stream holds work that the next segment must wait for.
    pub(super) queued: bool,
    pub(super) report: RunReport,
}

impl Run<'_> {
    fn stream(&self) -> Result<&dyn Stream, Error> {
        self.stream.as_deref().ok_or(Error::Stopped)
    }

    /// Room for a tensor.
    fn room(&self, dtype: DType, dims: &[i64]) -> Result<Value, Error> {
        let bytes = byte_length(dtype, dims)?;
        let buffer = self.segments.pool.take(bytes);
        let buffer = buffer.map_err(|e| Error::from(e).with_memory(&self.core.ledger))?;
        Ok(Value {
            view: TensorView {
                pointer: buffer.ptr(),
                dtype,
                dims: dims.to_vec(),
                strides: None,
                capacity: bytes,
            },
            _memory: Some(buffer),
            host: None,
        })
    }

    pub(super) fn upload(&mut self, tensor: &Tensor) -> Result<Value, Error> {
        let mut value = self.room(tensor.dtype(), tensor.dims())?;
        if !tensor.bytes().is_empty() {
            self.stream()?.write(value.view.pointer, tensor.bytes())?;
            self.queued = true;
        }
        // small integers may decide an extent, and are not read back for that
        if tensor.dtype().is_int() && tensor.bytes().len() <= SMALL {
            value.host = Some(Arc::new(tensor.bytes().to_vec()));
        }
        Ok(value)
    }

    /// The bytes of a tensor, on the host.
    pub(super) fn bytes(&mut self, value: &Value) -> Result<Vec<u8>, Error> {
        if let Some(bytes) = &value.host {
            return Ok(bytes.to_vec());
        }
        let mut bytes = vec![0; byte_length(value.view.dtype, &value.view.dims)? as usize];
        if !bytes.is_empty() {
            self.stream()?.read(&mut bytes, value.view.pointer)?;
        }
        Ok(bytes)
    }

    pub(super) fn copy(&mut self, to: DevicePtr, from: &TensorView) -> Result<(), Error> {
        let bytes = byte_length(from.dtype, &from.dims)?;
        if bytes > 0 {
            self.stream()?.copy(to, from.pointer, bytes)?;
            self.queued = true;
        }
        Ok(())
    }

    /// Waits for what was moved.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.queued) {
            self.stream()?.synchronize()?;
        }
        Ok(())
    }

    /// Adds what a segment's run was like.
    fn add(&mut self, part: &RunReport) {
        let report = &mut self.report;
        report.segments += 1;
        report.generic_kernels += part.generic_kernels;
        report.specialized_kernels += part.specialized_kernels;
        report.bind_us += part.bind_us;
        report.record_us += part.record_us;
        report.new_shape |= part.new_shape;
        report.tier = report.tier.min(part.tier);
        if part.graph == GraphUse::Recorded {
            report.graph = GraphUse::Recorded;
        }
        if part.graph == GraphUse::Recorded || report.graph == GraphUse::Replayed {
            report.graph_reason = part.graph_reason;
        }
    }

    /// Ends the run: everything is done when it returns, whatever was asked for.
    pub(super) fn finish(
        &mut self,
        sources: &[Source<'_>],
        options: &RunOptions,
    ) -> Result<RunReport, Error> {
        if let Some(caller) = options.stream {
            self.stream()?.precede(caller)?;
        }
        self.stream()?.synchronize()?;
        if self.report.segments == 0 {
            self.report.tier = 0;
        }
        self.report.latency_us = self.start.elapsed().as_micros() as u64;
        let dims = sources.iter().map(|source| source.dims().to_vec());
        let report = &self.report;
        let log = &self.core.log;
        log.push(EventKind::Run {
            run: report.run,
            shape: report.shape.clone(),
            generic: report.generic_kernels,
            specialized: report.specialized_kernels,
            graph: report.graph,
            latency_us: report.latency_us,
            bind_us: report.bind_us,
            record_us: report.record_us,
            block_written: false,
            new_shape: report.new_shape,
            graph_reason: report.graph_reason,
            dims: dims.collect(),
            lane: 0,
            begin_us: log.micros_at(self.start),
            wait_us: 0,
            tier: report.tier,
        });
        Ok(report.clone())
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take() {
            // buffers go back to the pool after this; an error was reported by whatever came before
            let _ = stream.synchronize();
            let streams = self.segments.streams.lock();
            streams.unwrap_or_else(PoisonError::into_inner).push(stream);
        }
    }
}

/// Integers of at most so many bytes are kept on the host as well.
const SMALL: usize = 1024;

impl Machine for Run<'_> {
    type Value = Value;
    type Error = Error;

    fn dims(&self, value: &Value) -> Vec<i64> {
        value.view.dims.clone()
    }

    fn segment(
        &mut self,
        index: usize,
        symbols: &[i64],
        inputs: &[Value],
    ) -> Result<Vec<Value>, Error> {
        let flow = &self.segments.flow;
        let mut outputs = Vec::with_capacity(flow.segments[index].outputs.len());
        for &id in &flow.segments[index].outputs {
            let ty = &flow.tensor(id).ty;
            let dims: Result<Vec<i64>, _> = ty.dims.iter().map(|d| d.eval(symbols)).collect();
            let dims = dims.map_err(|e| bespoke_plan::BindError::Arithmetic(e.to_string()))?;
            outputs.push(self.room(ty.dtype, &dims)?);
        }
        self.settle()?;
        let views = |list: &[Value]| list.iter().map(|v| v.view.clone()).collect::<Vec<_>>();
        let options = RunOptions {
            asynchronous: false,
            stream: None,
            cancel: self.options.cancel.clone(),
            deadline: self.options.deadline,
        };
        let part = &self.segments.parts[index];
        let report = part.run_segment(symbols, &views(inputs), &views(&outputs), &options)?;
        self.add(&report);
        Ok(outputs)
    }

    fn read(&mut self, value: &Value) -> Result<Vec<i64>, Error> {
        let (dtype, bytes) = (value.view.dtype, self.bytes(value)?);
        let size = dtype.size().unwrap_or(1).max(1);
        Ok(bytes
            .chunks_exact(size)
            .map(|b| integer(dtype, b))
            .collect())
    }

    fn scalar(&mut self, value: i64) -> Result<Value, Error> {
        let tensor = Tensor::from_i64(&[], &[value])?;
        let number = self.upload(&tensor)?;
        self.settle()?;
        Ok(number)
    }

    fn stack(&mut self, dtype: DType, dims: &[i64], parts: Vec<Value>) -> Result<Value, Error> {
        let mut all = vec![parts.len() as i64];
        all.extend(dims);
        let stacked = self.room(dtype, &all)?;
        let step = byte_length(dtype, dims)?;
        for (i, part) in parts.iter().enumerate() {
            let to = DevicePtr(stacked.view.pointer.0 + i as u64 * step);
            self.copy(to, &part.view)?;
        }
        // the parts go back to the pool, and something else may be written there
        self.settle()?;
        Ok(stacked)
    }

    fn check(&mut self) -> Result<(), Error> {
        self.patience.check("its next branch or iteration")
    }
}

/// An element of an integer or boolean type.
fn integer(dtype: DType, bytes: &[u8]) -> i64 {
    let mut wide = [0u8; 8];
    wide[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
    let raw = u64::from_le_bytes(wide);
    match dtype {
        DType::Bool => i64::from(raw != 0),
        dtype if dtype.is_signed_int() => {
            let shift = 64 - dtype.bits();
            ((raw << shift) as i64) >> shift
        }
        _ => raw as i64,
    }
}
