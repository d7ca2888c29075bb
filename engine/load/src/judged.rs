//! A judge at work: what it is shown of each request, and where those bytes are. Knows no schedule and no channel.

use std::sync::Arc;

use spinel_core::mem::{Region, Segment};
use spinel_core::{Lba, Op, OpKind, Request, Status, Tag};

use crate::judge::{Case, Judge, UNTOUCHED};

/// A judge, and the requests in flight that it has seen begin.
pub(crate) struct Judged {
    judge: Box<dyn Judge>,
    memory: Arc<Region>,
    /// By tag.
    cases: Box<[Case]>,
    /// As many bytes as a cell has: regions lend none.
    bytes: Box<[u8]>,
}

impl Judged {
    /// For requests of so many tags, each with a cell like this one.
    pub(crate) fn new(judge: Box<dyn Judge>, memory: Arc<Region>, depth: u16, cell: Segment) -> Self {
        let none = Case { tag: Tag(0), op: Op::Flush, start: Lba(0), blocks: 0 };
        Self { judge, memory, cases: vec![none; depth.into()].into(), bytes: vec![0; cell.len_bytes() as usize].into() }
    }

    /// A request is about to be submitted: says what it writes, or covers what it reads into.
    pub(crate) fn begin(&mut self, request: &Request<'_>) {
        let Request { tag, op, start, blocks, segments, .. } = *request;
        let case = Case { tag, op, start, blocks };
        self.cases[tag.index()] = case;
        let segment = segments.first();
        let bytes = &mut self.bytes[..segment.map_or(0, |segment| segment.len_bytes() as usize)];
        if op.kind() == OpKind::Write {
            self.judge.begin(case, bytes);
        } else {
            bytes.fill(UNTOUCHED);
            self.judge.begin(case, &mut []);
        }
        if let Some(segment) = segment {
            self.memory.write(segment.offset(), bytes).expect("a cell of this memory");
        }
    }

    /// A request has ended; reads went to the start of `cell`.
    pub(crate) fn end(&mut self, tag: Tag, status: Status, cell: &Segment, bytes: u32) {
        let case = self.cases[tag.index()];
        let read = case.op == Op::Read && status == Status::Ok;
        let bytes = &mut self.bytes[..if read { bytes as usize } else { 0 }];
        if read {
            self.memory.read(cell.offset(), bytes).expect("a cell of this memory");
        }
        self.judge.end(case, status, bytes);
    }

    /// The load is over: gives the judge back.
    pub(crate) fn close(mut self) -> Box<dyn Judge> {
        self.judge.close();
        self.judge
    }
}
