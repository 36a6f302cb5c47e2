//! The committed protobuf code is what the vendored `onnx.proto` generates.

use std::path::Path;

/// Generates the code into memory, by way of a temporary folder, as prost-build only writes files.
fn generate(proto: &Path) -> String {
    let include = proto.parent().expect("the file lies in a folder");
    let descriptors = protox::compile([proto], [include]).expect("the vendored file compiles");
    let out = tempfile::tempdir().expect("a temporary folder");
    prost_build::Config::new()
        .bytes([".onnx.TensorProto.raw_data"])
        .boxed(".onnx.AttributeProto.t")
        .boxed(".onnx.AttributeProto.g")
        .boxed(".onnx.AttributeProto.sparse_tensor")
        .boxed(".onnx.AttributeProto.tp")
        .disable_comments(["."])
        .out_dir(out.path())
        .compile_fds(descriptors)
        .expect("code generation");
    std::fs::read_to_string(out.path().join("onnx.rs")).expect("the generated file")
}

#[test]
fn generated_code_matches_the_vendored_proto() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fresh = generate(&root.join("proto/onnx.proto"));
    let committed = root.join("src/proto/onnx.rs");
    if std::env::var_os("BESPOKE_REGENERATE").is_some() {
        std::fs::write(&committed, &fresh).expect("writing the generated file");
    }
    let old = std::fs::read_to_string(&committed).expect("the committed file");
    assert!(
        old == fresh,
        "src/proto/onnx.rs is out of date; run this test with BESPOKE_REGENERATE=1"
    );
}
