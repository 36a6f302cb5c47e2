//! Shape traces: which shapes came, in which order and when.
//!
//! A trace is a file of JSON lines. The first line is the [`Header`]; each further line is an [`Entry`], one request. The
//! [`Recorder`] writes one from a session's events, [`generate`] makes one up, and whoever replays one reads it with
//! [`Trace::parse`]. `docs/guide/trace.md` describes the format for people.
//!
//! - `record`: from events to a trace.
//! - [`generate`]: the generators. `random`: their numbers, which are the same on every machine.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub mod generate;
mod random;
mod record;

pub use record::Recorder;

/// Version of the format.
pub const VERSION: u32 = 1;

/// What the first field of a trace says.
const MAGIC: &str = "shapes";

/// What is wrong with a trace, or with what one is to be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TraceError {
    /// The file is no trace.
    #[error("the first line is no header of a shape trace: {0}")]
    Header(String),
    /// The file is a trace of another time.
    #[error("the trace has version {found}, this bespoke reads {VERSION}; make it again")]
    Version {
        /// The version it says it has.
        found: u32,
    },
    /// A line is no request.
    #[error("line {line}: {reason}")]
    Line {
        /// Its number in the file, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The lines are not those that the header was written for.
    #[error(
        "the requests are not those that the header's blake3 was taken of: the trace was changed or cut off; \
         make it again, or remove that field"
    )]
    Digest,
    /// A generator cannot work with what it was given.
    #[error("{0}")]
    Generator(String),
}

/// Where a trace comes from. Fields that are not known are ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// `shapes`.
    pub trace: String,
    /// Version of the format.
    pub v: u32,
    /// `recorded`, or the name of a generator.
    pub source: String,
    /// Version of the generator: another one may make another trace of the same seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_version: Option<u32>,
    /// Seed of the generator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// What else the generator was given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub params: BTreeMap<String, Value>,
    /// BLAKE3 of all bytes after the header's line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

impl Header {
    /// The header of a trace whose lines are yet to come.
    pub fn recorded() -> Header {
        Header {
            trace: MAGIC.into(),
            v: VERSION,
            source: "recorded".into(),
            source_version: None,
            seed: None,
            params: BTreeMap::new(),
            blake3: None,
        }
    }
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the order of requests.
    pub seq: u64,
    /// When it came, in microseconds on the trace's own clock.
    pub at_us: u64,
    /// Extents of the inputs.
    pub dims: BTreeMap<String, Vec<i64>>,
}

impl Entry {
    /// The line of the file, with its end.
    ///
    /// # Errors
    ///
    /// None that these types can have.
    pub fn line(&self) -> Result<String, serde_json::Error> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}

/// A whole trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Where it comes from.
    pub header: Header,
    /// The requests, by rising `seq`.
    pub entries: Vec<Entry>,
}

impl Trace {
    /// Reads a trace. Lines may come in any order of `seq`, as runs that overlap are recorded.
    ///
    /// # Errors
    ///
    /// A header or a line that cannot be read, an extent below 0, a number that occurs twice, and lines that are not those
    /// that the header's digest was taken of.
    pub fn parse(text: &str) -> Result<Trace, TraceError> {
        let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
        let header: Header =
            serde_json::from_str(first).map_err(|e| TraceError::Header(e.to_string()))?;
        if header.trace != MAGIC {
            let reason = format!("`trace` is `{}`, not `{MAGIC}`", header.trace);
            return Err(TraceError::Header(reason));
        }
        if header.v != VERSION {
            return Err(TraceError::Version { found: header.v });
        }
        if header.blake3.as_ref().is_some_and(|d| *d != digest(rest)) {
            return Err(TraceError::Digest);
        }
        let mut entries: BTreeMap<u64, Entry> = BTreeMap::new();
        for (index, text) in rest.lines().enumerate() {
            let line = index + 2;
            if text.trim().is_empty() {
                continue;
            }
            let wrong = |reason: String| TraceError::Line { line, reason };
            let entry: Entry = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
            if let Some(extent) = entry.dims.values().flatten().find(|&&d| d < 0) {
                return Err(wrong(format!("the extent {extent} is below 0")));
            }
            let seq = entry.seq;
            if entries.insert(seq, entry).is_some() {
                return Err(wrong(format!("`seq` {seq} occurs twice")));
            }
        }
        Ok(Trace {
            header,
            entries: entries.into_values().collect(),
        })
    }

    /// The file's text. The digest of the header is made anew.
    ///
    /// # Errors
    ///
    /// None that these types can have.
    pub fn text(&self) -> Result<String, serde_json::Error> {
        let lines = self.entries.iter().map(Entry::line);
        let body: String = lines.collect::<Result<_, _>>()?;
        let header = Header {
            blake3: Some(digest(&body)),
            ..self.header.clone()
        };
        Ok(format!("{}\n{body}", serde_json::to_string(&header)?))
    }
}

fn digest(body: &str) -> String {
    blake3::hash(body.as_bytes()).to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"trace":"shapes","v":1,"source":"recorded","later":"ignored"}"#;

    fn parse(lines: &[&str]) -> Result<Trace, TraceError> {
        Trace::parse(&format!("{HEADER}\n{}", lines.join("\n")))
    }

    #[test]
    fn requests_are_ordered_by_number() {
        let trace = parse(&[
            r#"{"seq":4,"at_us":20,"dims":{"x":[2,4]}}"#,
            "",
            r#"{"seq":1,"at_us":10,"dims":{"x":[1,4],"s":[]}}"#,
        ])
        .unwrap();
        let seqs: Vec<u64> = trace.entries.iter().map(|e| e.seq).collect();
        assert_eq!(seqs, [1, 4]);
        assert_eq!(trace.entries[0].dims["x"], [1, 4]);
        assert_eq!(Trace::parse(HEADER).unwrap().entries, []);
    }

    #[test]
    fn what_is_written_is_read_again_and_a_change_is_seen() {
        let trace = parse(&[r#"{"seq":0,"at_us":0,"dims":{"x":[1,4]}}"#]).unwrap();
        let text = trace.text().unwrap();
        let again = Trace::parse(&text).unwrap();
        assert_eq!(again.entries, trace.entries);
        assert_eq!(again.text().unwrap(), text);
        let changed = text.replace("[1,4]", "[1,5]");
        assert_eq!(Trace::parse(&changed), Err(TraceError::Digest));
    }

    #[test]
    fn what_is_no_trace_is_refused_with_its_line() {
        let line = |lines: &[&str]| parse(lines).unwrap_err().to_string();
        let good = r#"{"seq":0,"at_us":0,"dims":{"x":[1,4]}}"#;
        assert!(line(&[good, "{"]).starts_with("line 3: "));
        assert!(line(&[good, good]).contains("`seq` 0 occurs twice"));
        let negative = r#"{"seq":0,"at_us":0,"dims":{"x":[-1]}}"#;
        assert_eq!(line(&[negative]), "line 2: the extent -1 is below 0");
        for text in ["", "{}", "[1]", good] {
            assert!(
                matches!(Trace::parse(text), Err(TraceError::Header(_))),
                "{text}"
            );
        }
        let other = HEADER.replace("shapes", "sounds");
        assert!(matches!(Trace::parse(&other), Err(TraceError::Header(_))));
        let new = HEADER.replace("\"v\":1", "\"v\":2");
        assert_eq!(Trace::parse(&new), Err(TraceError::Version { found: 2 }));
    }
}
