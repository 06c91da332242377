//! Integration tests of the whole: one binary, driven from outside.
