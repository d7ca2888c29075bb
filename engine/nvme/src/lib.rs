//! NVMe command, completion, register and page structures: typed, checked, without a transport.
#![forbid(unsafe_code)]
