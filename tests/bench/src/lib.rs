//! A driver library as plain pointers, for programs that measure or drive one.
pub mod driver;
