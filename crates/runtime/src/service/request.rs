//! Requests: a kernel on its way to a cubin.
//!
//! A request knows its key, for which its source was assembled and hashed, and forgets the source: most requests are
//! answered by a kernel that is there already, and thousands of sources of tens of kilobytes would be held for nothing. Who
//! compiles assembles it again.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bespoke_cache::{Key, KeyBuilder, Preimage};
use bespoke_device::{Arch, DeviceProps};
use bespoke_jit::CompileRequest;
use bespoke_templates::{Baked, KernelSpec};

/// Changes whenever the way in which a cubin is called changes.
const ABI: &str = "slots-1";

/// A kernel on its way to a cubin. Clones share everything.
#[derive(Clone, Debug)]
pub struct Request(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    spec: KernelSpec,
    props: DeviceProps,
    arch: Arch,
    source_bytes: usize,
    preimage: Preimage,
    key: Key,
}

impl Request {
    /// The request for a specification on a device of this kind.
    pub fn new(spec: &KernelSpec, props: &DeviceProps, arch: Arch) -> Request {
        let source = spec.source(props);
        let text = spec.to_string();
        let options = compile_request("", &source, "", None).canonical_options();
        let baked = spec.baked.iter().map(|(name, baked)| match baked {
            Baked::Exact(value) => format!("{name}={value}"),
            Baked::Multiple(value) => format!("{name}%{value}"),
        });
        let builder = KeyBuilder::kernel(&source, &options, &arch.to_string(), ABI)
            .spec(&text)
            .part("template", spec.template.name())
            .part("description", &spec.template.describe())
            .part("tile", &spec.tile.to_string())
            .part("baked", &baked.collect::<Vec<_>>().join(" "));
        let key = builder.key();
        Request(Arc::new(Inner {
            name: text,
            spec: spec.clone(),
            props: props.clone(),
            arch,
            source_bytes: source.len(),
            preimage: builder.finish(),
            key,
        }))
    }

    /// The key in the cache.
    pub fn key(&self) -> Key {
        self.0.key
    }

    /// The kernel's specification as text.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The architecture that it is compiled for.
    pub(super) fn arch(&self) -> Arch {
        self.0.arch
    }

    /// What the key was computed from.
    pub(super) fn preimage(&self) -> &Preimage {
        &self.0.preimage
    }

    /// The name of the template that it is an instance of.
    pub(super) fn template(&self) -> &'static str {
        self.0.spec.template.name()
    }

    /// Length of the CUDA source.
    pub(super) fn source_bytes(&self) -> usize {
        self.0.source_bytes
    }

    /// The CUDA source, assembled now.
    pub(super) fn source(&self) -> String {
        self.0.spec.source(&self.0.props)
    }
}

pub(super) fn compile_request<'a>(
    name: &'a str,
    source: &'a str,
    arch: &'a str,
    cancel: Option<&'a AtomicBool>,
) -> CompileRequest<'a> {
    CompileRequest {
        name,
        source,
        arch,
        options: &[],
        cancel,
    }
}
