//! The numbers of `metrics.jsonl` once more as TensorBoard event files, in `tb/`.
//!
//! An event file is a row of records: length (u64), masked CRC-32C of the length, bytes, masked CRC-32C of the bytes. The
//! bytes are a protocol-buffer `Event`: 1 wall_time (f64), 2 step (varint), then one of 3 file_version (string),
//! 5 summary { 1 value { 1 tag, 2 simple_value (f32) } }, 7 session_log { 1 status }. Source: TensorFlow's
//! `record_writer.h`, `event.proto` and `summary.proto`. Each attempt has a file of its own; its session log makes
//! TensorBoard forget what an earlier attempt wrote from that step on.

use super::appender::Appender;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::fs::File;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// `SessionLog.START`.
const START: u64 = 1;

pub struct Board {
    events: Appender,
}

impl Board {
    /// Begins DIR/tb/events.out.tfevents.SECONDS.attempt-N.
    pub fn create(dir: &Path, attempt: u64) -> Result<Board> {
        let folder = dir.join("tb");
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder, "create"))?;
        let path = folder.join(format!("events.out.tfevents.{:.0}.attempt-{attempt}", now()));
        let file = File::create(&path).map_err(Error::io(&path, "create"))?;
        let mut board = Board { events: Appender::new(&path, file) };
        board.event(0, |e| e.bytes(3, b"brain.Event:2"));
        Ok(board)
    }

    /// Nothing that an earlier attempt wrote for `step` or later counts any more.
    pub fn begin(&mut self, step: u64) {
        self.event(step, |e| {
            let mut log = Message::default();
            log.varint(1, START);
            e.bytes(7, &log.0);
        });
    }

    /// The numbers of a row, nested ones as `a/b`, under `kind` unless that is a step.
    pub fn row(&mut self, kind: &str, step: u64, fields: &Value) {
        let prefix = match (kind, fields["corpus"].as_str()) {
            ("step", _) => String::new(),
            ("eval", Some(corpus)) => format!("eval/{corpus}/"),
            _ => return,
        };
        let Value::Object(fields) = fields else { return };
        let mut summary = Message::default();
        add(&mut summary, &prefix, fields);
        self.event(step, |e| e.bytes(5, &summary.0));
    }

    fn event(&mut self, step: u64, what: impl FnOnce(&mut Message)) {
        let mut event = Message::default();
        event.f64(1, now());
        event.varint(2, step);
        what(&mut event);
        let length = (event.0.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(event.0.len() + 16);
        record.extend(length);
        record.extend(masked_crc(&length));
        record.extend(&event.0);
        record.extend(masked_crc(&event.0));
        self.events.append(&record);
    }
}

fn add(summary: &mut Message, prefix: &str, fields: &Map<String, Value>) {
    for (key, value) in fields {
        let tag = format!("{prefix}{key}");
        match value {
            Value::Object(inner) => add(summary, &format!("{tag}/"), inner),
            Value::Number(number) => {
                let mut one = Message::default();
                one.bytes(1, tag.as_bytes());
                one.f32(2, number.as_f64().unwrap_or(f64::NAN) as f32);
                summary.bytes(1, &one.0);
            }
            _ => {}
        }
    }
}

fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    let crc = crc32c::crc32c(bytes);
    crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A protocol-buffer message, field after field.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }
    fn varint(&mut self, field: u64, n: u64) {
        self.raw_varint(field << 3);
        self.raw_varint(n);
    }
    fn f64(&mut self, field: u64, x: f64) {
        self.raw_varint(field << 3 | 1);
        self.0.extend(x.to_le_bytes());
    }
    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.raw_varint(field << 3 | 2);
        self.raw_varint(bytes.len() as u64);
        self.0.extend(bytes);
    }
    fn f32(&mut self, field: u64, x: f32) {
        self.raw_varint(field << 3 | 5);
        self.0.extend(x.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The records of a file by their lengths and checksums.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut records = vec![];
        while !bytes.is_empty() {
            let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
            assert_eq!(bytes[8..12], masked_crc(&bytes[..8]));
            let (record, rest) = bytes[12..].split_at(length);
            assert_eq!(rest[..4], masked_crc(record));
            records.push(record.to_vec());
            bytes = &rest[4..];
        }
        records
    }

    #[test]
    fn the_checksum_is_that_of_tensorflow() {
        // The first eight bytes of every event file that begins with "brain.Event:2" and a wall time, and their
        // checksum as TensorFlow writes it: length 24.
        assert_eq!(masked_crc(&24u64.to_le_bytes()), [0xa3, 0x7f, 0x4b, 0x22]);
    }

    #[test]
    fn rows_become_scalars_under_their_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut board = Board::create(folder.path(), 3).expect("created");
        board.begin(7);
        let fields = json!({ "loss": 2.5, "name": "no number", "comm_bytes": { "dp": 300 } });
        board.row("step", 300, &fields);
        board.row("eval", 300, &json!({ "corpus": "web", "nll_token": 1.5 }));
        board.row("checkpoint", 300, &json!({ "bytes": 9 }));
        let records = records(&std::fs::read(board.events.path()).expect("read"));
        assert_eq!(records.len(), 4);
        // After the wall time (tag and eight bytes): the step, then the payload.
        assert_eq!(&records[0][9..], b"\x10\x00\x1a\x0dbrain.Event:2");
        assert_eq!(&records[1][9..], b"\x10\x07\x3a\x02\x08\x01");
        let value = |tag: &[u8], x: f32| {
            let mut one = vec![10, tag.len() as u8];
            one.extend(tag);
            one.push(21);
            one.extend(x.to_le_bytes());
            [&[10, one.len() as u8], one.as_slice()].concat()
        };
        let summary = [value(b"loss", 2.5), value(b"comm_bytes/dp", 300.0)].concat();
        assert_eq!(&records[2][9..], [b"\x10\xac\x02\x2a", &[summary.len() as u8][..], &summary].concat());
        let summary = value(b"eval/web/nll_token", 1.5);
        assert_eq!(&records[3][9..], [b"\x10\xac\x02\x2a", &[summary.len() as u8][..], &summary].concat());
    }
}
