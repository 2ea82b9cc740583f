//! Where the WAL ends.

use crate::pg::session::wal_end;

#[test]
fn the_end_of_the_wal_is_not_behind_a_page_header() {
    const SEGMENT: u64 = 16 * 1024 * 1024;
    let check = |next, end| assert_eq!(wal_end(next, SEGMENT), end, "{next:#x}");
    check(0x55DF_A018, 0x55DF_A000);
    check(0x55DF_A028, 0x55DF_A028);
    check(0x5500_0028, 0x5500_0000);
    check(0x55DF_A100, 0x55DF_A100);
}
