//! `bespoke cache learned`: what sessions found out and wrote down beside the kernels.
//!
//! Two kinds of documents: the shapes that a model's sessions ran, and the tiles that were timed on a device. Both are
//! read as sessions read them, so that what is shown is what the next session knows.

use bespoke::cache::Cache;
use bespoke::runtime::{DeviceTiles, ModelShapes, Second, learned_shapes, learned_tiles};
use serde::Serialize;

use crate::console::{Console, micros};
use crate::failure::Failure;

/// Shapes of a model that are shown; the document has them all.
const SHOWN: usize = 8;

#[derive(Serialize)]
struct LearnedDocument {
    schema_version: u32,
    models: Vec<ModelShapes>,
    devices: Vec<DeviceTiles>,
}

/// Runs `learned`.
pub(super) fn learned(cache: Option<&Cache>, console: &mut Console) -> Result<u8, Failure> {
    let document = LearnedDocument {
        schema_version: 1,
        models: cache.map(learned_shapes).unwrap_or_default(),
        devices: cache.map(learned_tiles).unwrap_or_default(),
    };
    if document.models.is_empty() && document.devices.is_empty() {
        console.line("nothing was learned yet")?;
    }
    for model in &document.models {
        console.line(format_args!(
            "model {}: {} shapes",
            model.model.get(..12).unwrap_or(&model.model),
            model.shapes.len()
        ))?;
        for shape in model.shapes.iter().take(SHOWN) {
            let dims: Vec<String> = shape.dims.iter().map(ToString::to_string).collect();
            let dims = match dims.is_empty() {
                true => "the only shape".to_owned(),
                false => dims.join("x"),
            };
            let second = match &shape.second {
                None => String::new(),
                Some(Second::Serves) => ", with a second tier".to_owned(),
                Some(Second::SameKernels(version)) => {
                    format!(", no second tier, by version {version}")
                }
            };
            console.line(format_args!("  {dims}: {} runs{second}", shape.runs))?;
        }
        match model.shapes.len().saturating_sub(SHOWN) {
            0 => {}
            more => console.line(format_args!("  and {more} more"))?,
        }
    }
    for device in &document.devices {
        let others = device.tiles.values().filter(|t| t.tile != t.model).count();
        console.line(format_args!(
            "device {} ({}): tiles of {} kinds of steps timed, {others} are not the cost model's",
            device.device,
            device.arch,
            device.tiles.len()
        ))?;
        for known in device.tiles.values() {
            let time = |us: f64| micros(us.round() as u64);
            let instead = match known.tile == known.model {
                true => format!("as the model says, the fastest of {}", known.timed),
                false => format!("instead of {} in {}", known.model, time(known.model_us)),
            };
            console.line(format_args!("  {}", known.step))?;
            console.line(format_args!(
                "    {} in {}, {instead}",
                known.tile,
                time(known.us)
            ))?;
        }
    }
    if console.json {
        console.document(&document)?;
    }
    Ok(0)
}
