//! What ranks tell each other: the head of a collective, which says what a rank called and carries few values, and the
//! messages of the control link.
//!
//! Head, little endian: group u64, sequence u64, len u64, root u32, kind u8, reduce u8, dtype u8, bytes of `what` u8,
//! `what` (64 bytes). Control: kind u32, sender u32, run u64, number u32, text to the end.

use crate::comm::call::Call;
use crate::comm::{Kind, Reduce};
use crate::device::DType;

pub const HEAD: usize = 96;
/// Bytes of `what` that are told and compared.
const WHAT: usize = 64;
/// Largest part, in bytes, that a rank sends to another within the head: head and part go out at once, where a
/// transfer of its own costs a second latency.
pub const SMALL: usize = 3072;
const DTYPES: [DType; 3] = [DType::F32, DType::Bf16, DType::F64];
const REDUCES: [Reduce; 2] = [Reduce::Sum, Reduce::Max];

/// The beginning of a name that heads carry.
pub fn cut(what: &str) -> &str {
    &what[..what.floor_char_boundary(WHAT)]
}

pub fn write_head(group: u64, sequence: u64, call: &Call, to: &mut [u8]) {
    to[..HEAD].fill(0);
    to[..8].copy_from_slice(&group.to_le_bytes());
    to[8..16].copy_from_slice(&sequence.to_le_bytes());
    to[16..24].copy_from_slice(&(call.len as u64).to_le_bytes());
    to[24..28].copy_from_slice(&(call.root as u32).to_le_bytes());
    let place = |found: Option<usize>| found.expect("every value has a place") as u8;
    to[28] = call.kind as u8;
    to[29] = place(REDUCES.iter().position(|r| *r == call.reduce));
    to[30] = place(DTYPES.iter().position(|d| *d == call.dtype));
    let what = cut(&call.what);
    to[31] = what.len() as u8;
    to[32..32 + what.len()].copy_from_slice(what.as_bytes());
}

/// The call, if this is the head of that collective.
pub fn read_head(group: u64, sequence: u64, from: &[u8]) -> Option<Call> {
    let number = |i: usize| u64::from_le_bytes(from[i..i + 8].try_into().expect("eight bytes"));
    if number(0) != group || number(8) != sequence {
        return None;
    }
    let what = from.get(32..32 + from[31] as usize)?;
    Some(Call {
        kind: *Kind::ALL.get(from[28] as usize)?,
        reduce: *REDUCES.get(from[29] as usize)?,
        root: u32::from_le_bytes(from[24..28].try_into().expect("four bytes")) as usize,
        dtype: *DTYPES.get(from[30] as usize)?,
        len: number(16) as usize,
        what: std::str::from_utf8(what).ok()?.into(),
    })
}

/// Bytes of a control message.
pub const CONTROL: usize = 1024;

#[derive(Clone, Debug, PartialEq)]
pub enum Control {
    /// A rank failed, which makes all end with this exit code unless it says another.
    Lost { rank: usize, code: i32, problem: String },
    /// The sender's part of a run returned.
    Done { run: u64 },
    /// The sender's program ends, with this exit code and error.
    End { code: i32, text: String },
}

impl Control {
    pub fn write(&self, from: usize) -> Box<[u8]> {
        let (kind, run, number, text) = match self {
            Control::Lost { rank, code, problem } => (1u32, *code as u64, *rank as u32, problem.as_str()),
            Control::Done { run } => (2, *run, 0, ""),
            Control::End { code, text } => (3, 0, *code as u32, text.as_str()),
        };
        let mut bytes = Vec::with_capacity(CONTROL);
        bytes.extend(kind.to_le_bytes());
        bytes.extend((from as u32).to_le_bytes());
        bytes.extend(run.to_le_bytes());
        bytes.extend(number.to_le_bytes());
        bytes.extend(&text.as_bytes()[..text.floor_char_boundary(CONTROL - bytes.len())]);
        bytes.resize(CONTROL, 0);
        bytes.into()
    }
    /// The sender and what it said.
    pub fn read(bytes: &[u8]) -> Option<(usize, Control)> {
        let number = |i: usize| u32::from_le_bytes(bytes[i..i + 4].try_into().expect("four bytes"));
        let run = u64::from_le_bytes(bytes[8..16].try_into().expect("eight bytes"));
        let text = String::from_utf8_lossy(&bytes[20..]).trim_end_matches('\0').to_string();
        let message = match number(0) {
            1 => Control::Lost { rank: number(16) as usize, code: run as i32, problem: text },
            2 => Control::Done { run },
            3 => Control::End { code: number(16) as i32, text },
            _ => return None,
        };
        Some((number(4) as usize, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_comes_back_as_it_was_with_its_name_cut_between_letters() {
        let what = "ä".repeat(40);
        let call = Call {
            kind: Kind::Broadcast,
            reduce: Reduce::Max,
            root: 70_000,
            dtype: DType::Bf16,
            len: 1 << 40,
            what: what.as_str().into(),
        };
        let mut bytes = [7; HEAD];
        write_head(3, 9, &call, &mut bytes);
        let got = read_head(3, 9, &bytes).expect("it was just written");
        assert!(got == Call { what: "ä".repeat(32).as_str().into(), ..call.clone() });
        assert!(read_head(3, 8, &bytes).is_none() && read_head(2, 9, &bytes).is_none());
        bytes[28] = 99;
        assert!(read_head(3, 9, &bytes).is_none());
    }

    #[test]
    fn control_messages_come_back_as_they_were() {
        let lost = Control::Lost { rank: 5, code: 75, problem: "disk full".into() };
        let end = Control::End { code: 75, text: "x".repeat(5000) };
        for message in [lost, Control::Done { run: 1 << 50 }] {
            assert_eq!(Control::read(&message.write(3)), Some((3, message)));
        }
        let got = Control::read(&end.write(0));
        let Some((0, Control::End { code: 75, text })) = got else { panic!("{got:?}") };
        assert_eq!(text.len(), CONTROL - 20);
    }
}
