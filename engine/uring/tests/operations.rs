//! Every operation against a real file. Knows the device by its contract alone.

mod common;

use common::{open, pattern, rig, scratch};
use spinel_core::{Device, Op, Status};

const KIB: usize = 1024;

#[test]
fn what_was_written_is_read_back_and_lies_where_it_belongs() {
    for block_bytes in [512, 4096] {
        let scratch = scratch(256 * KIB);
        let device = open(&scratch, block_bytes);
        let mut rig = rig(&device, 8);
        let memory = rig.region(64 * 1024);
        let data = pattern(2, 16 * KIB);
        memory.write(0, &data).unwrap();
        let blocks = 16 * 1024 / block_bytes;
        let out = memory.segment(0, 16 * 1024).unwrap();
        assert_eq!(rig.run(Op::Write { fua: false }, 3, blocks, &[out]), Status::Ok);
        let into = memory.segment(32 * 1024, 16 * 1024).unwrap();
        assert_eq!(rig.run(Op::Read, 3, blocks, &[into]), Status::Ok);
        let mut got = vec![0; 16 * KIB];
        memory.read(32 * 1024, &mut got).unwrap();
        assert_eq!(got, data);
        assert_eq!(rig.run(Op::Flush, 0, 0, &[]), Status::Ok);
        let mut expected = pattern(1, 256 * KIB);
        expected[3 * block_bytes as usize..][..16 * KIB].copy_from_slice(&data);
        assert_eq!(scratch.bytes(), expected);
        assert_eq!(device.geometry().len_bytes(), 256 * 1024);
    }
}
