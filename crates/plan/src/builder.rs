//! Collects expressions, buffers and steps into a [`Plan`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bespoke_device::SlotKind;
use bespoke_ir::sym::SymProgram;
use bespoke_ir::{Constant, DType, Graph, SymInt, TensorType};
use bespoke_templates::{Arithmetic, Template};

use crate::access::Access;
use crate::lower::PlanError;
use crate::{
    Arg, Buffer, BufferId, ExprId, Place, Plan, Port, PortSlots, Step, first_slot, group, order,
};

/// When a step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// Once, at load.
    Setup,
    /// In every run.
    Run,
}

/// A step's arguments by name, in the making.
#[derive(Debug, Default)]
pub(crate) struct Args(BTreeMap<String, Named>);

#[derive(Debug)]
enum Named {
    Buffer(BufferId),
    Int(SymInt),
}

impl Args {
    /// An integer.
    pub(crate) fn int(&mut self, name: impl Into<String>, value: &SymInt) -> &mut Self {
        self.0.insert(name.into(), Named::Int(value.clone()));
        self
    }

    /// `name0, name1, …`.
    pub(crate) fn ints(&mut self, name: &str, values: &[SymInt]) -> &mut Self {
        for (i, v) in values.iter().enumerate() {
            self.int(format!("{name}{i}"), v);
        }
        self
    }

    /// A tensor without view.
    pub(crate) fn tensor(&mut self, name: &str, buffer: BufferId) -> &mut Self {
        self.0.insert(name.into(), Named::Buffer(buffer));
        self
    }

    /// A tensor with offset and strides, as `bespoke_templates::view` names them.
    pub(crate) fn view(&mut self, name: &str, access: &Access) -> &mut Self {
        self.strided(name, access.buffer, &access.offset, &access.strides)
    }

    /// As [`Args::view`], with other strides.
    pub(crate) fn strided(
        &mut self,
        name: &str,
        buffer: BufferId,
        offset: &SymInt,
        strides: &[SymInt],
    ) -> &mut Self {
        self.tensor(name, buffer);
        self.int(format!("{name}_o"), offset);
        for (i, s) in strides.iter().enumerate() {
            self.int(format!("{name}_s{i}"), s);
        }
        self
    }
}

#[derive(Clone, Debug)]
enum ProtoPlace {
    Input(usize),
    Output(usize),
    Constant(Arc<Constant>),
    Persistent,
    Arena,
}

#[derive(Debug)]
struct ProtoBuffer {
    place: ProtoPlace,
    dtype: DType,
    bytes: ExprId,
    name: String,
}

#[derive(Debug, Default)]
pub(crate) struct Builder {
    exprs: Vec<SymInt>,
    known: HashMap<SymInt, ExprId>,
    buffers: Vec<ProtoBuffer>,
    setup: Vec<Step>,
    steps: Vec<Step>,
}

impl Builder {
    pub(crate) fn expr(&mut self, value: &SymInt) -> ExprId {
        if let Some(&id) = self.known.get(value) {
            return id;
        }
        let id = ExprId(self.exprs.len() as u32);
        self.exprs.push(value.clone());
        self.known.insert(value.clone(), id);
        id
    }

    fn buffer(&mut self, place: ProtoPlace, ty: &TensorType, name: &str) -> BufferId {
        let size = ty.dtype.size().unwrap_or(1) as i64;
        let bytes = self.expr(&(ty.elements() * SymInt::constant(size)));
        self.buffers.push(ProtoBuffer {
            place,
            dtype: ty.dtype,
            bytes,
            name: name.to_owned(),
        });
        BufferId(self.buffers.len() as u32 - 1)
    }

    pub(crate) fn input(&mut self, index: usize, ty: &TensorType, name: &str) -> BufferId {
        self.buffer(ProtoPlace::Input(index), ty, name)
    }

    pub(crate) fn output(&mut self, index: usize, ty: &TensorType, name: &str) -> BufferId {
        self.buffer(ProtoPlace::Output(index), ty, name)
    }

    pub(crate) fn constant(&mut self, constant: &Arc<Constant>, name: &str) -> BufferId {
        self.buffer(ProtoPlace::Constant(constant.clone()), &constant.ty(), name)
    }

    pub(crate) fn temporary(&mut self, phase: Phase, ty: &TensorType, name: &str) -> BufferId {
        let place = match phase {
            Phase::Setup => ProtoPlace::Persistent,
            Phase::Run => ProtoPlace::Arena,
        };
        self.buffer(place, ty, name)
    }

    /// Appends a step; its arguments must be exactly what the template asks for.
    pub(crate) fn step(
        &mut self,
        phase: Phase,
        name: &str,
        template: Arc<dyn Template>,
        mut args: Args,
        is_copy: bool,
    ) -> Result<(), PlanError> {
        let mut list = Vec::new();
        for param in template.params() {
            if let SlotKind::Map(of) = param.kind {
                list.push(Arg::Map(of));
                continue;
            }
            let missing = || PlanError::Internal {
                node: name.to_owned(),
                reason: format!(
                    "template `{}` has no argument `{}`",
                    template.name(),
                    param.name
                ),
            };
            let arg = match (args.0.remove(&param.name).ok_or_else(missing)?, &param.kind) {
                (Named::Buffer(b), SlotKind::Read) => Arg::Read(b),
                (Named::Buffer(b), SlotKind::Write) => Arg::Write(b),
                (Named::Int(v), SlotKind::Int) => Arg::Int(self.expr(&v)),
                _ => return Err(missing()),
            };
            list.push(arg);
        }
        if let Some(extra) = args.0.keys().next() {
            return Err(PlanError::Internal {
                node: name.to_owned(),
                reason: format!("template `{}` takes no argument `{extra}`", template.name()),
            });
        }
        let steps = match phase {
            Phase::Setup => &mut self.setup,
            Phase::Run => &mut self.steps,
        };
        let end = steps.last().map_or(0, |s| s.first_slot + s.slots);
        steps.push(Step {
            name: name.to_owned(),
            template,
            first_slot: first_slot(end, &list),
            slots: list.iter().map(Arg::slots).sum(),
            args: list,
            is_copy,
        });
        Ok(())
    }

    /// The finished plan. Buffers that no step or port uses are dropped.
    pub(crate) fn finish(
        mut self,
        graph: &Graph,
        arithmetic: Arithmetic,
        inputs: &[BufferId],
        outputs: &[BufferId],
    ) -> Plan {
        let mut port = |value, buffer: &BufferId| {
            let ty: TensorType = graph.ty(value).clone();
            let dims = ty.dims.iter().map(|d| self.expr(d)).collect();
            Port {
                name: graph.value(value).name.clone(),
                ty,
                dims,
                buffer: *buffer,
            }
        };
        let inputs: Vec<Port> = graph
            .inputs()
            .iter()
            .zip(inputs)
            .map(|(&v, b)| port(v, b))
            .collect();
        let outputs: Vec<Port> = graph
            .outputs()
            .iter()
            .zip(outputs)
            .map(|(&v, b)| port(v, b))
            .collect();
        let buffers = self
            .buffers
            .into_iter()
            .map(|b| Buffer {
                place: match b.place {
                    ProtoPlace::Input(i) => Place::Input(i),
                    ProtoPlace::Output(i) => Place::Output(i),
                    ProtoPlace::Constant(c) => Place::Constant(c),
                    ProtoPlace::Persistent => Place::Persistent,
                    ProtoPlace::Arena => Place::Arena { first: 0, last: 0 },
                },
                dtype: b.dtype,
                bytes: b.bytes,
                name: b.name,
            })
            .collect();
        let mut plan = Plan {
            arithmetic,
            name: graph.name.clone(),
            symbols: graph.symbols.clone(),
            program: SymProgram::compile(&self.exprs),
            exprs: self.exprs,
            guards: graph.guards.clone(),
            buffers,
            setup: self.setup,
            steps: self.steps,
            edges: Vec::new(),
            arena: Vec::new(),
            port_slots: PortSlots::default(),
            inputs,
            outputs,
        };
        group::join(&mut plan);
        set_lives(&mut plan);
        plan.port_slots = PortSlots::of(&plan);
        order::arrange(&mut plan);
        plan
    }
}

/// From which step to which each temporary lives.
fn set_lives(plan: &mut Plan) {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; plan.buffers.len()];
    for (i, step) in plan.steps.iter().enumerate() {
        for arg in &step.args {
            if let Arg::Read(b) | Arg::Write(b) = arg {
                let life = lives[b.0 as usize].get_or_insert((i, i));
                life.1 = i;
            }
        }
    }
    for (buffer, life) in plan.buffers.iter_mut().zip(lives) {
        if let (Place::Arena { first, last }, Some(life)) = (&mut buffer.place, life) {
            (*first, *last) = life;
        }
    }
}
